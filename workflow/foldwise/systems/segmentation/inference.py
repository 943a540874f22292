"""Probabilities of whole volumes by a sliding window, on the networks' device and in little memory.

Windows are sorted along one axis. Their outputs are added up in a slab as thick as a window, which moves
along this axis; what it leaves behind is complete, and becomes probabilities and labels at once. So the
outputs of many classes are never there for a whole volume. MONAI's inferers keep them all, in float32.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from monai.data.utils import compute_importance_map, dense_patch_slices
from torch import nn

from foldwise.hdf5 import refuse_not_finite
from foldwise.progress import advanced
from foldwise.systems.segmentation.held import CHUNK
from foldwise.training.learner import precision_of
from foldwise.volumes.cache import lineage_of, open_case
from foldwise.volumes.geometry import Int3, Lineage, int3
from foldwise.volumes.patches import normalise, scaling
from foldwise.volumes.probabilities import decode, quantise
from foldwise.volumes.targets import label_type

if TYPE_CHECKING:
    from foldwise.systems.segmentation.learner import SegmentationLearner

Slices = tuple[slice, ...]
Made = TypeVar("Made")

CPU = torch.device("cpu")
# The sum of several networks' probabilities is kept as whole numbers up to this.
SUM = 2**16 - 1


@dataclass(frozen=True)
class Scan:
    """A case as the networks see it, in main memory.

    Attributes:
        case: its name.
        image: (channels, x, y, z), normalised.
        fill: (channels, 1, 1, 1): values beyond its border.
        lineage: of its grid.
    """

    case: str
    image: torch.Tensor
    fill: torch.Tensor
    lineage: Lineage


@dataclass(frozen=True)
class Found:
    """What the networks found in a case.

    Attributes:
        probability: (names, x, y, z) from 0 to 255 without background; uint8, of several networks uint16.
        label: (x, y, z), class numbers.
    """

    probability: np.ndarray
    label: np.ndarray


def read_scan(learner: SegmentationLearner, path: str) -> Scan:
    """Read and normalise a case."""
    with open_case(path) as file:
        scales = scaling(file, learner.model.intensity)
        image = normalise(torch.from_numpy(file["image"][()]), scales)
        fill = normalise(torch.from_numpy(file.attrs["fill"])[:, None, None, None], scales)
        return Scan(str(file.attrs["case"]), image, fill, lineage_of(file))


class Inference:
    """The sliding window of a model.

    Attributes:
        learner: of the model.
    """

    def __init__(self, learner: SegmentationLearner) -> None:
        """Nothing is allocated yet."""
        self.learner = learner
        # Bytes for which the device's memory did not suffice.
        self._refused = math.inf

    @torch.no_grad()
    def found(self, networks: Sequence[nn.Module], scan: Scan) -> Found:
        """Mean probabilities over the networks, in 255 steps, and the labels that follow from them.

        Raises:
            CaseError: a probability is not finite.
        """
        targets, shape = self.learner.targets, scan.image.shape[1:]
        several, together = len(networks) > 1, not targets.regions
        scale = SUM // len(networks)
        # In whole numbers the sum takes half as much memory; the mean is exact to 1/100 of a step.
        probability = np.zeros((len(targets.names), *shape), np.uint16 if several else np.uint8)
        label = np.zeros(shape, label_type(len(targets.classes)))

        def add(place: torch.device) -> None:
            probability[...] = 0  # if a first try was broken off
            for number, network in enumerate(networks, start=1):
                for where, share in self.shares(network, scan, place, self._kind(place)):
                    if not math.isfinite(share.sum()):
                        refuse_not_finite(scan.case, share.cpu().numpy())
                    part = probability[:, *where]
                    if several:
                        share.mul_(scale)
                        if number < len(networks):
                            part += share.round_().int().cpu().numpy().astype(np.uint16)
                            continue
                        share.add_(torch.from_numpy(part.astype(np.float32)).to(place)).div_(
                            scale * len(networks)
                        )
                    steps = quantise(share.mul_(255), together)
                    label[where] = decode(steps, targets).cpu().numpy()
                    part[...] = steps.cpu().numpy()

        self._placed(networks[0], scan, add, self._kind(device_of(networks[0])))
        return Found(probability, label)

    @torch.no_grad()
    def labels(self, network: nn.Module, scan: Scan) -> np.ndarray:
        """Class numbers (x, y, z) by one network's probabilities, which are not rounded before.

        Sums are in full precision on any device, so that a validation depends little on its free memory.
        """
        targets = self.learner.targets
        label = np.zeros(scan.image.shape[1:], label_type(len(targets.classes)))

        def fill(place: torch.device) -> None:
            for where, share in self.shares(network, scan, place):
                label[where] = decode(share.mul_(255), targets).cpu().numpy()

        self._placed(network, scan, fill, torch.float32)
        return label

    def shares(
        self, network: nn.Module, scan: Scan, place: torch.device, kind: torch.dtype = torch.float32
    ) -> Iterator[tuple[Slices, torch.Tensor]]:
        """Probabilities (names, x, y, z) float32 of one part of the volume after another.

        Args:
            network: put into evaluation mode.
            scan: the case.
            place: the device on which outputs are added up.
            kind: the type in which they are added up.

        Yields:
            The part's place in the volume, and a tensor, which the caller may change.
        """
        whole, inside = self._padded(scan, place)
        regions = bool(self.learner.targets.regions)
        for axis, first, sums, weights in self._slabs(network.eval(), whole, place, kind):
            planes = max(1, CHUNK // (sums.numel() // sums.shape[1 + axis]))
            begin, end = inside[axis].start - first, inside[axis].stop - first
            for low in range(max(0, begin), min(end, sums.shape[1 + axis]), planes):
                count = min(planes, min(end, sums.shape[1 + axis]) - low)
                across = [*inside]
                across[axis] = slice(low, low + count)
                logits = sums[:, *across].float().div_(weights[:, *across])
                share = logits.sigmoid_() if regions else logits.softmax(0)[1:]
                where = [slice(0, part.stop - part.start) for part in inside]
                where[axis] = slice(low - begin, low - begin + count)
                yield tuple(where), share

    def _slabs(
        self, network: nn.Module, whole: torch.Tensor, place: torch.device, kind: torch.dtype
    ) -> Iterator[tuple[int, int, torch.Tensor, torch.Tensor]]:
        """Weighted sums of outputs, and of weights, of one complete slab after another.

        Yields:
            The axis across slabs; the slab's first plane; sums (outputs, x, y, z) and weights (1, x, y, z),
            which are overwritten afterwards.
        """
        own, size = device_of(network), self._outer(whole.shape[1:])
        axis, windows = self._windows(size)
        weight = self._weight.to(place)
        depth = list(size)
        depth[axis] = self._window[axis]
        sums = torch.zeros(self.learner.outputs, *depth, dtype=kind, device=place)
        weights = torch.zeros(1, *depth, device=place)
        first = 0
        batch = self.learner.model.inference.batch
        for begin in range(0, len(windows), batch):
            some = windows[begin : begin + batch]
            advanced("windows of this case", begin, len(windows))
            with self.learner.autocast(own):
                outputs = self.outputs(network, torch.stack([self._cut(whole, w) for w in some]).to(own))
            for window, output in zip(some, outputs, strict=True):
                if (step := window[axis].start - first) > 0:
                    yield axis, first, sums.narrow(1 + axis, 0, step), weights.narrow(1 + axis, 0, step)
                    _advance(sums, 1 + axis, step)
                    _advance(weights, 1 + axis, step)
                    first += step
                within = [*window]
                within[axis] = slice(0, self._window[axis])
                sums[:, *within] += (output.to(place).float() * weight).reshape(-1, *self._window)
                weights[:, *within] += weight.reshape(-1, *self._window)
        yield axis, first, sums, weights

    def outputs(self, network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Outputs (batch, outputs, …) for windows, of their size; the mean over mirror images if set."""
        found = heads(network(batch), batch.ndim)[0]
        if self.learner.model.inference.mirror:
            axes = range(2, batch.ndim)
            counts = range(1, 1 + len(axes))
            turns = [turn for count in counts for turn in itertools.combinations(axes, count)]
            found = found.float().clone()
            for turn in turns:
                found += heads(network(batch.flip(turn)), batch.ndim)[0].flip(turn)
            found /= 1 + len(turns)
        if found.shape[2:] != batch.shape[2:]:
            found = F.interpolate(found, batch.shape[2:], mode="trilinear" if batch.ndim == 5 else "bilinear")
        return found

    # Where things are.

    def _windows(self, size: Int3) -> tuple[int, list[Slices]]:
        """The axis along which the slab moves, and all windows, sorted along it."""
        overlap = self.learner.model.inference.overlap
        steps = [
            w if w == n else max(1, int(w * (1 - overlap))) for w, n in zip(self._window, size, strict=True)
        ]
        axis = self.learner.axis if self.learner.flat else int(np.argmax(np.divide(size, self._window)))
        windows = dense_patch_slices(size, self._window, steps)
        return axis, sorted(windows, key=lambda window: window[axis].start)

    @cached_property
    def _window(self) -> Int3:
        """A window's shape in the volume of outputs."""
        patch = list(self.learner.patch)
        if self.learner.flat:
            patch[self.learner.axis] = 1
        return int3(patch)

    @cached_property
    def _weight(self) -> torch.Tensor:
        """Weights of a window's voxels, of the shape of the network's outputs."""
        size, mode = self.learner.size, self.learner.model.inference.weighting
        found: torch.Tensor = compute_importance_map(size, mode=mode, sigma_scale=0.125, dtype=torch.float32)
        return found

    def _outer(self, size: Sequence[int]) -> Int3:
        """The shape of the outputs of a padded volume."""
        outer = list(size)
        if self.learner.flat:
            outer[self.learner.axis] -= self.learner.patch[self.learner.axis] - 1
        return int3(outer)

    def _cut(self, whole: torch.Tensor, window: Slices) -> torch.Tensor:
        """The network's input for a window."""
        if not self.learner.flat:
            return whole[:, *window]
        axis, part = self.learner.axis, [*window]
        part[axis] = slice(window[axis].start, window[axis].start + self.learner.patch[axis])
        return self.learner.flattened(whole[:, *part][None])[0]

    def _padded(self, scan: Scan, place: torch.device) -> tuple[torch.Tensor, Slices]:
        """A volume centred in one at least as large as the patch, and its place in the outputs.

        Along the axis that becomes channels, half a patch is added on both sides, and is absent from the
        outputs.
        """
        image, patch = scan.image.to(place), self.learner.patch
        size, smallest = np.array(image.shape[1:]), np.array(patch)
        before = np.maximum(0, (smallest - size) // 2)
        after = np.maximum(0, smallest - size - before)
        if self.learner.flat:
            before[self.learner.axis] = after[self.learner.axis] = patch[self.learner.axis] // 2
        there = tuple(slice(int(b), int(b + n)) for b, n in zip(before, size, strict=True))
        inside = [*there]
        if self.learner.flat:
            inside[self.learner.axis] = slice(0, int(size[self.learner.axis]))
        if not (before.any() or after.any()):
            return image, tuple(inside)
        whole = scan.fill.to(place).expand(-1, *(int(n) for n in size + before + after)).clone()
        whole[:, *there] = image
        return whole, tuple(inside)

    # The device.

    def _placed(
        self, network: nn.Module, scan: Scan, work: Callable[[torch.device], None], kind: torch.dtype
    ) -> None:
        """Add outputs up on the network's device if they fit, or else, or if they did not, on the CPU."""
        own = device_of(network)
        if own != CPU and (need := self.need(scan, kind)) < min(free_bytes(own) / 2, self._refused):
            try:
                work(own)
                return
            except torch.cuda.OutOfMemoryError as error:
                reason = str(error).partition("\n")[0]
            self._refused = need
            logging.warning(
                "case %s: the GPU's memory did not suffice for its outputs (%s); the CPU adds them up",
                *(scan.case, reason),
            )
            empty_cache()
        work(CPU)

    def need(self, scan: Scan, kind: torch.dtype) -> int:
        """Bytes that a case takes on the device, apart from the network and its passes."""
        learner = self.learner
        size = [max(n, p) for n, p in zip(scan.image.shape[1:], self._window, strict=True)]
        axis, _ = self._windows(int3(size))
        slab = math.prod(size) // size[axis] * self._window[axis]
        parts = min(CHUNK, learner.outputs * slab) * 4 * 4
        held = slab * (learner.outputs * kind.itemsize + 4)
        return 4 * len(scan.image) * math.prod(size) + held + parts

    def _kind(self, place: torch.device) -> torch.dtype:
        """Half precision on a GPU whose networks use it, too."""
        full = precision_of(self.learner.model.training.amp, gpu=True) == "32-true"
        return torch.float32 if place.type != "cuda" or full else torch.float16


def device_of(network: nn.Module) -> torch.device:
    """Where a network is."""
    return next(network.parameters()).device


def free_bytes(device: torch.device) -> int:
    """Memory of a GPU that this process can still use."""
    free: int = torch.cuda.mem_get_info(device)[0]
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def empty_cache() -> None:
    """Return memory that is kept for later to the GPU's driver."""
    torch.cuda.empty_cache()


def heads(output: torch.Tensor | Sequence[torch.Tensor], ndim: int) -> list[torch.Tensor]:
    """Outputs of a network, finest first; deep supervision returns a list, or an axis after the batch."""
    if not isinstance(output, torch.Tensor):
        return list(output)
    return list(output.unbind(1)) if output.ndim == ndim + 1 else [output]


def _advance(slab: torch.Tensor, axis: int, step: int) -> None:
    """Move a slab by some planes: those at its beginning are dropped, those at its end are 0."""
    rest = slab.shape[axis] - step
    # In parts that do not overlap, since a second slab may not fit.
    for begin in range(0, rest, step):
        count = min(step, rest - begin)
        slab.narrow(axis, begin, count).copy_(slab.narrow(axis, begin + step, count))
    slab.narrow(axis, max(0, rest), min(step, slab.shape[axis])).zero_()
