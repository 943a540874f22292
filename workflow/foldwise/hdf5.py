"""HDF5 files, the format of all caches and predictions."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from foldwise.files import CaseError

# From this version of its format on, HDF5 stores a checksum with all that is not an array's values.
VERSION = "v110"


class _Reading:
    """Its arrays raise a CaseError where they are damaged."""

    def __getitem__(self, name: Any) -> Any:
        try:
            found = super().__getitem__(name)  # type: ignore[misc]
        except (KeyError, OSError, RuntimeError) as error:
            if "doesn't exist" in str(error):
                raise
            raise _damaged(self.file, str(name), error) from error  # type: ignore[attr-defined]
        if isinstance(found, h5py.Dataset):
            return _Array(found.id)
        return _Group(found.id) if isinstance(found, h5py.Group) else found


class _Group(_Reading, h5py.Group):
    pass


class _File(_Reading, h5py.File):
    pass


class _Array(h5py.Dataset):
    def __getitem__(self, *place: Any, **options: Any) -> Any:
        try:
            return super().__getitem__(*place, **options)
        except OSError as error:
            raise _damaged(self.file, self.name, error) from error

    def read_direct(self, *place: Any, **options: Any) -> None:
        try:
            super().read_direct(*place, **options)
        except OSError as error:
            raise _damaged(self.file, self.name, error) from error


def _damaged(file: h5py.File, name: str, error: Exception) -> CaseError:
    return CaseError(
        f"{file.filename}: {name} is not as it was written, or cannot be read ({error}): the file is "
        f"damaged; delete it and run again"
    )


class _New(h5py.File):
    """A new file whose arrays have a checksum per chunk, which HDF5 verifies whenever it reads the chunk."""

    def create_dataset(self, name: str | None, *args: Any, data: Any = None, **options: Any) -> Any:
        # Only chunks have one, and an empty array has no chunk.
        if "chunks" in options or (np.ndim(data) and np.size(data) and np.asarray(data).dtype.kind in "biuf"):
            options.setdefault("fletcher32", True)
        found = super().create_dataset(name, *args, data=data, **options)
        if data is not None:
            self.flush()  # else what a full disk refuses is lost without an error when the array is closed
        return found

    def __exit__(self, *error: Any) -> None:
        try:
            if error[0] is None:
                self.flush()
        except (OSError, RuntimeError):
            self._give_up()
            raise
        finally:
            if isinstance(error[1], OSError | RuntimeError):
                self._give_up()
            super().__exit__(*error)

    def _give_up(self) -> None:
        """Let the rest go to memory: HDF5 ends the process by a segmentation fault if it cannot close."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, self.id.get_vfd_handle())
        os.close(nowhere)


def open_hdf5(path: Path | str, *formats: str) -> h5py.File:
    """Open a file read-only, without HDF5's file locks (network file systems often lack them).

    Args:
        path: the file.
        formats: accepted values of its attribute `format`; without any, all are accepted.

    Raises:
        CaseError: it is missing, truncated, or has another format.
    """
    try:
        file = _File(path, "r", locking=False)
        attributes = dict(file.attrs)
    except (KeyError, OSError, RuntimeError) as error:
        raise CaseError(
            f"{path}: not a readable HDF5 file, perhaps an incomplete copy ({error}); delete it and run again"
        ) from error
    if formats and attributes.get("format") not in formats:
        file.close()
        raise CaseError(f"{path}: not from this version of Foldwise ({formats[0]}); delete it and run again")
    return file


def create_hdf5(path: Path | str) -> h5py.File:
    """Open a new file for writing, without HDF5's file locks: nobody else uses it before it is complete.

    All of it gets checksums, so that whatever is damaged later is noticed by whoever reads it.
    """
    return _New(path, "w", libver=(VERSION, VERSION), locking=False)


def edit_hdf5(path: Path | str) -> h5py.File:
    """Open a file that is complete, but has not got its name yet, for changes, without HDF5's file locks."""
    return _New(path, "r+", locking=False)


def as_json(value: Any) -> np.bytes_:
    """Plain values as an attribute: of fixed length, since HDF5 has no checksum for other strings."""
    return np.bytes_(json.dumps(value))


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
