"""Sessions with a simulated person: the place of the next hints, and the masks after each round."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from foldwise.systems.interactive.hints import Hints
from foldwise.systems.interactive.kinds import Choice, Kind
from foldwise.systems.interactive.session import Propagator, State
from foldwise.systems.interactive.user import draw_hints


@dataclass(frozen=True)
class Round:
    """A round of a simulated session.

    Attributes:
        number: number, from 1.
        place: the slice with the new hints.
        state: state after it.
        seconds: duration of the hint and the propagation.
    """

    number: int
    place: int
    state: State
    seconds: float


def simulate(
    propagator: Propagator,
    truth: np.ndarray,
    kind: Kind,
    choice: Choice,
    rounds: int,
    random: np.random.Generator,
) -> Iterator[Round]:
    """Rounds of a session; fewer than requested if no slice is left to choose.

    The first hints are given where the objects are largest, as a person would. After that, the truth decides
    what the person marks on a slice, but never which slice, unless the choice is labelled `oracle`.

    Args:
        propagator: of the volume.
        truth: object numbers (slices, rows, columns).
        kind: kind of hints.
        choice: how the slices after the first are chosen.
        rounds: number of rounds.
        random: for hints and choices.
    """
    objects = len(propagator.names)
    state = State.empty(objects, truth.shape)
    place: int | None = int((truth > 0).sum((1, 2)).argmax())
    for number in range(1, rounds + 1):
        if place is None:
            return
        hints = marked(truth[place], state.objects(place), objects, kind, random)
        begun = time.perf_counter()
        state = propagator.round(state, place, hints)
        yield Round(number, place, state, time.perf_counter() - begun)
        place = chosen(state, truth, choice, random)


def marked(
    truth: np.ndarray, seen: np.ndarray, objects: int, kind: Kind, random: np.random.Generator
) -> dict[int, Hints]:
    """A person's hints for every object on a slice."""
    return {n: draw_hints(truth == n + 1, seen == n + 1, kind, random) for n in range(objects)}


def chosen(state: State, truth: np.ndarray, choice: Choice, random: np.random.Generator) -> int | None:
    """The next slice for hints: the worst by prediction, the worst by truth, or a random one with a mask."""
    if choice == "predicted":
        return state.suggestion()
    found = state.objects()
    open_ = [n for n in range(len(found)) if n not in state.hinted and found[n].any()]
    if choice == "random":
        return int(random.choice(open_)) if open_ else None
    true = slice_iou(found, truth, len(state.quality)).min(0)
    true[list(state.hinted)] = 1
    true[~(truth > 0).any((1, 2))] = 1
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
