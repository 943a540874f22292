"""Windows of consecutive frames that never cross videos or gaps, and passes over a whole video."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import h5py
import numpy as np
import torch

from foldwise.files import CaseError
from foldwise.video.gaps import starts, window_frames
from foldwise.video.store import open_frames, read

# Files that a process keeps open.
MAX_OPEN = 64
Size = tuple[int, int]


class Windows:
    """Training windows; the n-th is a pure function of (seed, n).

    Every pass over the data has each window of each video once, in a new random order; inside a window
    frames stay in order. A window has one crop and one mirroring. If there is a gap in the video (array
    `run` of the cache), the places of a window before it hold the first frame after it, and -1 in the arrays,
    so that each frame is learnt once.

    Attributes:
        total: windows of one pass: n + 1 − length for a video of n frames.
    """

    def __init__(
        self,
        caches: Sequence[str],
        length: int,
        seed: Sequence[int],
        *,
        crop: Size,
        flip: bool | None,
        arrays: Sequence[str] = (),
    ) -> None:
        """Count the windows.

        Args:
            caches: frame caches.
            length: number of frames of a window.
            seed: whole numbers.
            crop: height and width of the crop, at a random place.
            flip: mirror half of the windows left to right; None: none, and crops are central.
            arrays: per-frame arrays of the caches to include in a window.

        Raises:
            CaseError: a video is shorter than a window, or its frames are smaller than the crop.
        """
        self.caches, self.length, self.seed = list(caches), length, tuple(seed)
        self.crop, self.flip, self.arrays = crop, flip, tuple(arrays)
        counts = []
        for path in caches:
            with open_frames(path) as file:
                frames, size = int(file.attrs["frames"]), (file.attrs["height"], file.attrs["width"])
            if frames < length:
                raise CaseError(f"{path}: {frames} frame(s), a window has {length}; remove this video")
            if size[0] < crop[0] or size[1] < crop[1]:
                raise CaseError(f"{path}: frames of {size[1]}×{size[0]} are smaller than the crop {crop}")
            counts.append(frames + 1 - length)
        self.ends = np.cumsum(counts)
        self.total = int(self.ends[-1])
        self._order: tuple[int, np.ndarray] | None = None
        self._open: OrderedDict[str, h5py.File] = OrderedDict()
        self._runs: dict[str, np.ndarray] = {}

    def place(self, number: int) -> tuple[str, int]:
        """Cache and first frame of the n-th window."""
        epoch, within = divmod(number, self.total)
        if self._order is None or self._order[0] != epoch:
            random = np.random.default_rng(np.random.SeedSequence([*self.seed, 3, epoch]))
            self._order = (epoch, random.permutation(self.total))
        window = int(self._order[1][within])
        video = int(np.searchsorted(self.ends, window, side="right"))
        begun = int(self.ends[video - 1]) if video else 0
        return self.caches[video], window - begun

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """`frames` (length, height, width, 3) uint8 and the arrays (length, …)."""
        path, first = self.place(number)
        file = self._file(path)
        random = np.random.default_rng(np.random.SeedSequence([*self.seed, 1, number]))
        last = first + self.length - 1
        chosen = window_frames(self._starts(path), np.array([last]), self.length)[0]
        frames = read(file, chosen)
        free = [have - want for have, want in zip(frames.shape[1:3], self.crop, strict=True)]
        y, x = (n // 2 if self.flip is None else int(random.integers(n + 1)) for n in free)
        frames = frames[:, y : y + self.crop[0], x : x + self.crop[1]]
        if self.flip and random.random() < 0.5:
            frames = frames[:, :, ::-1]
        window = {"frames": torch.from_numpy(np.ascontiguousarray(frames))}
        for name in self.arrays:
            values = file[name][chosen[0] : last + 1]
            unknown = np.full((self.length - len(values), *values.shape[1:]), -1, values.dtype)
            window[name] = torch.from_numpy(np.concatenate([unknown, values]))
        return window

    def _starts(self, path: str) -> np.ndarray:
        """The first frame of each frame's run."""
        if path not in self._runs:
            file = self._file(path)
            count = int(file.attrs["frames"])
            self._runs[path] = starts(file["run"][()] if "run" in file else np.zeros(count, np.int32))
        return self._runs[path]

    def __getstate__(self) -> dict[str, object]:
        """Open files stay in the process that opened them."""
        return {**self.__dict__, "_open": OrderedDict()}

    def _file(self, path: str) -> h5py.File:
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        if len(self._open) >= MAX_OPEN:
            self._open.popitem(last=False)[1].close()
        self._open[path] = open_frames(path)
        return self._open[path]


def blocks(file: h5py.File, size: int, crop: Size) -> Iterator[torch.Tensor]:
    """All frames of a video in order, (up to `size`, height, width, 3) uint8 at a time, cropped centrally."""
    count = int(file.attrs["frames"])
    for first in range(0, count, size):
        yield cropped(file, np.arange(first, min(count, first + size)), crop)


def cropped(file: h5py.File, numbers: np.ndarray, crop: Size) -> torch.Tensor:
    """Frames (n, height, width, 3) uint8 of a video, cropped centrally.

    Raises:
        CaseError: they are smaller than the crop.
    """
    height, width = (int(file.attrs[name]) for name in ("height", "width"))
    y, x = (height - crop[0]) // 2, (width - crop[1]) // 2
    if min(y, x) < 0:
        raise CaseError(f"{file.filename}: frames of {width}×{height} are smaller than the crop {crop}")
    frames = read(file, numbers)[:, y : y + crop[0], x : x + crop[1]]
    return torch.from_numpy(np.ascontiguousarray(frames))
