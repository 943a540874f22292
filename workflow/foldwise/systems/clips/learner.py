"""Clips in, a class out: networks, training items, loss, and predictions averaged over views."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from scipy.special import softmax
from torch import nn

from foldwise.files import CaseError, atomic_path
from foldwise.hdf5 import open_hdf5
from foldwise.networks import build, explicit, ramp, try_loss
from foldwise.networks.encoded import clip_head
from foldwise.overlap import Unwritten
from foldwise.settings import Named, validate
from foldwise.systems.clips.cache import group_of, label_of
from foldwise.systems.clips.encoding import encoder_for, with_normalisation
from foldwise.systems.clips.items import Bags, Change, Clips, clips_of, evaluation_clips, stored_view
from foldwise.systems.clips.patients import attended, probabilities_of
from foldwise.systems.clips.predictions import facts_of, write_prediction
from foldwise.systems.clips.settings import Model
from foldwise.training.learner import Staged, by
from foldwise.training.steps import Items


@dataclass(frozen=True)
class Views:
    """A case as the networks see it.

    Attributes:
        case: its name.
        source: its video.
        inputs: of each temporal view.
        facts: about the clip.
    """

    case: str
    source: str
    inputs: list[tuple[torch.Tensor, ...]]
    facts: dict[str, Any]


class ClipsLearner(Staged[Model]):
    """Clip classification: soft-max over classes, averaged over spatial and temporal views.

    A network that learns attention (`Model.by_patient`) is trained and validated by patient.
    """

    def __init__(self, model: Model, task: Mapping[str, Any]) -> None:
        """Take a model's settings and what is learnt: `classes`, and `sentences` if any."""
        super().__init__(model, task)
        self.frozen = self.reads_weights = model.frozen_weights is not None
        self.classes: list[str] = list(task["classes"])
        self.sentences: list[str] = list(task.get("sentences", ()))
        weights = model.class_weights
        if isinstance(weights, dict) and (unknown := set(weights) - set(self.classes)):
            raise CaseError(f"class_weights names {sorted(unknown)[0]}, which data.classes does not list")
        self._loss = build("loss", model.loss, **self._weights())

    @classmethod
    def fit(cls, model: Model, caches: Sequence[str]) -> Model:
        """The model with its classes' weights, encoder's normalisation, and frame network's library."""
        model = with_normalisation(model)
        frames = model.network.arguments.get("network")
        if model.network.plain == "FrameAverage" and isinstance(frames, dict) and "name" in frames:
            found = explicit("frame network", validate(Named, frames))
            network = model.network.model_copy(update={"network": found.model_dump()})
            model = model.model_copy(update={"network": network})
        if model.class_weights == "balanced":
            counts: Counter[str] = Counter()
            for path in [clips[0] for clips in clips_of(caches).values()] if model.by_patient else caches:
                with open_hdf5(path) as file:
                    counts[label_of(file)] += 1
            even = counts.total() / len(counts)
            weights = {name: even / count for name, count in sorted(counts.items())}
            model = model.model_copy(update={"class_weights": weights})
        return model

    @classmethod
    def count_items(cls, model: Model, caches: Sequence[str]) -> int:
        """Number of training clips, or of patients."""
        return len(clips_of(caches)) if model.by_patient else len(caches)

    def try_loss(self, outputs: Any) -> None:
        """Refuse outputs for `sample` (None: not known) with a wrong shape, and an unusable loss."""
        wanted = (self.model.training.batch, len(self.classes))
        if outputs is not None and getattr(outputs, "shape", None) != wanted:
            shape = tuple(getattr(outputs, "shape", ())) or type(outputs).__name__
            raise CaseError(
                f"network {self.model.network.name} returns {shape} for a batch of clips, expected {wanted}"
            )
        try_loss(self._loss, ramp(*wanted), torch.arange(wanted[0]) % wanted[1])

    def refusal(self, reason: str) -> str:
        """Message to a user whose network cannot take the clips."""
        clip = self.model.clip
        return (
            f"network {self.model.network.name} cannot take clips of {clip.frames} frames of "
            f"{clip.size}×{clip.size}: {reason}; set clip.frames or clip.size"
        )

    def sample(self) -> torch.Tensor:
        """A batch of clips, uninitialised, on torch's default device."""
        clip, channels = self.model.clip, 4 if self.model.input == "channel" else 3
        return torch.empty(self.model.training.batch, channels, clip.frames, clip.size, clip.size)

    def sample_text(self) -> str:
        """A clip in words."""
        clip, stored = self.model.clip, "stored features of a " if self.model.features else ""
        return f"{stored}clip of {clip.frames} frames of {by(clip.size, clip.size)} pixels"

    def build_network(self) -> nn.Module:
        """The network, on torch's default device, without a trial pass."""
        if self.model.encoder is not None:
            encoder = encoder_for(self.model)
            return clip_head(self.model.network, encoder, len(self.classes), self.model.clip.frames)
        network: nn.Module = build(
            "clip network",
            self.model.network,
            num_classes=len(self.classes),
            num_frames=self.model.clip.frames,
            sentences=self.sentences,
            spatial_dims=3,
            in_channels=3,
            n_input_channels=3,
            out_channels=len(self.classes),
        )
        if self.model.input == "channel":
            add_channel(network)
        return network

    def items(self, caches: Sequence[str], seed: Sequence[int]) -> Items:
        """Clips of the given caches, or their stored features, or bags of these."""
        return self._items(caches, seed, training=True)

    def loss(
        self, network: nn.Module, batch: dict[str, torch.Tensor], generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """The loss of a batch, and its top-1 and top-k accuracies.

        k is 5, or the number of classes if there are fewer.
        """
        logits = _logits(network, batch["clip"], batch.get("attention")).float()
        loss = self._loss.to(logits.device)(logits, batch["label"])
        k = min(5, len(self.classes))
        best = logits.detach().topk(k, dim=1).indices == batch["label"][:, None]
        return {
            "loss": loss,
            "top1": best[:, :1].any(1).float().mean(),
            f"top{k}": best.any(1).float().mean(),
        }

    def examples(self, caches: Sequence[str], seed: Sequence[int], count: int, folder: Path) -> None:
        """Write sample<n>_<class>.png, a training clip's frames side by side; nothing for stored features."""
        items = self.items(caches, seed)
        for number in range(0 if self.model.features else count):
            item = items[number]
            name = self.classes[int(item["label"])]
            with atomic_path(folder / f"sample{number}_{name}.png") as temporary:
                Image.fromarray(self._look(item["clip"])).save(temporary)

    def validation_items(self, caches: Sequence[str], seed: Sequence[int]) -> Items:
        """One view of each clip, as in testing, or a bag of each patient."""
        return self._items(caches, seed, training=False)

    def validation_loss(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The same loss and accuracies."""
        return self.loss(network, batch, torch.Generator())

    def validate_case(self, network: nn.Module, cache: str, number: int) -> dict[str, Any]:
        """The clip's class and the mean probabilities of its views, or its part of its patient's bag."""
        with open_hdf5(cache) as file:
            outputs = self._outputs([network], list(self._inputs(file)))
            found: dict[str, Any] = {"class": self.classes.index(label_of(file))}
            if self.model.by_patient:
                return {**found, "group": group_of(file), "bag": attended(outputs).tolist()}
        return {**found, "probabilities": self._mean(outputs).mean(0).tolist()}

    def validated(self, cases: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Scores of validation cases; `score` is the mean, over classes, of the true class's probability.

        It is finer than the balanced accuracy, which changes in large steps with a few cases. NaN if a class
        has no case: a network that never predicts it would score best.
        """
        if self.model.by_patient:
            cases = _patients(cases)
        truth = np.array([case["class"] for case in cases])
        found = np.array([case["probabilities"] for case in cases])
        own = found[np.arange(len(truth)), truth]
        right = found.argmax(1) == truth
        present = np.unique(truth)
        score = float(np.mean([own[truth == c].mean() for c in present]))
        return {
            "score": score if len(present) == len(self.classes) else math.nan,
            "val_balanced_accuracy": float(np.mean([right[truth == c].mean() for c in present])),
            "val_log_loss": float(-np.log(np.maximum(own, 1e-7)).mean()),
        }

    def read(self, cache: str) -> Views:
        """The network's input for all views."""
        with open_hdf5(cache) as file:
            case, source = str(file.attrs["case"]), str(file.attrs.get("source", cache))
            return Views(case, source, list(self._inputs(file)), facts_of(file))

    def infer(self, networks: Sequence[nn.Module], case: Views) -> Unwritten:
        """A case's probabilities, the mean over views and networks, and those of each view."""
        outputs = self._outputs(networks, case.inputs)
        found, bag = self._mean(outputs), attended(outputs) if self.model.by_patient else None
        # Without the inputs, which are no longer needed.
        name, source, facts = case.case, case.source, case.facts

        def write(path: Path) -> None:
            write_prediction(path, name, self.classes, found, source, facts, bag)

        return Unwritten(write, found.nbytes)

    def probabilities(self, network: nn.Module, file: Any, change: Change | None) -> np.ndarray:
        """Probabilities (classes,), the mean over views; those of stored features are computed from frames.

        Args:
            network: on its device.
            file: frame cache or file of regions.
            change: of the frames; None: none.
        """
        inputs = [(clips,) for clips in evaluation_clips(file, self.model, change)]
        return np.asarray(self._mean(self._outputs([network], inputs)).mean(axis=0))

    def _items(self, caches: Sequence[str], seed: Sequence[int], *, training: bool) -> Items:
        kind = Bags if self.model.by_patient else Clips
        return kind(caches, self.model, self.classes, seed, training)

    @torch.no_grad()
    def _outputs(
        self, networks: Sequence[nn.Module], inputs: Sequence[tuple[torch.Tensor, ...]]
    ) -> np.ndarray:
        """Logits (networks, views, classes); after the attention of each view, if that is learnt."""
        device = next(networks[0].parameters()).device
        found = []
        for network in networks:
            network.eval()
            batches = [self._logits_of(network, *(part.to(device) for part in view)) for view in inputs]
            found.append(torch.cat(batches).double().cpu().numpy())
        return np.stack(found)

    def _mean(self, outputs: np.ndarray) -> np.ndarray:
        """Probabilities (views, classes), the mean over networks."""
        return np.asarray(softmax(outputs[..., -len(self.classes) :], axis=-1).mean(0))

    def _inputs(self, file: Any) -> Any:
        """The network's input for each temporal view: clips, or stored tokens and attention."""
        if "test_tokens" in file:
            for view in range(len(file["test_tokens"])):
                tokens, attention = stored_view(file, "test", view)
                yield tokens[None], attention[None]
            return
        for clips in evaluation_clips(file, self.model):
            yield (clips,)

    def _logits_of(self, network: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
        with self.autocast(inputs[0].device):
            if self.model.by_patient:
                return cast("torch.Tensor", network(*inputs, apart=True))[:, 0].float()
            return _logits(network, *inputs).float()

    def _weights(self) -> dict[str, torch.Tensor]:
        weights = self.model.class_weights
        if not isinstance(weights, dict):
            return {}
        return {"weight": torch.tensor([weights.get(name, 1.0) for name in self.classes])}

    def _look(self, clip: torch.Tensor) -> np.ndarray:
        """Frames of a clip (channels, T, size, size) in a row, with normalisation undone."""
        mean, std = (torch.tensor(value)[:, None, None, None] for value in self.model.normalisation)
        frames = ((clip[:3] * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        return np.concatenate(list(frames.permute(1, 2, 3, 0).numpy()), axis=1)


def add_channel(network: nn.Module) -> None:
    """Let a network take a fourth channel, mixed into the three by learned weights that start at zero.

    Pretrained weights keep their names and their effect.
    """
    mixer = nn.Conv3d(4, 3, 1)
    with torch.no_grad():
        mixer.weight.copy_(torch.eye(3, 4)[..., None, None, None])
        assert mixer.bias is not None
        mixer.bias.zero_()
    network.add_module("channel_mixer", mixer)
    network.register_forward_pre_hook(lambda module, given: (module.channel_mixer(given[0]), *given[1:]))


def _patients(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Class and probabilities of each patient, from those of its clips that there are."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for case in cases:
        groups.setdefault(case["group"], []).append(case)
    return [
        {
            "class": clips[0]["class"],
            "probabilities": probabilities_of(np.array([clip["bag"] for clip in clips])),
        }
        for clips in groups.values()
    ]


def _logits(network: nn.Module, clips: torch.Tensor, attention: torch.Tensor | None = None) -> torch.Tensor:
    logits: torch.Tensor = network(clips) if attention is None else network(clips, attention)
    return logits
