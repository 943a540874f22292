"""Foldwise: medical scans and videos in, cross-validated, tested, exported models out."""

__version__ = "0.1.0"
