"""Sessions by the challenge's protocol."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from foldwise.systems.interactive.engines import Engine, Scan
from foldwise.systems.interactive.rounds import Round, broken
from foldwise.systems.interactive.segfm3d import ROUNDS, round_marks
from foldwise.systems.interactive.session import advance
from foldwise.systems.interactive.state import State


def simulate_protocol(
    engine: Engine,
    scan: Scan,
    truth: np.ndarray,
    names: Sequence[str],
    *,
    axis: int,
    random: np.random.Generator,
) -> Iterator[Round]:
    """The six rounds of `segfm3d`: a box for every object, then a click for every one that is wrong.

    Where all are right, a round repeats the one before, in no time. A truth without any object has no rounds.

    Args:
        engine: opened on the scan.
        scan: the scan.
        truth: (x, y, z) object numbers.
        names: of the objects; the first one has number 1.
        axis: across the slices; the challenge's is 2.
        random: for the boxes.
    """
    state, place = State.empty(truth.shape, axis), 0
    for number in range(1, ROUNDS + 1):
        marks = round_marks(number, truth, state.labels, range(1, len(names) + 1), random, axis)
        if number == 1 and not marks:
            return
        begun = time.perf_counter()
        if marks:
            place = min(marks[min(marks)].planes())
            state = advance(engine, scan, state, {each: (given,) for each, given in marks.items()}, names)
        seconds = time.perf_counter() - begun
        yield Round(number, place, state, seconds, broken(state), state.suggestion() is None)
