"""Scores of surgical phases and tools, against values computed by hand."""

import math

import numpy as np
import pytest

from foldwise.systems.surgical.metrics import (
    CHOLEC80_PHASES,
    average_precision,
    canonical,
    edit_score,
    legacy,
    phase_scores,
    relaxed,
    segment_f1,
    segments,
    strict,
    video_rows,
)

# At 0.2 frames per second, 10 s are two frames.
SLOW = 0.2
TRUTH = np.array([0] * 6 + [1] * 6)
FOUND = np.array([0, 0, 0, 0, 1, 1, 0, 1, 1, 1, 1, 2])


def bits(text: str) -> list[bool]:
    return [letter == "1" for letter in text]


def test_strict_relaxed_and_legacy_forgive_different_frames() -> None:
    assert strict(TRUTH, FOUND).tolist() == bits("111100011110")
    # Early into phase 1, late out of phase 0, and early into phase 2: all within two frames.
    assert relaxed(TRUTH, FOUND, SLOW).tolist() == bits("111111111111")
    # The released script forgives only the late frame: a match at the end is written at the start.
    assert legacy(TRUTH, FOUND, SLOW).tolist() == bits("111100111110")


def test_legacy_forgives_a_start_for_what_happens_at_the_end() -> None:
    truth, found = np.zeros(6, int), np.array([2, 0, 0, 0, 1, 1])
    assert legacy(truth, found, SLOW).tolist() == bits("111100")
    assert relaxed(truth, found, SLOW).tolist() == bits("011111")


def test_legacy_is_relaxed_where_a_segment_is_no_longer_than_the_tolerance() -> None:
    truth, found = np.zeros(2, int), np.array([1, 1])
    assert legacy(truth, found, SLOW).all()
    assert relaxed(truth, found, SLOW).all()


@pytest.mark.parametrize(
    ("phase", "found", "expected"),
    [
        # Late by two phases: forgiven in cleaning and retraction only.
        (4, [2, 3, 4, 4], "0111"),
        (5, [3, 4, 5, 5], "1111"),
        (6, [4, 5, 6, 6], "1111"),
        # Early by two phases: forgiven from dissection on only.
        (2, [2, 2, 4, 3], "1101"),
        (3, [3, 3, 5, 4], "1111"),
        (4, [4, 4, 6, 5], "1111"),
        # Too far from the border, and on the wrong side.
        (1, [1, 0, 0, 1, 1, 1], "110111"),
        (1, [1, 2, 1, 1, 1, 1], "101111"),
    ],
)
def test_neighbours_that_are_forgiven(phase: int, found: list[int], expected: str) -> None:
    truth = np.full(len(found), phase)
    assert relaxed(truth, np.array(found), SLOW).tolist() == bits(expected)


def test_the_tolerance_is_ten_seconds_at_the_given_rate() -> None:
    truth, found = np.array([0] * 40 + [1] * 40), np.array([0] * 55 + [1] * 25)
    assert relaxed(truth, found, 1).sum() == 40 + 10 + 25
    assert relaxed(truth, found, 2).sum() == 80


def scores(correct: np.ndarray, phase: int) -> list[float]:
    measured = phase_scores(TRUTH, FOUND, correct, phase)
    return [measured[name] for name in ("precision", "recall", "jaccard", "f1")]


def test_scores_of_a_phase() -> None:
    # Phase 0: 6 true, 5 found, 4 of both, 7 of either. Phase 1: 6, 6, 4 and 8.
    right = strict(TRUTH, FOUND)
    assert scores(right, 0) == pytest.approx([4 / 5, 4 / 6, 4 / 7, 8 / 11])
    assert scores(right, 1) == pytest.approx([4 / 6, 4 / 6, 4 / 8, 8 / 12])
    # Forgiven: five of seven frames; five of eight.
    forgiven = legacy(TRUTH, FOUND, SLOW)
    assert scores(forgiven, 0)[:3] == pytest.approx([5 / 5, 5 / 6, 5 / 7])
    assert scores(forgiven, 1)[:3] == pytest.approx([5 / 6, 5 / 6, 5 / 8])
    # 7 hits of 6 true frames are clipped to 1.
    assert scores(relaxed(TRUTH, FOUND, SLOW), 0) == [1, 1, 1, 1]
    assert all(math.isnan(value) for value in scores(right, 2))


