"""Scores of segments and transitions, by hand."""

import math

import numpy as np
import pytest

from foldwise.metrics.segments import boundary_error_s, edit_score, segment_f1
from foldwise.metrics.video import Video


def video(truth: list[int], found: list[int], times: list[float] | None = None) -> Video:
    return Video("v", np.array(truth), np.array(found), np.array(times or range(len(truth)), float), 1)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([0, 0, 1, 1, 2, 2], 1.0),
        ([0, 0, 0, 2, 2, 2], 2 / 3),  # one segment is missing
        ([0, 1, 0, 1, 2, 2], 3 / 5),  # two too many
        ([2, 2, 2, 2, 2, 2], 1 / 3),
        ([3, 3, 3, 3, 3, 3], 0.0),
    ],
)
def test_edit_score(found: list[int], expected: float) -> None:
    assert edit_score(video([0, 0, 1, 1, 2, 2], found)) == pytest.approx(expected)


@pytest.mark.parametrize("step", [0.1, 1, 7])
@pytest.mark.parametrize(
    ("found", "overlap", "expected"),
    [
        # Overlaps 3/4 and 4/5.
        ([0, 0, 0, 1, 1, 1, 1, 1], 0.5, 1.0),
        ([0, 0, 0, 1, 1, 1, 1, 1], 0.75, 1.0),
        ([0, 0, 0, 1, 1, 1, 1, 1], 0.78, 1 / 2),
        # Four segments found: 1/2 of the first, two wrong ones, all of the second.
        ([0, 0, 1, 0, 1, 1, 1, 1], 0.5, 4 / 6),
        ([0, 0, 1, 0, 1, 1, 1, 1], 0.1, 4 / 6),
        ([0, 0, 1, 0, 1, 1, 1, 1], 0.6, 2 / 6),
        ([1, 1, 1, 1, 0, 0, 0, 0], 0.1, 0.0),
    ],
)
def test_segment_f1_at_a_constant_rate(
    found: list[int], overlap: float, expected: float, step: float
) -> None:
    times = [step * n for n in range(8)]
    assert segment_f1(video([0] * 4 + [1] * 4, found, times), overlap) == pytest.approx(expected)


def test_segments_overlap_in_seconds() -> None:
    # The usual step is 2.5 s, the longest that a frame lasts.
    times = [0.0, 1, 2, 3, 7, 11, 15]
    sparse = video([0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1], times)
    assert sparse.seconds.tolist() == [1, 1, 1, 2.5, 2.5, 2.5, 2.5]
    # In seconds: 3/8 of phase 0 and 5/10 of phase 1; by frames 3/5 and 2/4.
    assert segment_f1(sparse, 0.5) == pytest.approx(2 / 4)
    assert segment_f1(sparse, 0.37) == 1
    assert segment_f1(video([0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1]), 0.5) == 1


def test_the_error_of_transitions() -> None:
    # Phase 1 begins at 2 s and is predicted at 3 s; phase 2 at 10 s, predicted at 3.5 s and again at 20 s.
    times = [0.0, 1, 2, 3, 3.5, 10, 20]
    assert boundary_error_s(video([0, 0, 1, 1, 1, 2, 2], [0, 0, 0, 1, 2, 1, 2], times)) == pytest.approx(
        (1 + 6.5) / 2
    )
    # Phase 1 is never predicted: the whole length counts, three frames of a second.
    assert boundary_error_s(video([0, 1, 1], [0, 0, 0])) == 3
    assert math.isnan(boundary_error_s(video([0, 0], [0, 1])))


def test_unknown_frames_are_left_out() -> None:
    truth, found = [-1, -1, 0, 0, 0, 1, 1, -1], [3, 3, 0, 0, 1, 1, 1, 3]
    assert edit_score(video(truth, found)) == 1
    assert boundary_error_s(video(truth, found)) == 1
