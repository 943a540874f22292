"""Gaps between frames: runs, windows that end at them, and the grid of a network of whole videos."""

from pathlib import Path

import numpy as np
import pytest

from foldwise.video.decode import Frame
from foldwise.video.gaps import (
    MOST_HELD,
    MOST_PLACES,
    described,
    grid,
    in_words,
    runs,
    slow,
    starts,
    window_frames,
)
from foldwise.video.store import write_frames
from foldwise.video.windows import Windows
from videos import flat_frames


def run_of(times: np.ndarray, fps: float | None = 1, limit: float | None = None) -> np.ndarray:
    """Runs of frames of a source with at least as many frames per second as are kept."""
    return runs(np.rint(times * 100).astype(int), times, fps, limit)[0]


def test_frames_further_apart_than_the_limit_belong_to_two_runs() -> None:
    times = np.array([0, 1, 2.5, 4.1, 5, 8])
    assert run_of(times).tolist() == [0, 0, 0, 1, 1, 2]
    assert run_of(times, limit=3).tolist() == [0, 0, 0, 0, 0, 0]
    assert run_of(times, limit=2).tolist() == [0, 0, 0, 0, 0, 1]
    # All frames: the median step is 1.5 s, so the limit 2.25 s.
    assert run_of(times, None).tolist() == [0, 0, 0, 0, 0, 1]
    assert run_of(np.array([3.0])).tolist() == [0]


@pytest.mark.parametrize(("source", "fps"), [(30, 25), (29.97, 25), (15, 25), (0.5, 1), (25, 1), (24, 10)])
def test_a_constant_rate_has_no_gaps_at_any_rate_of_kept_frames(source: float, fps: float) -> None:
    """Kept frames are nearest to multiples of 1/fps; without some frames of the source there is a gap."""
    every = np.arange(2000) / source
    kept = np.unique([np.abs(every - t).argmin() for t in np.arange(0, every[-1], 1 / fps)])
    run, step = runs(kept, every[kept], fps)
    assert run.max() == 0
    assert step == pytest.approx(max(1 / fps, 1 / source), rel=1e-6)
    missing = np.delete(kept, [50, 51])
    assert runs(missing, every[missing], fps)[0].max() == 1
    places = grid(every[missing], runs(missing, every[missing], fps)[0], step)[1]
    assert places[-1] == len(kept) - 1


def test_a_pause_is_a_gap_though_no_frame_is_missing() -> None:
    times = np.concatenate([np.arange(100) / 25, 3600 + np.arange(100) / 25])
    assert runs(np.arange(200), times, None)[0].tolist() == [0] * 100 + [1] * 100


def test_time_stamps_rounded_to_a_clock_are_no_gaps() -> None:
    """90 kHz, and milliseconds as in Matroska, at 29.97 frames per second; one frame is left out."""
    for clock in (90_000, 1000):
        times = np.rint(np.arange(3000) * 1001 / 30_000 * clock) / clock
        assert runs(np.arange(3000), times, None)[0].max() == 0
        assert runs(np.arange(2999), np.delete(times, 1000), None)[0].max() == 1


def test_a_window_holds_the_first_frame_after_a_gap() -> None:
    first = starts(np.array([0, 0, 0, 1, 1, 2]))
    assert first.tolist() == [0, 0, 0, 3, 3, 5]
    windows = window_frames(first, np.array([2, 3, 4, 5]), 3)
    assert windows.tolist() == [[0, 1, 2], [3, 3, 3], [3, 3, 4], [5, 5, 5]]


def test_the_grid_holds_frames_at_their_times() -> None:
    times = np.array([10, 11, 12.1, 15, 15.9])
    shown, places = grid(times, run_of(times), 1)
    assert places.tolist() == [0, 1, 2, 5, 6]
    assert shown.tolist() == [0, 1, 2, 2, 2, 3, 4]
    # Two frames never share a place.
    times = np.array([0, 0.3, 1, 2])
    assert grid(times, run_of(times), 1)[1].tolist() == [0, 1, 2, 3]


