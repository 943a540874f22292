"""Entries of the label-path index: the same as of segmentation, since the prepared volumes are."""

from foldwise.systems.segmentation.index import make_entries

__all__ = ["make_entries"]
