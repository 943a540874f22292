"""Which frames each form counts as correct, by hand, and by seconds as by frames at a constant rate."""

import numpy as np
import pytest

from foldwise.metrics.video import (
    CHOLEC80_PHASES,
    M2CAI_PHASES,
    Video,
    canonical,
    correct_frames,
    legacy2016,
    relaxed,
    segments,
)

# At 0.2 frames per second, 10 s are two frames.
SLOW = 0.2
TRUTH = np.array([0] * 6 + [1] * 6)
FOUND = np.array([0, 0, 0, 0, 1, 1, 0, 1, 1, 1, 1, 2])


def bits(text: str) -> list[bool]:
    return [letter == "1" for letter in text]


def by_time(truth: np.ndarray, found: np.ndarray, fps: float, last: int = 6) -> np.ndarray:
    times = np.arange(len(truth)) / fps
    return relaxed(truth, found, times, np.full(len(truth), 1 / fps), last=last)


def by_frames(truth: np.ndarray, found: np.ndarray, reach: int) -> np.ndarray:
    """The tolerance in frames, in loops."""
    correct = truth == found
    for phase, begin, end in segments(truth):
        for j in range(begin, end):
            step = found[j] - phase
            if j - begin < reach and (step == -1 or (step == -2 and phase >= 5)):
                correct[j] = True
            if end - j <= reach and (step == 1 or (step == 2 and phase >= 3)):
                correct[j] = True
    return correct


def test_strict_relaxed_and_legacy_forgive_different_frames() -> None:
    video = Video("v", TRUTH, FOUND, np.arange(12) / SLOW, SLOW)
    forms = correct_frames(video, CHOLEC80_PHASES)
    assert forms["strict"].tolist() == bits("111100011110")
    # Early into phase 1, late out of phase 0, and early into phase 2: all within two frames.
    assert forms["relaxed"].tolist() == bits("111111111111")
    # The released script forgives only the late frame: a match at the end is written at the start.
    assert forms["legacy2016"].tolist() == bits("111100111110")


def test_legacy_forgives_a_start_for_what_happens_at_the_end() -> None:
    truth, found = np.zeros(6, int), np.array([2, 0, 0, 0, 1, 1])
    assert legacy2016(truth, found, SLOW).tolist() == bits("111100")
    assert by_time(truth, found, SLOW).tolist() == bits("011111")


def test_legacy_is_relaxed_where_a_segment_is_no_longer_than_the_tolerance() -> None:
    truth, found = np.zeros(2, int), np.array([1, 1])
    assert legacy2016(truth, found, SLOW).all()
    assert by_time(truth, found, SLOW).all()


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
    assert by_time(truth, np.array(found), SLOW).tolist() == bits(expected)
    # M2CAI's eight phases are the same after one more.
    assert by_time(truth + 1, np.array(found) + 1, SLOW, last=7).tolist() == bits(expected)


@pytest.mark.parametrize("fps", [0.2, 0.5, 1, 2.5, 25])
def test_at_a_constant_rate_seconds_are_frames(fps: float) -> None:
    random = np.random.default_rng(0)
    for _ in range(40):
        truth, found = (np.repeat(random.integers(7, size=12), random.integers(1, 30, 12)) for _ in range(2))
        length = min(len(truth), len(found))
        truth, found = truth[:length], found[:length]
        expected = by_frames(truth, found, round(10 * fps))
        np.testing.assert_array_equal(by_time(truth, found, fps), expected)


def test_in_a_sparse_video_ten_seconds_are_not_ten_frames() -> None:
    # Frames at 0, 1, 2, then every 5 s: of the second segment, only those at 20 and 25 s are within 10 s.
    times = np.array([0, 1, 2, 3, 4, 20, 25, 30, 35, 40, 60])
    truth = np.array([0] * 5 + [1] * 6)
    found = np.array([0] * 10 + [1])
    video = Video("v", truth, found, times, 1)
    assert correct_frames(video, CHOLEC80_PHASES)["relaxed"].tolist() == bits("11111110001")
    assert correct_frames(video, CHOLEC80_PHASES)["legacy2016"].all()


def test_a_frame_before_a_gap_lasts_the_usual_step() -> None:
    # The first segment ends at 6 s, not at 100 s: the frame at 5 s is within its last 10 s.
    times = np.array([0, 1, 2, 3, 4, 5, 100, 101, 102])
    video = Video("v", np.array([0] * 6 + [1] * 3), np.array([0] * 5 + [1] * 4), times, 1)
    assert video.seconds.tolist() == [1] * 9
    assert correct_frames(video, CHOLEC80_PHASES)["relaxed"].all()


def test_frames_of_unknown_phase_are_left_out_but_last_until_the_next() -> None:
    truth = np.array([0, -1, 0, 1, -1])
    video = Video("v", truth, np.array([0, 3, 0, 1, 3]), np.array([0, 1, 2, 3, 4]), 1)
    assert video.seconds.tolist() == [1] * 5
    assert correct_frames(video, ("a", "b", "c", "d"))["strict"].tolist() == bits("111")


def test_other_phases_have_no_tolerance_and_any_order_has() -> None:
    assert canonical(("a", "b")) is None
    video = Video("v", np.array([0, 1]), np.array([0, 0]), np.arange(2), 1)
    assert set(correct_frames(video, ("a", "b"))) == {"strict"}
    assert set(correct_frames(video, M2CAI_PHASES)) == {"strict", "relaxed", "legacy2016"}
    other = (*CHOLEC80_PHASES[:4], *reversed(CHOLEC80_PHASES[4:]))
    truth = np.array([4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6])
    found = np.array([4, 4, 6, 5, 5, 4, 5, 6, 5, 6, 6, 6])
    swap, times = np.array([0, 1, 2, 3, 6, 5, 4]), np.arange(12)
    first = correct_frames(Video("v", truth, found, times, 1), CHOLEC80_PHASES)
    second = correct_frames(Video("v", swap[truth], swap[found], times, 1), other)
    for form, frames in first.items():
        np.testing.assert_array_equal(frames, second[form])


def test_segments() -> None:
    assert segments(np.array([2, 2, 0, 2])) == [(2, 0, 2), (0, 2, 3), (2, 3, 4)]
    assert segments(np.array([], int)) == []
