"""Segmenting a volume with a person: hints on a slice, propagation, and where to look next."""
