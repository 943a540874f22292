"""Disk space of volumes in their formats, from the number of voxels: estimates, fitted to scans of 25 cases.

A mask takes a little for each voxel and more along its surface, which grows with the voxels to the power of
2/3: so those of small scans take a larger share.
"""

from __future__ import annotations

from math import sqrt

# Bytes of a voxel in the cache, by those of its type: Blosc2-LZ4HC of scans; gzip takes a seventh more.
STORED = {1: 0.6, 2: 1.05, 4: 3.2}
GZIP = 1.15
# Bytes of a voxel that lies in no mask: in a .nii.gz, in HDF5, and in a label map that scores keep.
EMPTY, EMPTY_HDF5, EMPTY_KEPT = 0.0045, 0.002, 0.0
# Bytes of a mask for each unit of its surface: of the lungs or the body, and of a lesion or an organ.
BODY, TARGET = 2.8, 0.7
# Bytes of a voxel's probability in 255 steps, and as float32 in a .nii.gz; of a network that has learnt.
PROBABILITY, FLOATS = 0.03, 0.1
# Slices of a DICOM-SEG in which a class is present, at one bit a voxel.
PRESENT = 0.2
# An HDF5 file's header, attributes and record; and the small files of a crop.
FILE, FOLDER = 14e3, 4e3


def mask_bytes(voxels: float, detail: float = TARGET, empty: float = EMPTY) -> float:
    """Bytes of a mask or label map.

    Args:
        voxels: of its grid.
        detail: bytes for each unit of its surface.
        empty: bytes of a voxel in no mask.
    """
    return empty * voxels + detail * voxels ** (2 / 3)


def detail_of(classes: int) -> float:
    """The detail of a label map: the more classes, the more borders, but many of them are shared."""
    return TARGET * sqrt(classes)