def test_a_constant_rate_needs_no_grid() -> None:
    times = np.rint(np.arange(500) / 29.97 * 1000) / 1000
    shown, places = grid(times, np.zeros(500, np.int32), 1 / 29.97)
    assert shown.tolist() == places.tolist() == list(range(500))


def test_absurd_gaps_do_not_fill_the_memory() -> None:
    times = np.array([0, 1, 2, 1e7, 1e7 + 1])
    shown, places = grid(times, run_of(times), 1)
    assert places.tolist() == [0, 1, 2, 2 + MOST_HELD, 3 + MOST_HELD]
    assert len(shown) == 4 + MOST_HELD
    times = np.arange(10_000) * 500.0
    assert 10_000 <= len(grid(times, run_of(times), 1)[0]) <= MOST_PLACES
    times = np.arange(20_000) * 500.0
    assert len(grid(times, run_of(times), 1)[0]) == 20_000


def test_a_video_with_gaps_is_described() -> None:
    times = np.array([0, 1, 2, 12, 13, 20])
    facts = described(times, run_of(times))
    assert facts == {"frames": 6, "mean_fps": 0.25, "gaps": 2, "longest_gap_s": 10, "covered": 0.15}
    assert slow(facts, 1)
    assert not slow(facts, None)
    assert in_words(facts, 1) == (
        "6 frames, 0.25 per second instead of 1; 2 gap(s), the longest of 10 s; 15 % of its length is "
        "without gaps"
    )
    assert not slow(described(np.arange(9.0), np.zeros(9, np.int32)), 1)


def write(path: Path, times: np.ndarray, **arrays: np.ndarray) -> str:
    pictures = flat_frames(len(times), (8, 8))
    frames = [Frame(n, float(time), pictures[n]) for n, time in enumerate(times)]
    write_frames(path, "v", frames, arrays={"label": np.arange(len(times), dtype=np.int8), **arrays})
    return str(path)


def test_no_training_window_sees_across_a_gap(tmp_path: Path) -> None:
    times = np.array([0, 1, 2, 3, 10, 11, 30, 31, 32, 33])
    run = run_of(times)
    windows = Windows(
        [write(tmp_path / "a.h5", times, run=run)], 3, (1,), crop=(8, 8), flip=False, arrays=("label",)
    )
    ends, level = [], flat_frames(10, (8, 8))[:, 0, 0, 0]
    for number in range(windows.total):
        item = windows[number]
        labels, seen = item["label"].tolist(), item["frames"][:, 0, 0, 0].tolist()
        last = labels[-1]
        ends.append(last)
        chosen = [max(last + n, int(np.argmax(run == run[last]))) for n in (-2, -1, 0)]
        assert seen == level[chosen].tolist()
        # A repeated frame is learnt once, at its last place.
        assert labels == [n if chosen.count(n) == 1 or place == 2 - last + n else -1
                          for place, n in enumerate(chosen)]  # fmt: skip
        assert len({run[n] for n in labels if n >= 0}) == 1
    # A window still ends at every frame.
    assert sorted(ends) == list(range(2, 10))


@pytest.mark.parametrize("with_runs", [True, False])
def test_windows_of_a_constant_rate_are_slices(tmp_path: Path, with_runs: bool) -> None:
    arrays = {"run": np.zeros(9, np.int32)} if with_runs else {}
    path = write(tmp_path / "a.h5", np.arange(9.0), **arrays)
    windows = Windows([path], 4, (1,), crop=(8, 8), flip=False, arrays=("label",))
    level = flat_frames(9, (8, 8))[:, 0, 0, 0]
    for number in range(windows.total):
        first = windows.place(number)[1]
        assert windows[number]["label"].tolist() == list(range(first, first + 4))
        assert windows[number]["frames"][:, 0, 0, 0].tolist() == level[first : first + 4].tolist()
