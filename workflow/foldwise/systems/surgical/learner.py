"""Training and prediction of the surgical system: windows of frames, or whole videos of features."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from PIL import Image
from torch import nn

from foldwise.files import CaseError
from foldwise.settings import Pretrained, validate
from foldwise.systems.surgical.balance import label_counts, median_frequency, numbering, presence_weights
from foldwise.systems.surgical.encoding import features_of, inputs_of, with_normalisation
from foldwise.systems.surgical.features import Videos, write_bank
from foldwise.systems.surgical.losses import UNKNOWN, correlation_loss, phase_loss, tool_loss
from foldwise.systems.surgical.metrics import average_precision
from foldwise.systems.surgical.network import build_network
from foldwise.systems.surgical.predictions import Prediction, write_prediction
from foldwise.systems.surgical.rates import rows_at
from foldwise.systems.surgical.schedule import Scheduled
from foldwise.systems.surgical.settings import BACKBONE, Model
from foldwise.systems.surgical.whole import by_windows, on_a_grid
from foldwise.training.learner import Learner, by
from foldwise.training.steps import Items
from foldwise.video.store import open_video
from foldwise.video.windows import Windows


class SurgicalLearner(Learner[Model]):
    """Phases and tools of frames, from windows of them or from whole videos of features."""

    def __init__(self, model: Model, task: Mapping[str, Any]) -> None:
        """Store the settings.

        Args:
            model: as returned by `fitted`.
            task: with `phases` and `tools`, the names in the order of their numbers.
        """
        super().__init__(model, task)
        kind = model.kind
        self.frozen = self.reads_weights = model.encoder is not None
        self.phases = () if kind == "tool" else tuple(task["phases"])
        self.tools = () if kind in ("phase", "temporal") else tuple(task["tools"])

    @classmethod
    def fit(cls, model: Model, caches: Sequence[str]) -> Model:
        """The model with the weights of classes, and a temporal one with its backbone or normalisation."""
        model = with_normalisation(model)
        changed: dict[str, Any] = {"annotation_fps": numbering(caches)}
        phases, tools = label_counts(caches)
        if model.phase_weights == "balanced":
            changed["phase_weights"] = median_frequency(phases)
        if model.tool_weights == "balanced":
            changed["tool_weights"] = presence_weights(tools)
        if model.encoder is not None:
            _refuse_later(model, caches)
        elif model.kind == "temporal":
            with open_video(caches[0]) as file:
                source = validate(Model, json.loads(file.attrs["settings"]), origin=str(caches[0]))
                weights = Pretrained(file=Path(str(file.attrs["model"])), minimum=0)
            changed |= {name: getattr(source, name) for name in BACKBONE}
            changed["pretrained"] = weights
        return model.model_copy(update=changed)

    @classmethod
    def count_items(cls, model: Model, caches: Sequence[str]) -> int:
        """All windows, or all videos of features."""
        if model.kind == "temporal":
            return len(caches)
        return Windows(caches, model.window, (0,), crop=model.crop, flip=False).total

    def refusal(self, reason: str) -> str:
        """Message to a user whose backbone cannot take the crop."""
        height, width = self.model.crop
        return f"backbone {self.model.backbone.name} cannot take crops of {width}×{height}: {reason}"

    def sample(self) -> torch.Tensor:
        """A batch of network inputs, uninitialised, on torch's default device."""
        model = self.model
        frames = model.window if model.kind != "temporal" else 1
        return torch.empty(model.training.batch, frames, 3, *model.crop)

    def sample_text(self) -> str:
        """A window of frames, or a video's features, in words."""
        model = self.model
        if model.kind == "temporal":
            return "stored features of a whole video"
        height, width = model.crop
        return f"window of {model.window} frames of {by(width, height)} pixels"

    def try_loss(self, outputs: Any) -> None:
        """Refuse a backbone without exactly one output per frame of `sample` (outputs None: not known)."""
        frames = (self.model.training.batch, self.sample().shape[1])
        tensors = outputs.values() if isinstance(outputs, Mapping) else () if outputs is None else outputs
        if any(tuple(one.shape[:2]) != frames or one.ndim != 3 for one in tensors):
            raise CaseError(
                f"backbone {self.model.backbone.name}: does not return one feature vector per frame"
            )

    def build_network(self) -> nn.Module:
        """The network, on torch's default device, without a trial pass."""
        return build_network(self.model, len(self.phases), len(self.tools))

    def parameters(self, network: nn.Module) -> list[dict[str, Any]]:
        """Two groups for the optimiser: the head, and the backbone with its share of the learning rate."""
        head = {"params": list(network.get_submodule("head").parameters())}
        if self.model.kind == "temporal" or not self.model.backbone_lr:
            return [head]
        rate = self.model.optimiser.arguments.get("lr", 1e-3) * self.model.backbone_lr
        return [head, {"params": list(network.get_submodule("trunk").parameters()), "lr": rate}]

    @property
    def counts_epochs(self) -> bool:
        """The three steps of mtrcnet_cl are shares of the epochs."""
        return self.model.kind == "mtrcnet_cl"

    def items(self, caches: Sequence[str], seed: Sequence[int]) -> Items:
        """Windows of frames, or whole videos of features."""
        model = self.model
        if model.kind == "temporal":
            return Videos(caches, seed)
        flip = model.augmentation is not None and model.augmentation.flip
        arrays = ("phase", "tool")
        windows = Windows(caches, model.window, seed, crop=model.crop, flip=flip, arrays=arrays)
        return Scheduled(windows, model)

    def loss(
        self, network: nn.Module, batch: dict[str, torch.Tensor], generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """The loss of a batch and its parts."""
        model = self.model
        if model.kind == "temporal":
            weights = self._weights(model.phase_weights, batch["phase"].device)
            terms = [phase_loss(logits, batch["phase"], weights) for logits in network(batch["features"])]
            return {"loss": torch.stack(terms).mean()}
        step = int(batch["step"][0])
        answer = network(self.inputs(batch["frames"], generator), step)
        weights = self._weights(model.tool_weights, batch["frames"].device)
        if step == 2:
            return {"loss": tool_loss(answer["mapped"], batch["tool"], weights)}
        parts = self._parts(answer, batch)
        if step == 3:
            apart = correlation_loss(answer["tool"], answer["mapped"], model.correlation_form)
            parts["correlation_loss"] = model.correlation * apart
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def _parts(self, answer: Mapping[str, torch.Tensor], batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        parts, device = {}, batch["frames"].device
        if "phase" in answer:
            weights = self._weights(self.model.phase_weights, device)
            parts["phase_loss"] = phase_loss(answer["phase"], batch["phase"], weights)
        if "tool" in answer:
            weights = self._weights(self.model.tool_weights, device)
            parts["tool_loss"] = tool_loss(answer["tool"], batch["tool"], weights)
        return parts

    def inputs(self, frames: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """The network's input from frames (…, height, width, 3) uint8: (…, 3, height, width).

        Args:
            frames: windows (B, S, …) if they are augmented.
            generator: for the augmentation; None: no augmentation.
        """
        return inputs_of(frames, self.model, generator)

    def examples(self, caches: Sequence[str], seed: Sequence[int], count: int, folder: Path) -> None:
        """Write sample<n>.png, the frames of a window side by side."""
        if self.model.kind == "temporal":
            return
        items = self.items(caches, seed)
        for number in range(count):
            x = self.inputs(items[number]["frames"][None], torch.Generator().manual_seed(number))[0]
            mean, std = (x.new_tensor(value)[:, None, None] for value in self.model.normalisation)
            rgb = x.mul(std).add(mean).clamp(0, 1).mul(255).byte().movedim(1, -1)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.concatenate(list(rgb.numpy()), 1)).save(folder / f"sample{number}.png")

    def validation_items(self, caches: Sequence[str], seed: Sequence[int]) -> Items:
        """Windows of frames, cropped centrally, or whole videos; videos shorter than a window have none."""
        model = self.model
        if model.kind == "temporal":
            return Videos(caches, seed)
        whole = [path for path in caches if self._has_windows(path)]
        arrays = ("phase", "tool")
        return Windows(whole, model.window, seed, crop=model.crop, flip=None, arrays=arrays) if whole else []

    def _has_windows(self, path: str) -> bool:
        with open_video(path) as file:
            count, *size = (int(file.attrs[name]) for name in ("frames", "height", "width"))
        return count >= self.model.window and all(np.greater_equal(size, self.model.crop))

    def validation_loss(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The loss of phases and tools, also in later steps of a schedule, so that epochs can be compared."""
        if self.model.kind == "temporal":
            return self.loss(network, batch, torch.Generator())
        answer = network(self.inputs(batch["frames"]), 1)
        return {"loss": torch.stack(list(self._parts(answer, batch).values())).sum()}

    def validate_case(self, network: nn.Module, cache: str, number: int) -> dict[str, Any]:
        """The accuracy of phases, and of tools the truth and the probabilities of its annotated frames.

        Also whether the network has finished its schedule.
        """
        with open_video(cache) as file:
            phase, tool = self._answer([network], file)
            truth, tools = file["phase"][()], file["tool"][()]
        values: dict[str, Any] = {}
        if self.phases and (truth != UNKNOWN).any():
            values["accuracy"] = float((phase.argmax(1) == truth)[truth != UNKNOWN].mean())
        if self.tools:
            known = (tools != UNKNOWN).any(1)
            values |= {"truth": torch.from_numpy(tools[known]), "found": torch.from_numpy(tool[known])}
        finished = self.model.kind != "mtrcnet_cl" or int(network.state_dict()["step"]) == 3
        return {**values, "finished": finished}

    def validated(self, cases: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Phase accuracy, averaged over videos, and mAP over their frames; the first one is the score.

        NaN if no phase is annotated and no tool ever present.
        """
        scores: dict[str, float] = {}
        if accuracies := [case["accuracy"] for case in cases if "accuracy" in case]:
            scores["val_phase_accuracy"] = float(np.mean(accuracies))
        if self.tools:
            truth, found = (torch.cat([case[name] for case in cases]).numpy() for name in ("truth", "found"))
            aps = [average_precision(truth[:, n], found[:, n]) for n in range(len(self.tools))]
            scores["val_tool_map"] = float(np.nanmean(aps)) if not np.isnan(aps).all() else math.nan
        score = next((value for value in scores.values() if not math.isnan(value)), math.nan)
        # A network with an unfinished schedule always ranks below one that has finished it.
        return {"score": score - (not all(case["finished"] for case in cases)), **scores}

    def predict(self, networks: Sequence[nn.Module], cache: str, path: Path) -> None:
        """Write the mean probabilities of the networks for every frame of a video."""
        with open_video(cache) as file:
            phase, tool = self._answer(networks, file)
            rows, times = file["row"][()], file["time_s"][()]
            if len(file.attrs["rates"]):
                rate = float(file.attrs["rates"][0]) or None
            else:
                # Without annotation, rows are numbered as in the training videos.
                rate = self.model.annotation_fps
                rows = rows_at(file["number"][()], times, rate)
            prediction = Prediction(
                case=str(file.attrs["case"]),
                rows=rows,
                times=times,
                run=file["run"][()],
                fps=float(file.attrs["fps"]),
                rate=rate,
                damaged=int(file.attrs["damaged"]),
                phases=self.phases,
                tools=self.tools,
                phase=phase,
                tool=tool,
                mode=self.model.mode,
            )
        write_prediction(path, prediction)

    def write_features(self, network: nn.Module, origin: str, cache: str, path: Path) -> None:
        """Write the backbone's features of every frame of a video, for a temporal network.

        Args:
            network: trained.
            origin: the model's file.
            cache: of the video.
            path: the file.
        """
        with open_video(cache) as file:
            features = self._features(network, file).cpu().numpy()
        write_bank(path, cache, features, {"model": origin, "settings": self.model.model_dump_json()})

    @torch.no_grad()
    def _answer(self, networks: Sequence[nn.Module], file: h5py.File) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (n, phases) and (n, tools) of a video, the mean over the networks."""
        phases, tools = [], []
        for network in networks:
            network.eval()
            features = self._features(network, file)
            with self.autocast(features.device):
                logits = self._whole(network, features, file)
            frames = len(features)
            empty = torch.zeros(frames, 0)
            phases.append(logits["phase"].float().softmax(1).cpu() if "phase" in logits else empty)
            tool = logits["tool"].float().sigmoid().cpu() if "tool" in logits else empty
            if "mapped" in logits:
                tool = (tool + logits["mapped"].float().sigmoid().cpu()) / 2
            tools.append(tool)
        return torch.stack(phases).mean(0).numpy(), torch.stack(tools).mean(0).numpy()

    def _whole(self, network: nn.Module, features: torch.Tensor, file: h5py.File) -> dict[str, torch.Tensor]:
        """Logits (n, …) of every frame of a video."""
        if self.model.kind == "temporal":
            return {"phase": on_a_grid(network, features, file)}
        return by_windows(network, features, file, self.model.window)

    @torch.no_grad()
    def _features(self, network: nn.Module, file: h5py.File) -> torch.Tensor:
        """Features (n, width) of every frame: read from a bank, or computed from the frames."""
        device = next(network.parameters()).device
        if "features" in file:
            return torch.from_numpy(file["features"][()]).to(device)
        trunk = network.get_submodule("trunk").eval()
        return features_of(trunk, file, self.model, device, self.autocast(device))

    @staticmethod
    def _weights(values: str | list[float], device: torch.device) -> torch.Tensor | None:
        return None if isinstance(values, str) else torch.tensor(values, device=device)


def _refuse_later(model: Model, caches: Sequence[str]) -> None:
    """Refuse features of clips that were cut for the other mode: with the future, a network is not online."""
    for path in caches:
        with open_video(path) as file:
            mode = file.attrs.get("mode", model.mode)
        if mode != model.mode:
            raise CaseError(f"{path}: holds {mode} features of clips, but the model is {model.mode}")
