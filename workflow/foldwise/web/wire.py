"""Arrays as they travel between the session and its page: flat, the first axis fastest, little-endian."""

from __future__ import annotations

import gzip

import numpy as np

# A change of a voxel: index and new value.
INDEX, VALUE = np.dtype("<u4"), np.dtype("<u2")
CHANGE = INDEX.itemsize + VALUE.itemsize


def volume_bytes(array: np.ndarray) -> bytes:
    """The values of (x, y, z), x fastest."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes(order="F")


def packed(data: bytes) -> bytes:
    """Gzip, as fast as it goes: labels are mostly background."""
    return gzip.compress(data, 1, mtime=0)


def changes_bytes(indices: np.ndarray, values: np.ndarray, shape: tuple[int, int, int]) -> bytes:
    """Changed voxels as the page's indices, followed by their values.

    Args:
        indices: flat indices of (x, y, z) in C order.
        values: new object numbers.
        shape: of the grid.
    """
    places = np.ravel_multi_index(np.unravel_index(indices, shape), shape, order="F")
    return places.astype(INDEX).tobytes() + values.astype(VALUE).tobytes()


def read_changes(data: bytes, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `changes_bytes`.

    Raises:
        ValueError: not whole voxels, or some outside the grid.
    """
    count, rest = divmod(len(data), CHANGE)
    if rest:
        raise ValueError(f"a stroke is {CHANGE} bytes for each voxel; got {len(data)} bytes")
    places = np.frombuffer(data, INDEX, count).astype(np.int64)
    if count and places.max() >= np.prod(shape):
        raise ValueError("a stroke has voxels outside the scan")
    values = np.frombuffer(data, VALUE, count, offset=count * INDEX.itemsize)
    indices = np.ravel_multi_index(np.unravel_index(places, shape, order="F"), shape)
    return indices, values.astype(np.uint16)
