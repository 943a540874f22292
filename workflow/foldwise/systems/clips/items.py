"""The network's inputs from a case: clips for training and for testing, or stored features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import h5py
import numpy as np
import torch

from foldwise.hdf5 import open_hdf5
from foldwise.systems.clips.cache import group_of, label_of
from foldwise.systems.clips.settings import Model
from foldwise.video.regions import padded_box
from foldwise.video.store import read
from foldwise.video.views import (
    dense_draw,
    dense_views,
    normalised,
    rand_augment,
    random_resized_crop,
    segment_draw,
    segment_views,
    spatial_views,
)

# From frames (n, height, width, 3) uint8 and their numbers to changed ones.
Change = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Clips:
    """Samples by number, each a pure function of (seed, number): drawn, or for validation one per case.

    An item is a dict: `clip` (channels, T, size, size) float32 and `label`, the class's number; with stored
    features, `clip` holds the tokens (D, T, 1 + P, width), and there is also `attention` (D, 2, T, P, P), or
    (D, 2, T, 0, 0) without attention between frames.
    """

    def __init__(
        self,
        caches: Sequence[str],
        model: Model,
        classes: Sequence[str],
        seed: Sequence[int],
        training: bool = True,
    ) -> None:
        """Store the arguments; files are opened when an item is requested.

        Args:
            caches: frame caches, files of regions, or stored features.
            model: settings of the model.
            classes: their names.
            seed: of the order and the draws.
            training: whether items are drawn and augmented; else they are the first view of testing.
        """
        self.caches, self.model, self.classes, self.seed = tuple(caches), model, tuple(classes), tuple(seed)
        self.training = training

    def __len__(self) -> int:
        return len(self.caches)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """Draw item `number`; every pass over the cases has its own order."""
        place, random = _drawn(number, len(self.caches), self.seed)
        with open_hdf5(self.caches[place]) as file:
            target = {"label": torch.tensor(self.classes.index(label_of(file)))}
            part = "train" if self.training else "test"
            if f"{part}_tokens" not in file:
                drawn = training_clip(file, self.model, random) if self.training else _one(file, self.model)
                return {**target, "clip": drawn}
            view = int(random.integers(len(file["train_tokens"]))) if self.training else 0
            tokens, attention = stored_view(file, part, view)
            return {**target, "clip": tokens, "attention": attention}


class Bags:
    """Bags of patients' clips by number, each a pure function of (seed, number), from stored features.

    An item is a dict: `clip` (bag, width) float32, the mean tokens of clips of one patient; `label`, the
    number of its class; and `attention`, empty. A clip is repeated only after all others of its patient, and
    with its next view.
    """

    def __init__(
        self,
        caches: Sequence[str],
        model: Model,
        classes: Sequence[str],
        seed: Sequence[int],
        training: bool = True,
    ) -> None:
        """As of `Clips`, with stored features; without `training`, the views are those of testing."""
        self.patients, self.bag = [*clips_of(caches).values()], model.bag
        self.classes, self.seed, self.part = tuple(classes), tuple(seed), "train" if training else "test"

    def __len__(self) -> int:
        return len(self.patients)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """Draw item `number`; every pass over the patients has its own order."""
        place, random = _drawn(number, len(self.patients), self.seed)
        paths = self.patients[place]
        rounds = [random.permutation(len(paths)) for _ in range(-(-self.bag // len(paths)))]
        first = random.integers(2**31, size=len(paths))
        clips = []
        for drawn, one in enumerate(np.concatenate(rounds)[: self.bag]):
            with open_hdf5(paths[one]) as file:
                view = int(first[one] + drawn // len(paths)) % len(file[f"{self.part}_tokens"])
                tokens, _ = stored_view(file, self.part, view)
                label = self.classes.index(label_of(file))
            clips.append(tokens.float().flatten(0, -2).mean(0))
        return {"clip": torch.stack(clips), "label": torch.tensor(label), "attention": torch.empty(0)}


def _drawn(number: int, count: int, seed: Sequence[int]) -> tuple[int, np.random.Generator]:
    """Which of `count` an item is of, each once in a pass and in a new order, and the item's generator."""
    turn, place = divmod(number, count)
    order = np.random.default_rng([*seed, 0, turn]).permutation(count)
    return int(order[place]), np.random.default_rng([*seed, 1, number])


