"""HDF5 files, the format of all caches and predictions."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from foldwise.files import CaseError


def open_hdf5(path: Path | str, *formats: str) -> h5py.File:
    """Open a file read-only, without HDF5's file locks (network file systems often lack them).

    Args:
        path: the file.
        formats: accepted values of its attribute `format`; without any, all are accepted.

    Raises:
        CaseError: it is missing, truncated, or has another format.
    """
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise CaseError(
            f"{path}: not a readable HDF5 file, perhaps an incomplete copy ({error}); delete it and run again"
        ) from error
    if formats and file.attrs.get("format") not in formats:
        file.close()
        raise CaseError(f"{path}: not from this version of Foldwise ({formats[0]}); delete it and run again")
    return file


def create_hdf5(path: Path | str) -> h5py.File:
    """Open a new file for writing, without HDF5's file locks: nobody else uses it before it is complete."""
    return h5py.File(path, "w", locking=False)


def edit_hdf5(path: Path | str) -> h5py.File:
    """Open a file that is complete, but has not got its name yet, for changes, without HDF5's file locks."""
    return h5py.File(path, "r+", locking=False)


class Identity(NamedTuple):
    """What identifies a cache.

    Attributes:
        content: hash of all of its arrays, labels included.
        recording: hash of what was recorded, i.e. the source's voxels or the frames; "" if unknown.
    """

    content: str
    recording: str


def identity_of(path: Path | str) -> Identity:
    """The identity of a cache, as stored in the file.

    Raises:
        CaseError: no such file, or not a cache.
    """
    with open_hdf5(path) as file:
        return Identity(content_in(file), str(file.attrs.get("recording", "")))


def content_of(path: Path | str) -> str:
    """The hash of a cache's arrays, as stored in the file.

    Raises:
        CaseError: no such file, or not a cache.
    """
    with open_hdf5(path) as file:
        return content_in(file)


def content_in(file: h5py.File) -> str:
    """The same of an open file.

    Raises:
        CaseError: not a cache.
    """
    if "content" not in file.attrs:
        raise CaseError(f"{file.filename}: not a cache of this version of Foldwise; delete it and run again")
    return str(file.attrs["content"])


def refuse_not_finite(case: str, values: np.ndarray) -> None:
    """Refuse a network's output for a case if it is not finite.

    Args:
        case: its name.
        values: the values to write, (parts, …); checked part by part to save memory.

    Raises:
        CaseError: a value is NaN or infinite.
    """
    if not all(np.isfinite(part).all() for part in values):
        raise CaseError(
            f"case {case}: the network's output is NaN or infinite, though its weights are finite; check the "
            f"case's values, or train with training.amp: off"
        )
