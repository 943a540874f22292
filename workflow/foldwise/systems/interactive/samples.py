"""Training samples: a few slices of a volume in the order of a propagation, and hints on one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import h5py
import numpy as np
import torch

from foldwise.files import CaseError
from foldwise.systems.interactive.hints import hint_input, window_of
from foldwise.systems.interactive.kinds import Kind
from foldwise.systems.interactive.user import draw_hints
from foldwise.volumes.augment import augment
from foldwise.volumes.cache import open_case
from foldwise.volumes.patches import normalise, scaling
from foldwise.volumes.settings import Augmentation, Intensity
from foldwise.volumes.slices import AXES, Window, plane

# Error of extreme points and corners, as a share of the object's extent.
JITTER = 0.05
# Share of hints drawn with a mask already shown: that of a neighbouring slice.
SHOWN = 0.5
FARTHEST = 3


@dataclass(frozen=True)
class Curriculum:
    """Distance between consecutive slices of a sample: at first small, later larger.

    Attributes:
        first: largest step from slice to slice at the start.
        last: largest step at the end.
        every: number of samples after which it grows by one.
    """

    first: int
    last: int
    every: int

    def at(self, number: int) -> int:
        """Largest step of a sample, by its number."""
        return min(self.last, self.first + number // self.every)


class Samples:
    """Samples of caches; the n-th is a pure function of (seed, n)."""

    def __init__(
        self,
        caches: Sequence[str],
        membership: np.ndarray,
        *,
        axis: str,
        size: int,
        frames: int,
        curriculum: Curriculum,
        kinds: Sequence[Kind],
        intensity: Sequence[Intensity],
        augmentation: Augmentation | None,
        seed: Sequence[int],
    ) -> None:
        """Store the sources and properties of samples.

        Args:
            caches: caches of the cases.
            membership: (objects, 1 + classes) bool: whether a class number of the label belongs to an object.
            axis: the axis across the slices.
            size: edge of the network's input.
            frames: number of slices of a sample.
            curriculum: their distances.
            kinds: kinds of hints, drawn evenly.
            intensity: scaling of grey values.
            augmentation: random changes, or None.
            seed: whole numbers.

        Raises:
            CaseError: no case has an object.
        """
        self.caches, self.membership, self.axis, self.size = list(caches), membership, axis, size
        self.frames, self.curriculum, self.kinds = frames, curriculum, list(kinds)
        self.intensity, self.augmentation, self.seed = intensity, augmentation, list(seed)
        self.filled: dict[str, np.ndarray] = {}
        # The label determines which slices hold an object; an empty case teaches nothing here.
        self.caches = [path for path in self.caches if self._filled(path).any()]
        if not self.caches:
            raise CaseError("no training case has a voxel of the objects to segment")

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """A sample.

        Returns:
            image (frames, channels, size, size) and mask (frames, size, size) uint8 object numbers, the
            reference first; hint_input (channels + hint channels, size, size) and hint_target (size, size).
        """
        random = np.random.default_rng(np.random.SeedSequence([*self.seed, number]))
        path = self._case(number)
        places = self._places(self._filled(path), self.curriculum.at(number), random)
        hinted, shown = self._hinted(self._filled(path), random)
        image, label, spacing, fill = self._read(path, [*places, hinted, shown], random)
        count = len(places)
        window = Window.round((0, 0), (label.shape[1], label.shape[2]), spacing, self.size)
        inputs = window.to_input(image[:count], fill)
        parts = (label[:count, None] == torch.arange(1, len(self.membership) + 1)[:, None, None]).float()
        share = window.to_input(parts)
        best, which = share.max(1)
        mask = torch.where(best > 0.5, which + 1, 0).to(torch.uint8)
        hint_input, hint_target = self._hint(image[count], label[count:], spacing, fill, random)
        return {"image": inputs, "mask": mask, "hint_input": hint_input, "hint_target": hint_target}

    def _case(self, number: int) -> str:
        """Every case once, in random order, before any case is repeated."""
        turn, place = divmod(number, len(self.caches))
        order = np.random.default_rng(np.random.SeedSequence([*self.seed, 1, turn])).permutation(
            len(self.caches)
        )
        return self.caches[order[place]]

    def _filled(self, path: str) -> np.ndarray:
        """(objects, slices) bool: where an object is present."""
        if path not in self.filled:
            axis = AXES.index(self.axis)
            with open_case(path) as file:
                where_filled = np.zeros((len(self.membership), file["label"].shape[axis]), bool)
                # From the stored coordinates, since reading whole labels of many large cases takes minutes.
                for number, name in enumerate(file.attrs["classes"], start=1):
                    where = np.unique(file["foreground"][name][:, axis])
                    for row in np.flatnonzero(self.membership[:, number]):
                        where_filled[row, where] = True
            self.filled[path] = where_filled
        return self.filled[path]

    def _places(self, filled: np.ndarray, skip: int, random: np.random.Generator) -> list[int]:
        """Slices of a sample in increasing order, but those up to the reference reversed: it comes first.

        They may extend one step beyond the object, so that a network learns where to stop.
        """
        whole = np.flatnonzero(filled.any(0))
        low, high = max(0, int(whole[0]) - skip), min(filled.shape[1] - 1, int(whole[-1]) + skip)
        steps = random.integers(1, skip + 1, self.frames - 1)
        while steps.sum() > high - low and steps.max() > 1:
            steps[steps.argmax()] -= 1
        anchor, reference = int(random.choice(whole)), int(random.integers(self.frames))
        numbers = anchor + np.concatenate([[0], steps]).cumsum() - steps[:reference].sum()
        numbers = np.clip(numbers, low, high)
        return [*numbers[: reference + 1][::-1].tolist(), *numbers[reference + 1 :].tolist()]

    def _hinted(self, filled: np.ndarray, random: np.random.Generator) -> tuple[int, int]:
        """A slice for the hints, and the slice whose mask is shown there."""
        chosen = int(random.choice(np.flatnonzero(filled.any(0))))
        away = int(random.integers(1, FARTHEST + 1)) * int(random.choice([-1, 1]))
        return chosen, int(np.clip(chosen + away, 0, filled.shape[1] - 1))

    def _read(
        self, path: str, places: Sequence[int], random: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[float, float], float]:
        """Slices of a case, augmented equally: images, object numbers, mm per row and column, the fill."""
        with open_case(path) as file:
            image = read_slices(file["image"], self.axis, places)
            label = read_slices(file["label"], self.axis, places)
            scales = scaling(file, self.intensity)
            spacing = np.asarray(file.attrs["spacing"], float)
        # (slices, channels, rows, columns) as a volume whose first axis is across the slices.
        volume = normalise(torch.from_numpy(image).movedim(1, 0), scales)[None]
        numbers = torch.from_numpy(objects_of(label, self.membership))[None]
        rows, columns = plane(self.axis)
        steps = torch.tensor([[spacing[AXES.index(self.axis)], spacing[rows], spacing[columns]]]).float()
        if self.augmentation is not None:
            generator = torch.Generator().manual_seed(int(random.integers(2**62)))
            if self.augmentation.flip:
                axes = [axis for axis in (2, 3) if random.random() < 0.5]
                volume, numbers = volume.flip([axis + 1 for axis in axes]), numbers.flip(axes)
            still = self.augmentation.model_copy(update={"flip": False})
            volume, numbers = augment(volume, numbers, steps, still, generator, across=0)
        fill = float(volume.amin())
        return volume[0].movedim(0, 1), numbers[0], (spacing[rows], spacing[columns]), fill

    def _hint(
        self,
        image: torch.Tensor,
        label: torch.Tensor,
        spacing: tuple[float, float],
        fill: float,
        random: np.random.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The hint network's input and target for the first slice; the second may provide the mask shown."""
        present = [n for n in range(1, len(self.membership) + 1) if (label[0] == n).any()]
        number = int(random.choice(present)) if present else 1
        truth = (label[0] == number).numpy()
        seen = (label[1] == number).numpy()
        if random.random() > SHOWN or not truth.any():
            seen = np.zeros_like(truth)
        kind = self.kinds[int(random.integers(len(self.kinds)))]
        extent = np.ptp(np.argwhere(truth), 0).max() if truth.any() else 0
        hints = draw_hints(truth, seen, kind, random, jitter=JITTER * float(extent), spacing=spacing)
        window = window_of(hints, seen, spacing, self.size)
        inputs = hint_input(image[None], hints, seen, window, fill)[0]
        target = window.to_input(torch.from_numpy(truth).float()[None, None])[0, 0] > 0.5
        return inputs, target


def read_slices(dataset: h5py.Dataset, axis: str, places: Sequence[int]) -> np.ndarray:
    """Slices (n, [channels,] rows, columns) of a volume ([channels,] x, y, z), in the order given."""
    first = min(places)
    number = dataset.ndim - 3 + AXES.index(axis)
    where = tuple(
        slice(first, max(places) + 1) if this == number else slice(None) for this in range(dataset.ndim)
    )
    found = np.moveaxis(dataset[where], number, 0)
    return np.ascontiguousarray(found[np.subtract(places, first)])


def objects_of(label: np.ndarray, membership: np.ndarray) -> np.ndarray:
    """Object numbers for class numbers: 1… in the order of the rows of `membership`; 0 elsewhere."""
    numbers = np.zeros(membership.shape[1], np.uint8)
    for number, row in enumerate(membership, start=1):
        numbers[row] = number
    objects: np.ndarray = numbers[label]
    return objects