def clips_of(caches: Sequence[str]) -> dict[str, list[str]]:
    """Patient → the files of its clips, in their order."""
    patients: dict[str, list[str]] = {}
    for path in caches:
        with open_hdf5(path) as file:
            patients.setdefault(group_of(file), []).append(path)
    return patients


def stored_view(file: h5py.File, part: str, view: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and attention of a stored clip: of `train` or `test`, by its number."""
    tokens = _stored(file, f"{part}_tokens", view)
    if f"{part}_attention" in file:
        return tokens, _stored(file, f"{part}_attention", view)
    return tokens, tokens.new_zeros(len(tokens), 2, tokens.shape[1], 0, 0)


def _stored(file: h5py.File, name: str, view: int) -> torch.Tensor:
    values = torch.from_numpy(file[name][view])
    scale = f"{name}_scale"
    return values * torch.from_numpy(file[scale][view]) if scale in file else values


def training_clip(file: h5py.File, model: Model, random: np.random.Generator) -> torch.Tensor:
    """A clip (channels, T, size, size), drawn and augmented.

    Args:
        file: a frame cache, or a file of regions.
        model: its settings.
        random: for all draws.
    """
    clip = model.clip
    count = int(file.attrs["frames"])
    if clip.every == "segments":
        numbers = segment_draw(count, clip.frames, random)
    else:
        numbers = dense_draw(count, clip.frames, int(clip.every), random)
    frames = seen(file, numbers, model)
    if clip.rand_augment is not None:
        changes = clip.rand_augment
        frames = rand_augment(frames, changes.operations, changes.magnitude, int(random.integers(2**62)))
    frames = random_resized_crop(frames, clip.size, clip.area, random)
    if clip.mirror and random.random() < 0.5:
        frames = frames.flip(-1)
    return _normalised(frames, model)


def evaluation_clips(file: h5py.File, model: Model, change: Change | None = None) -> Iterator[torch.Tensor]:
    """All views of a case, one temporal view at a time: (spatial views, channels, T, size, size).

    Args:
        file: frame cache or file of regions.
        model: its settings.
        change: of the frames as they are stored.
    """
    clip = model.clip
    count = int(file.attrs["frames"])
    if clip.every == "segments":
        views = segment_views(count, clip.frames, clip.temporal_views)
    else:
        views = dense_views(count, clip.frames, int(clip.every), clip.temporal_views)
    for numbers in views:
        squares = spatial_views(seen(file, numbers, model, change), clip.size, clip.spatial_views)
        yield torch.stack([_normalised(square, model) for square in squares])


def _one(file: h5py.File, model: Model) -> torch.Tensor:
    """The middle spatial view of the first temporal view, (channels, T, size, size)."""
    views = next(evaluation_clips(file, model))
    return views[len(views) // 2]


def seen(file: h5py.File, numbers: np.ndarray, model: Model, change: Change | None = None) -> torch.Tensor:
    """Frames (T, channels, height, width) uint8 as `model.input` requires; a region's channel is 0 or 255.

    A case without a region is shown whole: blanking would leave nothing.
    """
    stored = read(file, numbers)
    frames = torch.from_numpy(change(stored, numbers) if change else stored).permute(0, 3, 1, 2)
    if model.input == "whole":
        return frames
    found = bool(file.attrs["region_found"])
    if model.input == "crop":
        if not found:
            return frames
        height, width = frames.shape[-2:]
        box = tuple(int(edge) for edge in file.attrs["region_box"])
        x0, y0, x1, y1 = padded_box((box[0], box[1], box[2], box[3]), model.margin, height, width)
        return frames[..., y0:y1, x0:x1]
    places, inverse = np.unique(numbers, return_inverse=True)
    masks = torch.from_numpy(file["masks"][places][inverse])[:, None]
    if model.input == "blank":
        return frames * masks if found else frames
    return torch.cat([frames, masks * 255], dim=1)


def _normalised(frames: torch.Tensor, model: Model) -> torch.Tensor:
    mean, std = map(list, model.normalisation)
    if frames.shape[1] == 4:
        mean, std = [*mean, 0.0], [*std, 1.0]
    return normalised(frames, mean, std)