def test_a_phase_that_is_never_found_scores_zero() -> None:
    truth, found = np.array([0, 0, 1]), np.array([0, 0, 0])
    measured = phase_scores(truth, found, strict(truth, found), 1)
    assert measured == {"precision": 0, "recall": 0, "jaccard": 0, "f1": 0}


def test_segments() -> None:
    assert segments(np.array([2, 2, 0, 2])) == [(2, 0, 2), (0, 2, 3), (2, 3, 4)]
    assert segments(np.array([], int)) == []


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
    assert edit_score(np.array([0, 0, 1, 1, 2, 2]), np.array(found)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("found", "overlap", "expected"),
    [
        # Overlaps 3/4 and 4/5.
        ([0, 0, 0, 1, 1, 1, 1, 1], 0.5, 1.0),
        ([0, 0, 0, 1, 1, 1, 1, 1], 0.78, 1 / 2),
        # Four segments found: 1/2 of the first, two wrong ones, all of the second.
        ([0, 0, 1, 0, 1, 1, 1, 1], 0.5, 4 / 6),
        ([0, 0, 1, 0, 1, 1, 1, 1], 0.1, 4 / 6),
        ([0, 0, 1, 0, 1, 1, 1, 1], 0.6, 2 / 6),
        ([1, 1, 1, 1, 0, 0, 0, 0], 0.1, 0.0),
    ],
)
def test_segment_f1(found: list[int], overlap: float, expected: float) -> None:
    truth = np.array([0] * 4 + [1] * 4)
    assert segment_f1(truth, np.array(found), overlap) == pytest.approx(expected)


def test_average_precision() -> None:
    # Ranked: present, absent, present, absent: (1/1 + 2/3) / 2.
    precision = average_precision(np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.7, 0.1]))
    assert precision == pytest.approx(5 / 6)
    assert math.isnan(average_precision(np.zeros(3), np.ones(3)))


def test_a_video_without_its_unknown_frames() -> None:
    truth = np.concatenate([[-1, -1], TRUTH, [-1]])
    found = np.concatenate([[3, 3], FOUND, [3]])
    video, rows = video_rows(truth, found, CHOLEC80_PHASES, SLOW)
    assert video["accuracy"] == pytest.approx(8 / 12)
    assert video["accuracy_relaxed"] == 1
    assert video["accuracy_legacy"] == pytest.approx(9 / 12)
    assert video["jaccard"] == pytest.approx((4 / 7 + 4 / 8) / 2)
    assert video["edit"] == pytest.approx(2 / 5)  # 0 1 against 0 1 0 1 2
    assert len(rows) == 7
    assert math.isnan(rows[2]["recall"])


def test_the_order_of_the_numbers_changes_no_score() -> None:
    other = (*CHOLEC80_PHASES[:4], *reversed(CHOLEC80_PHASES[4:]))
    truth = np.array([4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6])
    found = np.array([4, 4, 6, 5, 5, 4, 5, 6, 5, 6, 6, 6])
    swap = np.array([0, 1, 2, 3, 6, 5, 4])
    first, _ = video_rows(truth, found, CHOLEC80_PHASES, SLOW)
    second, _ = video_rows(swap[truth], swap[found], other, SLOW)
    assert first == second
    assert first["accuracy_relaxed"] > first["accuracy"]


def test_other_phases_have_no_relaxed_scores() -> None:
    assert canonical(("a", "b")) is None
    video, rows = video_rows(np.array([0, 1]), np.array([0, 0]), ("a", "b"), 1)
    assert video["accuracy"] == 0.5
    assert not any(name.endswith(("relaxed", "legacy")) for name in [*video, *rows[0]])
