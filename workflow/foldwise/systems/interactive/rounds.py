"""Sessions with a simulated person: the slice of the next marks, and the masks after each round."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from foldwise.systems.interactive.engines import Engine, Scan
from foldwise.systems.interactive.kinds import Choice, Kind
from foldwise.systems.interactive.marks import Marks, settled
from foldwise.systems.interactive.session import advance
from foldwise.systems.interactive.state import State
from foldwise.systems.interactive.user import draw_marks


@dataclass(frozen=True)
class Round:
    """A round of a simulated session.

    Attributes:
        number: number, from 1.
        place: the slice with the new marks.
        state: state after it.
        seconds: its duration, without that of the person.
        broken: marked voxels that the masks contradict; 0 unless there is a defect.
        over: whether nothing is left to do after it.
    """

    number: int
    place: int
    state: State
    seconds: float
    broken: int
    over: bool


def simulate(
    engine: Engine,
    scan: Scan,
    truth: np.ndarray,
    names: Sequence[str],
    *,
    axis: int,
    kind: Kind,
    choice: Choice,
    rounds: int,
    random: np.random.Generator,
) -> Iterator[Round]:
    """Rounds of a session; fewer than requested if no slice is left to choose.

    The first marks are made where the objects are largest, as a person would. After that, the truth decides
    what the person marks on a slice, but never which slice, unless the choice is labelled `oracle`.

    Args:
        engine: opened on the scan.
        scan: the scan.
        truth: (x, y, z) object numbers.
        names: of the objects.
        axis: across the slices.
        kind: kind of marks.
        choice: how the slices after the first are chosen.
        rounds: number of rounds.
        random: for marks and choices.
    """
    state = State.empty(truth.shape, axis)
    slices = np.moveaxis(truth, axis, 0)
    place: int | None = int((slices > 0).sum((1, 2)).argmax())
    for number in range(1, rounds + 1):
        if place is None:
            return
        new = marked(slices[place], state, place, len(names), kind, random, scan.spacing)
        begun = time.perf_counter()
        state = advance(engine, scan, state, new, names)
        seconds = time.perf_counter() - begun
        over = state.suggestion() is None
        yield Round(number, place, state, seconds, broken(state), over)
        place = chosen(state, truth, len(names), choice, random)


def marked(
    truth: np.ndarray,
    state: State,
    place: int,
    objects: int,
    kind: Kind,
    random: np.random.Generator,
    spacing: tuple[float, float, float],
) -> dict[int, tuple[Marks, ...]]:
    """A person's marks of every object on a slice, which show the truth (rows, columns) there."""
    seen = state.slice_of(place)
    return {
        n: (draw_marks(truth == n, seen == n, kind, random, axis=state.axis, place=place, spacing=spacing),)
        for n in range(1, objects + 1)
    }


def broken(state: State) -> int:
    """Number of marked voxels that the masks contradict."""
    return sum(
        settled(said, state.labels.shape).broken(state.labels == number)
        for number, said in state.marks.items()
    )


def chosen(
    state: State, truth: np.ndarray, objects: int, choice: Choice, random: np.random.Generator
) -> int | None:
    """The next slice for marks: the most doubtful one, the worst by truth, or a random one with a mask."""
    if choice == "predicted":
        suggestion = state.suggestion()
        return None if suggestion is None else suggestion.place
    hinted = sorted(set().union(*(state.hinted(number) for number in state.marks)))
    found, real = (np.moveaxis(labels, state.axis, 0) for labels in (state.labels, truth))
    if choice == "random":
        open_ = [n for n in range(len(found)) if n not in hinted and found[n].any()]
        return int(random.choice(open_)) if open_ else None
    true = slice_iou(found, real, objects).min(0)
    true[hinted] = 1
    true[~(real > 0).any((1, 2))] = 1
    return int(true.argmin()) if true.min() < 1 else None


def slice_iou(found: np.ndarray, truth: np.ndarray, objects: int) -> np.ndarray:
    """True IoU (objects, slices); 1 where an object is neither present nor found.

    Args:
        found: object numbers (slices, rows, columns).
        truth: true object numbers, of the same shape.
        objects: number of objects.
    """
    scores = np.ones((objects, len(found)))
    for number in range(objects):
        one, other = found == number + 1, truth == number + 1
        either = (one | other).sum((1, 2))
        both = (one & other).sum((1, 2))
        np.divide(both, either, out=scores[number], where=either > 0)
    return scores
