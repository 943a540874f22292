"""The protocol of the CVPR 2025 challenge on interactive 3-D segmentation: a box and five clicks.

"Foundation Models for Interactive 3D Biomedical Image Segmentation" (codabench.org/competitions/5263). Its
rules are those of the evaluation program CVPR25_iter_eval.py, of get_boxes.py, which made the boxes, and of
the README in github.com/JunMa11/CVPR-MedSegFMCompetition, commit 748e862. Where text and program differ,
the program is followed:

* Middle slice. Text: the middle slice. Program: of the slices with the object, in order, number ⌊n/2⌋
  (from 0), so that a gap is never chosen.
* Box. Text: the bounding box on that slice. Program: enlarged at random, see `first_marks`.
* Click. Text: the centre of the largest error. Program: its deepest voxel, see `next_click`. Sizes and
  depths are counted in voxels, also where voxels are not cubes.
* NSD. Text: NSD. Program: 0 for all objects of a case whose mean Dice is at most 0.2.
* Area. Text: over all six steps. Program: over the five clicks alone, since the box is optional.
* Time. Text: 90 s per class and run, beyond which Dice and NSD are 0. Program: all six runs of a case
  together, against 90 s times its number of objects; it only warns. Followed: the time of the program, the
  0 of the text.

All objects of a case get their marks at the same time, and each is scored in the label map of all. Objects
that the truth lacks are neither marked nor scored. The program writes the mean over a case's objects; means
over cases are taken of these.

The challenge gives no box for some cases (some vessels, and microscopy): their score after the box is 0, and
the first click is the deepest voxel of the object. Which these are is said by its files, not by a rule, so
here every object has a box. Its images are prepared (windowed to 8 bits, cut to labelled slices); ours are
not, so figures on other data are comparable in their rules only. Components of which the box (with a margin
of a quarter) exceeds 60 million voxels are reduced by half before the depth is computed there; not here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
import torch
from monai.metrics import compute_surface_dice
from scipy.ndimage import distance_transform_edt

from foldwise.systems.interactive.kinds import PROTOCOLS
from foldwise.systems.interactive.marks import Marks
from foldwise.volumes.geometry import bounding_box

# The first round is the box.
ROUNDS = PROTOCOLS["segfm3d"]
CLICKS = ROUNDS - 1
TOLERANCE_MM = 2.0
# NSD counts only above this mean Dice.
LEAST_DICE = 0.2
# Time per object for all rounds of a case.
MOST_SECONDS = 90.0
# A box grows by at most so many voxels on each side, of 256.
GROWTH = 5
# The program seeds its choice among equally deep voxels anew for each click.
SEED = 42


@dataclass(frozen=True)
class Score:
    """An object after a round: Dice, and NSD at 2 mm, both 0 to 1."""

    dice: float
    nsd: float


@dataclass(frozen=True)
class Outcome:
    """An object after all rounds.

    Attributes:
        dice: Dice after the last click.
        nsd: NSD after the last click.
        dice_auc: area under Dice over the five clicks, 0 to 4.
        nsd_auc: the same of NSD.
        dice_box: Dice after the box.
        nsd_box: NSD after the box.
        seconds_per_class: the time of all rounds of the case, divided by its number of objects.
        late: whether that exceeds 90 s; then all scores are 0.
    """

    dice: float
    nsd: float
    dice_auc: float
    nsd_auc: float
    dice_box: float
    nsd_box: float
    seconds_per_class: float
    late: bool


def round_marks(
    number: int,
    truth: np.ndarray,
    found: np.ndarray,
    objects: Iterable[int],
    random: np.random.Generator,
    axis: int = 2,
) -> dict[int, Marks]:
    """The marks of a round: object number → its marks, for objects that the truth has and that get a mark.

    Without any mark (all objects are right) the round is the last one, repeated.

    Args:
        number: of the round, from 1 (the box) to 6.
        truth: (x, y, z) object numbers.
        found: (x, y, z) object numbers after the round before.
        objects: their numbers.
        random: for the boxes.
        axis: the axis (0 to 2) across the slices; the challenge's is 2.
    """
    marks: dict[int, Marks] = {}
    for each in objects:
        real = truth == each
        if not real.any():
            continue
        given = first_marks(real, axis, random) if number == 1 else next_click(real, found == each, axis)
        if given is not None:
            marks[each] = given
    return marks


def first_marks(truth: np.ndarray, axis: int = 2, random: np.random.Generator | None = None) -> Marks:
    """The first marks of an object: a box on its middle slice, and its first and last slice.

    The middle slice is number ⌊n/2⌋ (from 0) of the n slices with the object. The box is the bounding box
    there, with a random whole number of 0 to 5 drawn once: each side moves out by this × the image's extent
    along that axis / 256, rounded down, at most to the border.

    Args:
        truth: (x, y, z) bool, not empty.
        axis: the axis (0 to 2) across the slices.
        random: for the margin; None: no margin.
    """
    others = tuple(number for number in range(3) if number != axis)
    slices = np.flatnonzero(truth.any(others))
    middle = int(slices[len(slices) // 2])
    where = np.argwhere(truth.take(middle, axis))
    extent = np.array([truth.shape[number] for number in others])
    margin = (0 if random is None else int(random.integers(GROWTH + 1))) * extent // 256
    corners = np.stack([np.maximum(where.min(0) - margin, 0), np.minimum(where.max(0) + margin, extent - 1)])
    box = np.insert(corners, axis, middle, axis=1)
    return Marks(axis, boxes=box[None], spans=np.array([[slices[0], slices[-1]]], np.int64))


def next_click(truth: np.ndarray, found: np.ndarray, axis: int = 2) -> Marks | None:
    """The next click: the deepest voxel of the largest wrong part, inside if it is missing, else outside.

    Wrong voxels, missing ones and excess together, are joined into parts through faces, edges and corners.
    The largest has the most voxels; of equal ones, the first in the order of the challenge's arrays (slice,
    row, column: z, y, x). The deepest voxel has the largest Euclidean distance, in voxels, to the nearest one
    outside the part; beyond the image is outside. Of equally deep ones, in the same order, NumPy's old
    generator chooses with the seed 42.

    Args:
        truth: (x, y, z) bool.
        found: (x, y, z) bool.
        axis: the axis (0 to 2) across the slices.

    Returns:
        The click, or None if nothing is wrong.
    """
    # Arrays of the challenge are (z, y, x).
    order = (axis, *(number for number in (2, 1, 0) if number != axis))
    wrong = (truth != found).transpose(order)
    if not wrong.any():
        return None
    start, part = _largest(wrong)
    depth = distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1, 1:-1]
    deepest = np.argwhere(depth == depth.max())
    chosen = np.random.RandomState(SEED).choice(len(deepest))
    voxel = np.empty(3, np.int64)
    voxel[list(order)] = start + deepest[chosen]
    if truth[tuple(voxel)]:
        return Marks(axis, inside=voxel[None])
    return Marks(axis, outside=voxel[None])


def scores(
    truth: np.ndarray, found: np.ndarray, spacing: Sequence[float], objects: Iterable[int]
) -> dict[int, Score]:
    """Object number → its scores, for the objects that the truth has.

    NSD is the surface Dice at 2 mm of DeepMind's surface-distance (Nikolov et al. 2018, arXiv:1809.04430),
    which weights the elements of the surface by their area. It is 0 for all objects if their mean Dice is at
    most 0.2.

    Args:
        truth: (x, y, z) object numbers.
        found: (x, y, z) object numbers.
        spacing: voxel edges along x, y and z. mm.
        objects: their numbers.
    """
    pairs = {each: (truth == each, found == each) for each in objects if (truth == each).any()}
    dice = {
        each: 2 * float((real & mask).sum()) / float(real.sum() + mask.sum())
        for each, (real, mask) in pairs.items()
    }
    counts = bool(dice) and float(np.mean(list(dice.values()))) > LEAST_DICE
    return {
        each: Score(dice[each], _nsd(real, mask, spacing) if counts else 0.0)
        for each, (real, mask) in pairs.items()
    }


def area(values: Sequence[float]) -> float:
    """Area under the values after the five clicks by the trapezoid rule, a click apart: at most 4."""
    if len(values) != CLICKS:
        raise ValueError(f"{len(values)} values; the area needs those after each of {CLICKS} clicks")
    return float(np.trapezoid(values))


def outcomes(rounds: Sequence[Mapping[int, Score]], seconds: Sequence[float]) -> dict[int, Outcome]:
    """Object number → its outcome in a case.

    Args:
        rounds: scores after each of the six rounds; a round without marks repeats the one before.
        seconds: duration of each round. Neither drawing nor scoring counts.
    """
    if len(rounds) != ROUNDS:
        raise ValueError(f"{len(rounds)} rounds; a box and {CLICKS} clicks are {ROUNDS}")
    found = {}
    each_seconds = float(sum(seconds)) / max(len(rounds[0]), 1)
    late = each_seconds > MOST_SECONDS
    for each in rounds[0]:
        dice = [0.0 if late else after[each].dice for after in rounds]
        nsd = [0.0 if late else after[each].nsd for after in rounds]
        found[each] = Outcome(
            dice[-1], nsd[-1], area(dice[1:]), area(nsd[1:]), dice[0], nsd[0], each_seconds, late
        )
    return found


def _largest(wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start of the box around the largest part, and the part within the box; among equals, the first."""
    box = bounding_box(wrong, 0, (1.0, 1.0, 1.0)).slices
    # cc3d numbers parts by their first voxel, in the order of memory; it fails on some arrays that are one
    # voxel thin.
    parts = cc3d.connected_components(np.ascontiguousarray(np.pad(wrong[box], 1)), connectivity=26)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    part = parts[1:-1, 1:-1, 1:-1] == sizes.argmax()
    around = bounding_box(part, 0, (1.0, 1.0, 1.0)).slices
    start = [outer.start + within.start for outer, within in zip(box, around, strict=True)]
    return np.array(start), part[around]


def _nsd(truth: np.ndarray, found: np.ndarray, spacing: Sequence[float]) -> float:
    if not found.any():
        return 0.0
    box = bounding_box(truth | found, 0, (1.0, 1.0, 1.0)).slices
    real, mask = (torch.from_numpy(np.ascontiguousarray(each[box]))[None, None] for each in (truth, found))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)  # MONAI's own call
        value = compute_surface_dice(
            mask,
            real,
            [TOLERANCE_MM],
            include_background=True,
            spacing=[float(edge) for edge in spacing],
            use_subvoxels=True,
        )
    return float(value)
