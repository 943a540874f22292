"""Segmentation of volumes by patches and a sliding window, in two or three dimensions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import default_collate

from foldwise.files import CaseError
from foldwise.networks import build, ramp, try_loss
from foldwise.overlap import Unwritten
from foldwise.systems.segmentation.inference import Inference, Scan, heads, read_scan
from foldwise.systems.segmentation.losses import Counted, named_losses, truth_for
from foldwise.systems.segmentation.settings import Model
from foldwise.training.learner import Staged, by
from foldwise.training.steps import Items
from foldwise.volumes.augment import augment
from foldwise.volumes.cache import check_labels, open_case
from foldwise.volumes.geometry import Int3, int3
from foldwise.volumes.patches import Patches, normalise
from foldwise.volumes.predictions import write_steps
from foldwise.volumes.targets import Targets
from foldwise.volumes.volume import Volume, write_volume

# In-plane sizes of a slab are multiples of this, divisible by the total stride of all usual networks.
SLAB_MULTIPLE = 32
# Edge of the outputs used to try losses.
SMALL = 16


class SegmentationLearner(Staged[Model]):
    """Label maps: soft-max over background and classes, or a sigmoid per overlapping region."""

    def __init__(self, model: Model, task: Mapping[str, Any]) -> None:
        """Take the settings and what is learnt: `targets`, and the images' `channels`."""
        super().__init__(model, task)
        self.targets = targets = Targets.from_dict(task["targets"])
        channels = task["channels"]
        self.axis = "xyz".index(model.slice_axis)
        self.flat = model.dimensions in ("2d", "2.5d")
        self.patch = patch_of(model)
        if len(model.intensity) not in (1, channels):
            raise CaseError(f"intensity has {len(model.intensity)} entries for {channels} image channel(s)")
        self.channels = channels * (self.patch[self.axis] if self.flat else 1)
        self.outputs = len(targets.names) + (0 if targets.regions else 1)
        self._losses = named_losses(model.loss, targets)

    @classmethod
    def fit(cls, model: Model, caches: Sequence[str]) -> Model:
        """The model with the plane of a slab, which is as large as the largest training case."""
        if model.dimensions != "slab":
            return model
        shapes = []
        for path in caches:
            with open_case(path) as file:
                shapes.append(file["label"].shape)
        whole = SLAB_MULTIPLE * np.ceil(np.max(shapes, axis=0) / SLAB_MULTIPLE)
        across = "xyz".index(model.slice_axis)
        whole[across] = model.patch[across]
        return model.model_copy(update={"patch": int3(whole)})

    def refusal(self, reason: str) -> str:
        """Message to a user whose network cannot take the patch."""
        return (
            f"network {self.model.network.name} cannot take patches of {self.size}: {reason}; "
            f"try a larger patch, or edges that are multiples of the network's total stride"
        )

    def try_loss(self, outputs: Any) -> None:
        """Refuse outputs for `sample` (None: not known) with a wrong shape, and an unusable loss."""
        size, batch = self.size, self.model.training.batch
        wanted = (batch, self.outputs, *size)
        shapes = [tuple(head.shape) for head in heads(outputs, 2 + len(size))] if outputs is not None else []
        # Heads may be coarser than the patch; so is their truth.
        if any(shape[:2] != wanted[:2] or len(shape) != len(wanted) for shape in shapes):
            raise CaseError(
                f"network {self.model.network.name} returns {shapes[0] if len(shapes) == 1 else shapes} for "
                f"a batch of patches, expected {wanted}"
            )
        spread = [SMALL] * len(size)
        label = torch.arange(2 * SMALL ** len(size)).reshape(2, *spread) % (1 + len(self.targets.classes))
        for loss in self._losses:
            try_loss(loss, ramp(2, self.outputs, *spread), truth_for(loss, label, self.targets))
        _ = self._counted

    @cached_property
    def _counted(self) -> list[Counted]:
        """The losses over the voxels that count; none without voxels to ignore."""
        losses = self._losses if self.targets.ignore is not None else []
        return [Counted(loss, self.targets, self.outputs, len(self.size)) for loss in losses]

    def sample(self) -> torch.Tensor:
        """A batch of network inputs, uninitialised, on torch's default device."""
        return torch.empty(self.model.training.batch, self.channels, *self.size)

    def sample_text(self) -> str:
        """A patch in words."""
        what = f"slice of {by(*self.size)} pixels" if self.flat else f"patch of {by(*self.size)} voxels"
        return f"{what}, channels: {self.channels}"

    @property
    def size(self) -> tuple[int, ...]:
        """A patch's shape as the network sees it: without the slice axis if it became channels."""
        return tuple(n for axis, n in enumerate(self.patch) if not (self.flat and axis == self.axis))

    def build_network(self) -> nn.Module:
        """The network, on torch's default device, without a trial pass."""
        model_network: nn.Module = build(
            "network",
            self.model.network,
            spatial_dims=len(self.size),
            in_channels=self.channels,
            out_channels=self.outputs,
            img_size=self.size,
            num_classes=self.outputs,
        )
        return model_network

    def items(self, caches: Sequence[str], seed: Sequence[int]) -> Items:
        """Patches of the given caches."""
        check_labels(caches, self.targets)
        return Patches(caches, self.patch, self.model.sampling, self.model.intensity, seed)

    def inputs(
        self, batch: dict[str, torch.Tensor], generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The network's input from a batch and the target class numbers, both augmented."""
        image, label = normalise(batch["image"], batch["scaling"]), batch["label"]
        if self.model.augmentation is not None:
            across = None if self.model.dimensions == "3d" else self.axis
            image, label = augment(image, label, batch["spacing"], self.model.augmentation, generator, across)
        return self._fed(image, label)

    def _fed(self, image: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the network gets, and the target: with slices as channels, that of the middle one."""
        return (self.flattened(image), self._middle(label)) if self.flat else (image, label)

    def loss(
        self, network: nn.Module, batch: dict[str, torch.Tensor], generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """The loss of a batch; with deep supervision, each coarser output has half the previous weight."""
        image, label = self.inputs(batch, generator)
        found = heads(network(image), image.ndim)
        weights = [0.5**number for number in range(len(found))]
        total = sum(w * self._head_loss(head, label) for w, head in zip(weights, found, strict=True))
        assert isinstance(total, torch.Tensor)
        return {"loss": total / sum(weights)}

    def _head_loss(self, head: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        head, label = head.float(), _sized(label, head).long()
        truths = [truth_for(loss, label, self.targets) for loss in self._losses]
        losses = [loss.to(head.device) for loss in self._counted or self._losses]
        counted = [label != self.targets.ignored] if self._counted else []
        return torch.stack([loss(head, t, *counted) for loss, t in zip(losses, truths, strict=True)]).sum()

    def examples(self, caches: Sequence[str], seed: Sequence[int], count: int, folder: Path) -> None:
        """Write sample<n>_image<channel>.nii.gz and sample<n>_label.nii.gz (class numbers)."""
        items = self.items(caches, seed)
        for number in range(count):
            batch = default_collate([items[number]])
            image, label = self.inputs(batch, torch.Generator().manual_seed(number))
            affine = np.diag([*batch["spacing"][0].tolist(), 1])
            for channel, values in enumerate(image[0]):
                _look(values, affine, folder / f"sample{number}_image{channel}.nii.gz")
            _look(label[0], affine, folder / f"sample{number}_label.nii.gz")

    def validation_items(self, caches: Sequence[str], seed: Sequence[int]) -> Items:
        """Patches, drawn as in training."""
        return Patches(caches, self.patch, self.model.sampling, self.model.intensity, seed)

    def validation_loss(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The loss, and voxels of each target, (names,): in truth and prediction alike, and in each."""
        image, label = self._fed(normalise(batch["image"], batch["scaling"]), batch["label"])
        head = heads(network(image), image.ndim)[0]
        return {"loss": self._head_loss(head, label), **self._overlap(head, _sized(label, head).long())}

    def _overlap(self, head: torch.Tensor, label: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.targets.regions:
            counted = torch.ones_like(label, dtype=torch.bool)
            if self.targets.ignored is not None:
                counted = label != self.targets.ignored
            real = torch.from_numpy(self.targets.membership).to(head.device)[:, label[counted]]
            seen = head.movedim(1, 0)[:, counted] > 0
            return {"both": (real & seen).sum(1), "real": real.sum(1), "seen": seen.sum(1)}
        # Of each pair of truth and prediction; torch's argmax takes ten times as long as this on a CPU.
        best, found = head[:, 0], torch.zeros_like(label)
        for number in range(1, self.outputs):
            found[head[:, number] > best] = number
            best = torch.maximum(best, head[:, number])
        pairs = (label * self.outputs + found).flatten().bincount(minlength=(1 + self.outputs) * self.outputs)
        # A last row, of voxels to ignore, is left out.
        table = pairs.unflatten(0, (-1, self.outputs))[: self.outputs]
        return {"both": table.diag()[1:], "real": table.sum(1)[1:], "seen": table.sum(0)[1:]}

    def validation_columns(self, means: Mapping[str, np.ndarray]) -> dict[str, float]:
        """`patch_dice`, which is the score: over all voxels of all patches, the mean over targets.

        NaN if no patch holds any target.
        """
        sizes = means["real"] + means["seen"]
        dice = 2 * means["both"][sizes > 0] / sizes[sizes > 0]
        mean = float(dice.mean()) if means["real"].any() else math.nan
        return {"score": mean, "val_loss": float(means["loss"]), "patch_dice": mean}

    def validate_case(self, network: nn.Module, cache: str, number: int) -> dict[str, Any]:
        """The Dice of each target that truth or prediction has, on the cached grid; whether truth has any."""
        with open_case(cache) as file:
            truth = file["label"][()]
        found = self.inference.labels(network, self.read(cache))
        if self.targets.ignored is not None:
            found[truth == self.targets.ignored] = 0
        values, labelled = [], False
        for member in self.targets.membership:
            real, seen = member[truth], member[found]
            labelled |= bool(real.any())
            if size := int(real.sum()) + int(seen.sum()):
                values.append(2 * int((real & seen).sum()) / size)
        return {"dice": values, "labelled": labelled}

    def validated(self, cases: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Mean Dice over whole volumes; a target absent from a case is left out.

        NaN if no case holds any target: false positives alone do not show how well targets are found.
        """
        values = [dice for case in cases for dice in case["dice"]]
        mean = sum(values) / len(values) if any(case["labelled"] for case in cases) else math.nan
        return {"score": mean, "val_dice": mean}

    @cached_property
    def inference(self) -> Inference:
        """The sliding window."""
        return Inference(self)

    def read(self, cache: str) -> Scan:
        """The image, normalised."""
        return read_scan(self, cache)

    def infer(self, networks: Sequence[nn.Module], case: Scan) -> Unwritten:
        """Predict a case: the mean probabilities of the networks, quantised to 8 bits."""
        found = self.inference.found(networks, case)
        about = (found.probability, found.label, case.lineage, self.targets)
        # Without the image, which is no longer needed.
        write = partial(write_steps, case.case, *about)
        return Unwritten(write, found.probability.nbytes + found.label.nbytes)

    def flattened(self, image: torch.Tensor) -> torch.Tensor:
        """(batch, channels, x, y, z) with its slices as channels: (batch, channels · slices, …)."""
        return image.movedim(2 + self.axis, 2).flatten(1, 2)

    def _middle(self, label: torch.Tensor) -> torch.Tensor:
        return label.select(1 + self.axis, label.shape[1 + self.axis] // 2)


def _sized(label: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """Numbers of classes (batch, …) in the size of an output, which may be coarser."""
    if head.shape[2:] == label.shape[1:]:
        return label
    return F.interpolate(label[:, None].float(), head.shape[2:], mode="nearest-exact")[:, 0]


def _look(values: torch.Tensor, affine: np.ndarray, path: Path) -> None:
    data = values.numpy()
    write_volume(Volume(data if data.ndim == 3 else data[..., None], affine), path)


def patch_of(model: Model) -> Int3:
    """The size read for one training sample: the patch, with one slice or as many as the input has."""
    depth = {"2d": 1, "2.5d": model.slices}.get(model.dimensions)
    if depth is None:
        return model.patch
    across = "xyz".index(model.slice_axis)
    return int3(depth if axis == across else n for axis, n in enumerate(model.patch))
