"""The frame cache: one HDF5 file per video, read by frame number at training speed.

Layout (n frames of height × width):
    frames      (n, height, width, 3) uint8, Blosc2-LZ4HC, one frame per chunk  (encoding `raw`)
    jpeg        (bytes,) uint8: the frames' JPEG files one after another     (encoding `jpeg`)
    offsets     (n + 1,) int64: start of each, and end of the last      (encoding `jpeg`)
    number      (n,) int64: a frame's number in its source
    time_s      (n,) float64: its presentation time. s.
    …           further arrays, e.g. labels per frame
Attributes: format, case, content (hash of all of the above), recording (hash of the frames), encoding,
frames, height, width, fps, and the caller's.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol

import h5py
import hdf5plugin
import numpy as np
from PIL import Image

from foldwise.files import CaseError, atomic_path
from foldwise.hdf5 import create_hdf5, open_hdf5
from foldwise.video.decode import Frame

FORMAT = "foldwise-frames-1"
# A file with features in the place of frames.
FEATURES = "foldwise-frame-features-1"
Encoding = Literal["raw", "jpeg"]
# JPEG bytes are not compressed again; small chunks, since reading a frame reads whole chunks.
JPEG_CHUNK = 1 << 16
# Larger arrays are compressed: masks are as large as frames and mostly constant, label rows are small.
SMALL = 1 << 16
Arrays = Mapping[str, np.ndarray]


def write_frames(
    path: Path,
    case: str,
    frames: Iterable[Frame],
    *,
    encoding: Encoding = "raw",
    quality: int = 90,
    attrs: Mapping[str, Any] | None = None,
    arrays: Arrays | Callable[[np.ndarray, np.ndarray], Arrays] | None = None,
) -> int:
    """Write a stream of frames atomically; memory does not grow with their number.

    Args:
        path: the file.
        case: its name.
        frames: frames of one size.
        encoding: `raw` is exact; `jpeg` is about a tenth of its size.
        quality: JPEG quality, 1 to 100.
        attrs: further attributes; `fps` is computed from the frames' times if not given.
        arrays: further arrays by name; or a function that computes them from the frames' numbers and times,
            for values known only once the frames are.

    Returns:
        The number of frames.

    Raises:
        CaseError: no frames, or frames of two sizes.
    """
    with atomic_path(path) as temporary, create_hdf5(temporary) as file:
        writer: _Writer | None = None
        numbers: list[int] = []
        times: list[float] = []
        for frame in frames:
            if writer is None:
                shape = frame.rgb.shape
                writer = _Raw(file, shape) if encoding == "raw" else _Jpeg(file, quality)
            if frame.rgb.shape != shape:
                raise CaseError(
                    f"case {case}: frame {frame.number} is {frame.rgb.shape[1]}×{frame.rgb.shape[0]}, "
                    f"earlier ones are {shape[1]}×{shape[0]}; all frames must have the same size"
                )
            writer.add(frame.rgb)
            numbers.append(frame.number)
            times.append(frame.time_s)
        if writer is None:
            raise CaseError(f"case {case}: no frames to store")
        digest = writer.close()
        recording = digest.hexdigest()
        stored = {"number": np.array(numbers, np.int64), "time_s": np.array(times, np.float64)}
        stored |= arrays(stored["number"], stored["time_s"]) if callable(arrays) else arrays or {}
        for name in sorted(stored):
            array = np.ascontiguousarray(stored[name])
            _hash(digest, name, array)
            stored_as = {"chunks": (1, *array.shape[1:]), **_lz4()} if array[:1].nbytes > SMALL else {}
            file.create_dataset(name, data=array, **stored_as)
        span = times[-1] - times[0]
        own = {
            "format": FORMAT,
            "case": case,
            "content": digest.hexdigest(),
            "recording": recording,
            "encoding": encoding,
            "frames": len(numbers),
            "height": shape[0],
            "width": shape[1],
        }
        file.attrs.update({"fps": (len(times) - 1) / span if span > 0 else 0.0, **(attrs or {}), **own})
    return len(numbers)


def open_frames(path: Path | str) -> h5py.File:
    """Open a frame cache read-only.

    Raises:
        CaseError: the file is missing, truncated, or not a frame cache.
    """
    return open_hdf5(path, FORMAT)


def open_video(path: Path | str) -> h5py.File:
    """Open a frame cache, or a video's features with the same arrays apart from the frames.

    Raises:
        CaseError: it is neither.
    """
    return open_hdf5(path, FORMAT, FEATURES)


def read(file: h5py.File, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
    """Frames (n, height, width, 3) uint8 at the given indices of the cache, in that order, with repeats."""
    wanted = np.asarray(numbers, np.int64)
    places, inverse = np.unique(wanted, return_inverse=True)
    if len(places) and not 0 <= places[0] <= places[-1] < file.attrs["frames"]:
        raise IndexError(f"frames {places[0]} to {places[-1]} of {file.attrs['frames']}")
    shape = (len(places), int(file.attrs["height"]), int(file.attrs["width"]), 3)
    found = np.empty(shape, np.uint8)
    begun = 0
    for run in np.split(places, np.flatnonzero(np.diff(places) != 1) + 1) if len(places) else ():
        _read_run(file, int(run[0]), int(run[-1]) + 1, found[begun : begun + len(run)])
        begun += len(run)
    in_order = len(places) == len(wanted) and bool((inverse[1:] > inverse[:-1]).all())
    return found if in_order else found[inverse]


def _read_run(file: h5py.File, start: int, stop: int, out: np.ndarray) -> None:
    if "frames" in file:
        file["frames"].read_direct(out, np.s_[start:stop])
        return
    offsets = file["offsets"][start : stop + 1]
    data = file["jpeg"][offsets[0] : offsets[-1]].tobytes()
    cuts = offsets - offsets[0]
    for row, begin, end in zip(out, cuts[:-1], cuts[1:], strict=True):
        row[...] = Image.open(io.BytesIO(data[begin:end]))


class _Writer(Protocol):
    def add(self, rgb: np.ndarray) -> None: ...

    def close(self) -> Any: ...


class _Raw:
    """Exact frames. One per chunk: windows start anywhere, and chunks of four read half as fast."""

    def __init__(self, file: h5py.File, shape: tuple[int, ...]) -> None:
        self.dataset = file.create_dataset(
            "frames", (0, *shape), np.uint8, maxshape=(None, *shape), chunks=(1, *shape), **_lz4()
        )
        self.digest = hashlib.sha256(repr(shape).encode())

    def add(self, rgb: np.ndarray) -> None:
        rgb = np.ascontiguousarray(rgb, np.uint8)
        self.dataset.resize(len(self.dataset) + 1, axis=0)
        self.dataset[-1] = rgb
        self.digest.update(rgb.data)

    def close(self) -> Any:
        return self.digest


class _Jpeg:
    """JPEG files one after another, written in blocks."""

    def __init__(self, file: h5py.File, quality: int) -> None:
        self.file, self.quality = file, quality
        self.dataset = file.create_dataset("jpeg", (0,), np.uint8, maxshape=(None,), chunks=(JPEG_CHUNK,))
        self.digest = hashlib.sha256(b"jpeg")
        self.offsets = [0]
        self.waiting: list[np.ndarray] = []
        self.bytes = 0

    def add(self, rgb: np.ndarray) -> None:
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(rgb, np.uint8)).save(buffer, "JPEG", quality=self.quality)
        encoded = np.frombuffer(buffer.getvalue(), np.uint8)
        self.waiting.append(encoded)
        self.bytes += len(encoded)
        self.offsets.append(self.offsets[-1] + len(encoded))
        if self.bytes >= 16 * JPEG_CHUNK:
            self._flush()

    def close(self) -> Any:
        self._flush()
        self.file["offsets"] = np.array(self.offsets, np.int64)
        return self.digest

    def _flush(self) -> None:
        if not self.waiting:
            return
        begun, block = len(self.dataset), np.concatenate(self.waiting)
        self.dataset.resize(begun + len(block), axis=0)
        self.dataset[begun:] = block
        self.digest.update(block.data)
        self.waiting, self.bytes = [], 0


def _lz4() -> dict[str, Any]:
    filters = hdf5plugin.Blosc2.BITSHUFFLE
    return {"compression": hdf5plugin.Blosc2(cname="lz4hc", clevel=5, filters=filters)}


def _hash(digest: Any, name: str, array: np.ndarray) -> None:
    digest.update(str((name, str(array.dtype), array.shape)).encode())
    with suppress(ValueError):  # an empty array has no buffer
        digest.update(array.data)
