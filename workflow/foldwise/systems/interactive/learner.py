"""Interactive segmentation: two networks trained together, and sessions with a simulated user."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from foldwise.files import CaseError, atomic_path, naming
from foldwise.networks.resnets import load_trunk
from foldwise.systems.interactive.committee import Committee
from foldwise.systems.interactive.engines import Engine, Scan
from foldwise.systems.interactive.engines.classical import Classical
from foldwise.systems.interactive.kinds import CHOICES
from foldwise.systems.interactive.model import build_network, engine_of, read_prepared
from foldwise.systems.interactive.network import InteractiveNetwork
from foldwise.systems.interactive.propagation import memory_bytes
from foldwise.systems.interactive.record import Writer, create
from foldwise.systems.interactive.rounds import Round, simulate
from foldwise.systems.interactive.samples import Curriculum, Samples, objects_of
from foldwise.systems.interactive.segfm3d_rounds import simulate_protocol
from foldwise.systems.interactive.settings import Evaluate, Model
from foldwise.training.learner import Learner, by
from foldwise.training.steps import Items
from foldwise.volumes.cache import check_labels, open_case
from foldwise.volumes.settings import Augmentation
from foldwise.volumes.slices import AXES
from foldwise.volumes.targets import Targets
from foldwise.volumes.volume import Volume, write_volume


class InteractiveLearner(Learner[Model]):
    """Hints, propagation and predicted quality; `evaluate` defines the sessions that `predict` simulates."""

    def __init__(self, model: Model, task: Mapping[str, Any]) -> None:
        """Take the settings and what is learnt: `targets`, and the images' `channels`."""
        super().__init__(model, task)
        self.reads_weights = model.trunk.weights is not None
        self.targets = Targets.from_dict(task["targets"])
        self.channels: int = task["channels"]
        self.objects = len(self.targets.names)
        if len(model.intensity) not in (1, self.channels):
            raise CaseError(
                f"intensity has {len(model.intensity)} entries for {self.channels} image channel(s)"
            )

    @classmethod
    def fit(cls, model: Model, caches: Sequence[str]) -> Model:
        """The unchanged model; its file of weights must exist."""
        if model.trunk.weights is not None and not model.trunk.weights.exists():
            raise CaseError(f"{model.trunk.weights}: no such file (trunk.weights)")
        return model

    def network(self) -> nn.Module:
        """Both networks; their trunks start from given weights, if the file (still) exists."""
        network = build_network(self.model, self.channels)
        path = self.model.trunk.weights
        # The file may be missing when a trained model is rebuilt; its weights are replaced anyway.
        if path is not None and path.exists():
            for trunk in network.trunks:
                load_trunk(trunk, path, self.channels, self.model.trunk.name)
        return network

    def items(self, caches: Sequence[str], seed: Sequence[int]) -> Items:
        """Slices in the order of a propagation, and hints on one."""
        check_labels(caches, self.targets)
        training, frames = self.model.training, self.model.frames
        assert training.steps_per_epoch is not None
        per_epoch = training.steps_per_epoch * training.batch * training.accumulate
        growing = Curriculum(frames.first_skip, frames.last_skip, frames.grow_every * per_epoch)
        return self._samples(caches, seed, growing, self.model.augmentation)

    def _samples(
        self,
        caches: Sequence[str],
        seed: Sequence[int],
        curriculum: Curriculum,
        augmentation: Augmentation | None,
    ) -> Samples:
        model = self.model
        return Samples(
            caches,
            self.targets.membership,
            axis=model.slice_axis,
            size=model.size,
            frames=model.frames.count,
            curriculum=curriculum,
            kinds=model.hints,
            intensity=model.intensity,
            augmentation=augmentation,
            seed=seed,
        )

    def loss(
        self, network: nn.Module, batch: dict[str, torch.Tensor], generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """The losses of the memory network, its quality head and the hint network, and their sum."""
        if self.model.trunk.weights is not None:
            freeze_statistics(network)
        model = self.model
        parts: dict[str, torch.Tensor] = network(
            batch, self.objects, model.memory.mode, model.memory.iou_threshold, model.loss
        )
        return parts

    def examples(self, caches: Sequence[str], seed: Sequence[int], count: int, folder: Path) -> None:
        """Write sample<n>_image.nii.gz and _mask.nii.gz (slices along z), and sample<n>_hints.nii.gz."""
        items = self.items(caches, seed)
        for number in range(count):
            item = items[number]
            for name, values in (
                ("image", item["image"][:, 0]),
                ("mask", item["mask"]),
                ("hints", torch.cat([item["hint_input"], item["hint_target"][None].float()])),
            ):
                data = values.movedim(0, 2).numpy()
                write_volume(Volume(data, np.eye(4)), folder / f"sample{number}_{name}.nii.gz")

    def validation_items(self, caches: Sequence[str], seed: Sequence[int]) -> Items:
        """The same at the largest distances between slices; none if no case has an object."""
        last = self.model.frames.last_skip
        try:
            return self._samples(caches, seed, Curriculum(last, last, 1), None)
        except CaseError:
            return []

    def validation_loss(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The same losses."""
        return self.loss(network, batch, torch.Generator())

    def validate_case(self, network: nn.Module, cache: str, number: int) -> dict[str, Any]:
        """The Dice of each object after the first and the last round of a session with predicted choice."""
        scan, truth = self._case(cache)
        assert truth is not None, "validation cases have labels"
        engine = self._engine(network, cache)
        rounds = self.model.validation_rounds
        found = list(self._session(engine, scan, truth, "hybrid", "predicted", number, rounds))
        dice = [_dice(found[place].state.labels, truth, self.objects) for place in (0, -1) if found]
        first, last = dice or ([], [])
        return {"first": first, "last": last, "labelled": bool(truth.any())}

    def validated(self, cases: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Mean Dice over cases and objects after the last round, which is the score, and after the first one.

        NaN if no case holds any object: there is nothing to mark.
        """
        labelled = any(case["labelled"] for case in cases)
        first, last = ([dice for case in cases for dice in case[name]] for name in ("first", "last"))
        mean = float(np.mean(last)) if labelled else math.nan
        start = float(np.mean(first)) if labelled else math.nan
        return {"score": mean, "val_dice": mean, "val_dice_round1": start}

    def predict(self, networks: Sequence[nn.Module], cache: str, path: Path) -> None:
        """Write a case's sessions: every engine, kind of hints, choice and round.

        A case without a label has no sessions: no user can be simulated.
        """
        evaluate = self.evaluate
        assert isinstance(evaluate, Evaluate), "sessions need the section evaluate"
        scan, truth = self._case(cache)
        network = networks[0] if len(networks) == 1 else Committee([_whole(n) for n in networks])
        memory, trunk = self.model.memory, self.model.trunk
        held = memory_bytes(memory.capacity, self.objects, self.model.size, trunk.keys, trunk.values) * len(
            networks
        )
        with open_case(cache) as file:
            attributes = {"case": str(file.attrs["case"]), "lineage": file.attrs["lineage"]}
        targets = json.dumps(self.targets.as_dict())
        attributes |= {"axis": self.model.slice_axis, "targets": targets}
        with (
            naming(str(attributes["case"])),
            atomic_path(path) as temporary,
            create(temporary, {**attributes, "memory_bytes": held}) as file,
        ):
            if truth is None:
                return
            writer = Writer(file, truth, self.objects)
            engines: list[Engine] = [self._engine(network, cache)]
            if evaluate.baseline:
                engines.append(Classical(scan))
            for engine in engines:
                compared = evaluate.compare and engine is engines[0]
                for kind in evaluate.hints:
                    for choice in CHOICES if compared else CHOICES[:1]:
                        for round_ in self._session(engine, scan, truth, kind, choice, 0, evaluate.rounds):
                            writer.add(engine.name, kind, choice, round_)
                if evaluate.protocol is not None:
                    for round_ in self._protocol(engine, scan, truth):
                        writer.add(engine.name, evaluate.protocol, CHOICES[0], round_)
            writer.export(engines[0].name, evaluate.export, CHOICES[0])

    def _case(self, path: str) -> tuple[Scan, np.ndarray | None]:
        """A case's scan on its cache's grid, and its object numbers (x, y, z) if it has a label."""
        with open_case(path) as file:
            scan = Scan(file["image"][()], file.attrs["affine"])
            if "label" not in file:
                return scan, None
            return scan, objects_of(file["label"][()], self.targets.membership)

    def _engine(self, network: nn.Module, cache: str) -> Engine:
        network.eval()
        return engine_of(_whole(network), read_prepared(cache, self.model), self.model)

    def _session(
        self, engine: Engine, scan: Scan, truth: np.ndarray, kind: Any, choice: Any, seed: int, rounds: int
    ) -> Iterator[Round]:
        # Every choice starts from the same hints.
        random = np.random.default_rng(seed)
        return simulate(
            engine,
            scan,
            truth,
            self.targets.names,
            axis=AXES.index(self.model.slice_axis),
            kind=kind,
            choice=choice,
            rounds=rounds,
            random=random,
        )

    def _protocol(self, engine: Engine, scan: Scan, truth: np.ndarray) -> Iterator[Round]:
        axis, random = AXES.index(self.model.slice_axis), np.random.default_rng(0)
        return simulate_protocol(engine, scan, truth, self.targets.names, axis=axis, random=random)

    # For the forecast.

    def build_network(self) -> nn.Module:
        """The networks with a forward pass of a whole training step."""
        return WholeStep(build_network(self.model, self.channels), self)

    def sample(self) -> torch.Tensor:
        """A batch of slices, uninitialised, on torch's default device."""
        model = self.model
        return torch.empty(model.training.batch, model.frames.count, self.channels, model.size, model.size)

    def sample_text(self) -> str:
        """The slices of a propagation in words."""
        size = by(self.model.size, self.model.size)
        return f"{self.model.frames.count} slices of {size} pixels, channels: {self.channels}"

    def refusal(self, reason: str) -> str:
        """Message to a user whose network cannot be built."""
        return f"trunk {self.model.trunk.name} cannot take slices of {self.model.size} pixels: {reason}"


class WholeStep(nn.Module):
    """A training step of both networks as a module with one input, so that its memory can be counted."""

    def __init__(self, network: InteractiveNetwork, learner: InteractiveLearner) -> None:
        super().__init__()
        self.network, self.learner = network, learner

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(batch, frames, channels, size, size) to the loss."""
        batch, frames, _, size, _ = image.shape
        mask = torch.zeros(batch, frames, size, size, device=image.device, dtype=torch.uint8)
        inputs = torch.empty(batch, self.network.hint_inputs, size, size, device=image.device)
        target = torch.zeros(batch, size, size, device=image.device, dtype=torch.bool)
        sample = {"image": image, "mask": mask, "hint_input": inputs, "hint_target": target}
        return self.learner.loss(self.network, sample, torch.Generator())["loss"]


def freeze_statistics(network: nn.Module) -> None:
    """Keep the batch statistics of the given trunks, as is usual for small batches."""
    for trunk in _whole(network).trunks:
        for module in trunk.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def _whole(network: nn.Module) -> Any:
    """The network itself, without Fabric's wrapper."""
    return getattr(network, "module", network)


def _dice(found: np.ndarray, truth: np.ndarray, objects: int) -> list[float]:
    scores = []
    for number in range(1, objects + 1):
        one, other = found == number, truth == number
        if size := int(one.sum() + other.sum()):
            scores.append(2 * int((one & other).sum()) / size)
    return scores
