"""Training patches drawn from cached cases: the n-th item is a pure function of (seed, n)."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Sequence

import h5py
import numpy as np
import torch

from foldwise.files import CaseError
from foldwise.volumes.cache import open_case
from foldwise.volumes.geometry import Int3, int3
from foldwise.volumes.settings import Intensity, Sampling

# Files kept open by a worker; a thousand would exhaust its file descriptors.
MAX_OPEN = 64


class Patches:
    """Items addressed by an integer; every process opens the files itself, read-only.

    An item is a dict: image (channels, x, y, z) in its stored type, label (x, y, z), spacing (3) in mm,
    and scaling (channels, 5) as returned by `scaling`.
    """

    def __init__(
        self,
        caches: Sequence[str],
        patch: Int3,
        sampling: Sampling,
        intensity: Sequence[Intensity],
        seed: Sequence[int],
    ) -> None:
        """Store the arguments; no file is opened yet."""
        self.caches = tuple(caches)
        self.patch = patch
        self.sampling = sampling
        self.intensity = intensity
        self.seed = tuple(seed)
        self._open: OrderedDict[str, h5py.File] = OrderedDict()

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """Draw item `number`."""
        # Every pass over the cases has its own order, so that all cases are drawn equally often.
        turn, place = divmod(number, len(self.caches))
        order = np.random.default_rng([*self.seed, 0, turn]).permutation(len(self.caches))
        random = np.random.default_rng([*self.seed, 1, number])
        file = self._file(self.caches[order[place]])
        centre = draw_centre(file, self.sampling, random)
        corner = place_patch(centre, self.patch, file["label"].shape, self.sampling.overhang)
        image = read_patch(file["image"], corner, self.patch, file.attrs["fill"])
        label = read_patch(file["label"], corner, self.patch, 0)
        return {
            "image": torch.from_numpy(image),
            "label": torch.from_numpy(label),
            "spacing": torch.from_numpy(np.asarray(file.attrs["spacing"], np.float32)),
            "scaling": scaling(file, self.intensity),
        }

    def __getstate__(self) -> dict[str, object]:
        """Open files stay in the process that opened them."""
        return {**self.__dict__, "_open": OrderedDict()}

    def _file(self, path: str) -> h5py.File:
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        if len(self._open) >= MAX_OPEN:
            self._open.popitem(last=False)[1].close()
        self._open[path] = open_case(path)
        return self._open[path]


def draw_centre(file: h5py.File, sampling: Sampling, random: np.random.Generator) -> Int3:
    """Draw a patch centre by the mixture of samplers; any voxel of the case that counts can be the centre.

    The samplers by label and by centre fall back to a uniform draw in a case without foreground.

    Raises:
        CaseError: an earlier version wrote the cache, without centres of lesions.
    """
    shape = file["image"].shape[1:]
    choice = random.random()
    centre: np.ndarray | None = None
    if choice < sampling.label:
        centre = _labelled_voxel(file, sampling, random)
    elif choice < sampling.label + sampling.centre:
        centre = _labelled_voxel(file, sampling, random, "centre")
    elif choice < sampling.label + sampling.centre + sampling.weighted:
        centre = _weighted_voxel(file, random)
    if centre is None and len(counted := file.get("counted", ())):
        centre = counted[random.integers(len(counted))]
    if centre is None:
        centre = random.integers(shape)
    return int(centre[0]), int(centre[1]), int(centre[2])


def _labelled_voxel(
    file: h5py.File, sampling: Sampling, random: np.random.Generator, listed: str = "foreground"
) -> np.ndarray | None:
    """One of the voxels listed for a drawn class: any of it, or the centres of its lesions."""
    if listed not in file:
        raise CaseError(f"{file.filename}: has no centres of lesions; delete it and run again")
    names = [str(name) for name in file.attrs["classes"]]
    present = [name for name in names if len(file[listed][name])]
    weights = np.array([sampling.label_weights.get(name, 1.0) for name in present])
    background = sampling.label_weights.get("background", 0.0)
    total = weights.sum() + background
    if not total or random.random() < background / total or not weights.sum():
        return None
    voxels = file[listed][present[random.choice(len(present), p=weights / weights.sum())]]
    return voxels[random.integers(len(voxels))]


def _weighted_voxel(file: h5py.File, random: np.random.Generator) -> np.ndarray | None:
    if "weight" not in file:
        return None
    sums = file["weight_sum"][()]
    if not sums.sum():
        return None
    # First a chunk in proportion to its sum, then a voxel in it: exact, and reads only one chunk.
    chunk = np.unravel_index(random.choice(sums.size, p=sums.ravel() / sums.sum()), sums.shape)
    size = np.array(file["weight"].chunks)
    start = np.array(chunk) * size
    x, y, z = (slice(s, s + n) for s, n in zip(start, size, strict=True))
    weight = file["weight"][x, y, z].astype(np.float64)
    voxel = random.choice(weight.size, p=weight.ravel() / weight.sum())
    return start + np.array(np.unravel_index(voxel, weight.shape))


def place_patch(centre: Int3, patch: Int3, shape: Int3, overhang: float) -> Int3:
    """First voxel of a patch around a centre; it may be negative along some axes.

    Along an axis on which the volume is no larger than the patch, the volume is centred in it. Along the
    others the patch extends beyond the border by at most `overhang` of its size.
    """
    size, whole = np.array(patch), np.array(shape)
    allowed = (overhang * size).astype(int)
    begin = np.clip(np.array(centre) - size // 2, -allowed, whole - size + allowed)
    begin = np.where(whole <= size, -((size - whole) // 2), begin)
    return int3(begin)


def read_patch(dataset: h5py.Dataset, corner: Int3, patch: Int3, fill: np.ndarray | float) -> np.ndarray:
    """Read a patch; values outside the array are `fill`.

    Args:
        dataset: (x, y, z) or (channels, x, y, z).
        corner: its first voxel, possibly outside the array.
        patch: shape of the patch.
        fill: one value, or one per channel.
    """
    begin = np.array(corner)
    end = begin + patch
    size = np.array(dataset.shape[-3:])
    low, high = np.maximum(begin, 0), np.minimum(end, size)
    x, y, z = (slice(a, b) for a, b in zip(low, high, strict=True))
    inner = dataset[..., x, y, z]
    if (low == begin).all() and (high == end).all():
        return inner
    values = np.empty((*dataset.shape[:-3], *patch), dataset.dtype)
    values[...] = np.reshape(fill, (-1, 1, 1, 1)) if values.ndim == 4 else fill
    x, y, z = (slice(a, b) for a, b in zip(low - begin, high - begin, strict=True))
    values[..., x, y, z] = inner
    return values


def scaling(file: h5py.File, intensity: Sequence[Intensity]) -> torch.Tensor:
    """Normalisation of each channel: (channels, 5) of low clip, high clip, shift, factor, 1 if 0 stays 0.

    Args:
        file: a cache.
        intensity: one entry per channel, or one for all.
    """
    channels = json.loads(file.attrs["statistics"])
    wanted = list(intensity) if len(intensity) > 1 else list(intensity) * len(channels)
    rows = [_scaling(channel, one) for channel, one in zip(channels, wanted, strict=True)]
    return torch.tensor(rows, dtype=torch.float32)


def _scaling(statistics: dict[str, float], intensity: Intensity) -> tuple[float, ...]:
    low, high = -math.inf, math.inf
    if isinstance(intensity.clip, tuple):
        low, high = intensity.clip
    elif intensity.clip == "percentiles":
        low, high = statistics["percentile_0.5"], statistics["percentile_99.5"]
    if intensity.scale == "window":
        return low, high, (low + high) / 2, 2 / (high - low), 0
    if isinstance(intensity.scale, tuple):
        mean, std = intensity.scale
    else:
        over = "nonzero_" if intensity.scale == "zscore_nonzero" else ""
        mean, std = statistics.get(f"{over}mean", 0), statistics.get(f"{over}std", 1)
    return low, high, mean, 1 / max(std, 1e-6), float(intensity.scale == "zscore_nonzero")


def normalise(image: torch.Tensor, scaling: torch.Tensor) -> torch.Tensor:
    """Clip and scale grey values.

    Args:
        image: (..., channels, x, y, z), any type.
        scaling: (..., channels, 5) as returned by `scaling`.
    """
    low, high, shift, factor, keep = scaling[..., None, None, None].unbind(-4)
    scaled = image.float().clamp(low, high).sub(shift).mul(factor)
    return scaled.masked_fill_((image == 0) & (keep > 0), 0) if keep.any() else scaled
