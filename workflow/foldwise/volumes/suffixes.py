"""Formats of volumes, by the suffixes of their files in upper or lower case; DICOM also by its content."""

from __future__ import annotations

from pathlib import Path

# Read by nibabel. A pair of .hdr and .img is one volume, named by its .hdr.
NIBABEL_SUFFIXES = (".nii.gz", ".nii", ".hdr", ".img", ".mgz", ".mgh")
# Read by SimpleITK.
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
VOLUME_SUFFIXES = tuple(suffix for suffix in (*NIBABEL_SUFFIXES, *ITK_SUFFIXES) if suffix != ".img")


def is_nifti(path: Path) -> bool:
    """Whether a file has the name of a NIfTI, or of another format that nibabel reads."""
    return path.name.lower().endswith(NIBABEL_SUFFIXES)


def is_dicom(path: Path) -> bool:
    """Whether a file begins as those of DICOM do (PS3.10, section 7.1).

    Raises:
        OSError: the file cannot be read.
    """
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def suffix_of(name: str) -> str:
    """The suffix of a volume's file as it is written in the name; empty for other files."""
    lower = name.lower()
    return next((name[-len(suffix) :] for suffix in VOLUME_SUFFIXES if lower.endswith(suffix)), "")


def stem_of(name: str) -> str:
    """The name of a volume's file without its suffix; the whole name for other files."""
    return name.removesuffix(suffix_of(name))
