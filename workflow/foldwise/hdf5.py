"""HDF5 files, as all caches and predictions are."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from foldwise.files import CaseError


def open_hdf5(path: Path | str, *formats: str) -> h5py.File:
    """Open a file read-only, without HDF5's file locks (network file systems often lack them).

    Args:
        path: the file.
        formats: what its attribute `format` may be; nothing: anything.

    Raises:
        CaseError: it is missing, cut off, or of another format.
    """
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise CaseError(
            f"{path}: not a readable HDF5 file, perhaps cut off while it was copied ({error}); delete it and "
            f"run again"
        ) from error
    if formats and file.attrs.get("format") not in formats:
        file.close()
        raise CaseError(f"{path}: not of this version of Foldwise ({formats[0]}); delete it and run again")
    return file


def create_hdf5(path: Path | str) -> h5py.File:
    """Open a new file for writing, without HDF5's file locks: nobody else uses it till it is whole."""
    return h5py.File(path, "w", locking=False)


def content_of(path: Path | str) -> str:
    """The hash of a cache's arrays, as stored with them.

    Raises:
        CaseError: no such file, or no cache.
    """
    with open_hdf5(path) as file:
        if "content" not in file.attrs:
            raise CaseError(f"{path}: not a cache of this version of Foldwise; delete it and run again")
        return str(file.attrs["content"])


def refuse_not_finite(case: str, values: np.ndarray) -> None:
    """Refuse what a network made of a case if its numbers overflowed on the way.

    Args:
        case: its name.
        values: what is about to be written, (parts, …); looked at part by part, to spare memory.

    Raises:
        CaseError: there is NaN or infinity among them.
    """
    if not all(np.isfinite(part).all() for part in values):
        raise CaseError(
            f"case {case}: the network's answer is NaN or infinite, though its weights are not; look at the "
            f"case's values, or train with training.amp: off"
        )
