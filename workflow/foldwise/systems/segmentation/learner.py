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
from foldwise.training.learner import Staged
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
        if head.shape[2:] != label.shape[1:]:
            label = F.interpolate(label[:, None].float(), head.shape[2:], mode="nearest-exact")[:, 0]
        head, label = head.float(), label.long()
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

    def validate(self, network: nn.Module, caches: Sequence[str]) -> dict[str, float]:
        """Mean Dice over whole volumes on the cached grid; a target absent from a case is left out.

        NaN if no case holds any target: false positives alone do not show how well targets are found.
        """
        values, labelled = [], False
        for path in caches:
            with open_case(path) as file:
                truth = file["label"][()]
            found = self.inference.labels(network, self.read(path))
            if self.targets.ignored is not None:
                found[truth == self.targets.ignored] = 0
            for member in self.targets.membership:
                real, seen = member[truth], member[found]
                labelled |= bool(real.any())
                if size := int(real.sum()) + int(seen.sum()):
                    values.append(2 * int((real & seen).sum()) / size)
        mean = sum(values) / len(values) if labelled else math.nan
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
