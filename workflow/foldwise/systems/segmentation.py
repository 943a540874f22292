"""Segmentation of volumes by patches and a sliding window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from foldwise.cache import lineage_of, open_case
from foldwise.files import CaseError
from foldwise.networks import build
from foldwise.settings import Model
from foldwise.training.steps import Items
from foldwise.volumes.augment import augment
from foldwise.volumes.patches import Patches, normalise, scaling
from foldwise.volumes.predictions import write_prediction


class Family:
    """The system of label maps whose classes exclude each other: soft-max over background and classes."""

    def __init__(self, model: Model, classes: dict[str, int], channels: int) -> None:
        self.model = model
        self.classes = tuple(classes)
        self.channels = channels
        self._loss = build("loss", model.loss, to_onehot_y=True, softmax=True)

    def network(self) -> nn.Module:
        """The network of the settings; channels and classes are filled in.

        Raises:
            CaseError: the network cannot take patches of this size.
        """
        # A dry pass on shapes alone costs nothing, and says early what a first step would say late.
        try:
            with torch.device("meta"):
                self._build()(torch.empty(2, self.channels, *self.model.patch))
        except NotImplementedError:
            pass  # some operations know no shapes-only form
        except (RuntimeError, ValueError) as error:
            raise CaseError(
                f"network {self.model.network.name} cannot take patches of {self.model.patch}: {error}; "
                f"a larger patch, or edges that are multiples of the network's total stride, may do"
            ) from error
        return self._build()

    def _build(self) -> nn.Module:
        outputs = 1 + len(self.classes)
        made: nn.Module = build(
            "network",
            self.model.network,
            spatial_dims=3,
            in_channels=self.channels,
            out_channels=outputs,
            img_size=self.model.patch,
            num_classes=outputs,
        )
        return made

    def items(self, caches: Sequence[str], seed: Sequence[int]) -> Items:
        """Patches of the given caches."""
        model = self.model
        return Patches(caches, model.patch, model.sampling, model.intensity, seed)

    def loss(
        self, network: nn.Module, batch: dict[str, torch.Tensor], generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """The loss of a batch of patches, augmented on the batch's device."""
        image = normalise(batch["image"], batch["scaling"])
        label = batch["label"]
        if self.model.augmentation is not None:
            image, label = augment(image, label, batch["spacing"], self.model.augmentation, generator)
        return {"loss": self._loss(network(image), label[:, None])}

    def validate(self, network: nn.Module, caches: Sequence[str]) -> dict[str, float]:
        """Mean Dice over whole volumes on the cached grid; a class absent from a case is left out."""
        values = []
        for path in caches:
            with open_case(path) as file:
                truth = torch.from_numpy(file["label"][()])
            found = self._probabilities([network], path).argmax(0)
            for value in range(1, 1 + len(self.classes)):
                size = int((truth == value).sum() + (found == value).sum())
                if size:
                    values.append(2 * int(((truth == value) & (found == value)).sum()) / size)
        mean = sum(values) / len(values) if values else math.nan
        return {"score": 0.0 if math.isnan(mean) else mean, "val_dice": mean}

    def predict(self, networks: Sequence[nn.Module], cache: str, path: Path) -> None:
        """Write the mean probabilities of the networks for one case, quantised to 8 bits."""
        with open_case(cache) as file:
            case, lineage = str(file.attrs["case"]), lineage_of(file)
        probabilities = self._probabilities(networks, cache)[1:].numpy()
        write_prediction(path, case, probabilities, lineage, self.classes)

    @torch.no_grad()
    def _probabilities(self, networks: Sequence[nn.Module], path: str) -> torch.Tensor:
        """Soft-max output (1 + classes, x, y, z) float32 on the CPU, averaged over the networks."""
        with open_case(path) as file:
            image = torch.from_numpy(file["image"][()])
            image = normalise(image, scaling(file, self.model.intensity))
            fill = normalise(
                torch.from_numpy(np.asarray(file.attrs["fill"]))[:, None, None, None],
                scaling(file, self.model.intensity),
            )
        inference = self.model.inference
        total: torch.Tensor | None = None
        for network in networks:
            device = next(network.parameters()).device
            slide = SlidingWindowInferer(
                self.model.patch,
                sw_batch_size=inference.batch,
                overlap=inference.overlap,
                mode="gaussian",
                cval=float(fill.min()),
                sw_device=device,
                device="cpu",
            )
            network.eval()
            made = slide(image[None], network)[0].float().softmax(0)
            total = made if total is None else total.add_(made)
        assert total is not None, "at least one network is needed"
        return total.div_(len(networks))
