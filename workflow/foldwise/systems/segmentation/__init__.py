"""Segmentation of volumes: label maps of CT and MR, cross-validated."""
