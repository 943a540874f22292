"""Gaps between the frames of a video: which frames follow each other, and their places on a regular grid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

# Frames further apart than this many usual steps are not neighbours, unless a limit is set.
MOST_STEPS = 1.5
# Share of a step by which rounded time stamps may be off.
ROUNDED = 0.05
# A gap takes at most this many places of a grid, a minute at one frame per second: enough for a network to
# notice it. A grid has at most as many as four hours at one per second, or as frames.
MOST_HELD = 60
MOST_PLACES = 4 * 3600
# A video with fewer frames than this share of the nominal rate has large gaps, or another rate.
SLOW = 0.8


def runs(
    numbers: np.ndarray, times: np.ndarray, fps: float | None, limit: float | None = None
) -> tuple[np.ndarray, float]:
    """Divide a video into runs: frames further apart than the limit belong to two of them.

    Args:
        numbers: (n,) of the kept frames in the source.
        times: (n,) increasing. s.
        fps: frames kept per second; None: all.
        limit: longest step within a run; None: one and a half usual steps. s.

    Returns:
        The run of each frame, (n,) int32 from 0; and the usual step in seconds: 1/`fps`, or that of a source
        with fewer frames; the median if all frames are kept.
    """
    if len(times) < 2:
        return np.zeros(len(times), np.int32), 1 / fps if fps else 0.0
    steps = np.diff(times)
    source = float(np.median(steps / np.diff(numbers)))
    step = float(np.median(steps)) if fps is None else max(1 / fps, source)
    if limit is None:
        # Of a source with 30 frames per second, 25 are kept either one or two frames apart.
        most = math.ceil(step / source - ROUNDED) if source > 0 else 1
        limit = max(MOST_STEPS * step, (most + 0.5) * source)
    # Time stamps are rounded to a container's clock.
    apart = steps > limit * (1 + 1e-6)
    return np.concatenate([[0], np.cumsum(apart)]).astype(np.int32), step


def starts(run: np.ndarray) -> np.ndarray:
    """The first frame of each frame's run, (n,) int64."""
    return np.searchsorted(run, run, side="left")


def window_frames(starts: np.ndarray, ends: np.ndarray, length: int) -> np.ndarray:
    """The frames of windows that never cross a gap: places before it hold the first frame after it.

    Args:
        starts: (n,) the first frame of each frame's run.
        ends: (m,) last frames of the windows.
        length: of a window.

    Returns:
        (m, length) int64, frames of the video.
    """
    frames = ends[:, None] + np.arange(1 - length, 1)
    return np.maximum(frames, starts[ends][:, None])


def grid(times: np.ndarray, run: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """A video on a regular grid in time, for a network that sees it as a whole.

    A frame has the place round(time/step), but at least the one after its predecessor. A gap takes at most
    `MOST_HELD` places, or fewer, so that absurd gaps do not fill the memory.

    Args:
        times: (n,) increasing. s.
        run: (n,) of each frame.
        step: the usual one. s.

    Returns:
        (m,) the frame that each place shows, its own or the last one before; and (n,) the frames' places.
    """
    count = len(times)
    if count < 2 or step <= 0:
        return np.arange(count), np.arange(count)
    taken = np.maximum(np.diff(np.rint((times - times[0]) / step)), 1).astype(np.int64)
    gaps = np.diff(run) > 0
    free = max(0, MOST_PLACES - count)
    taken[gaps] = np.minimum(taken[gaps], max(1, min(MOST_HELD, free // max(1, int(gaps.sum())))))
    places = np.concatenate([[0], np.cumsum(taken)])
    return np.searchsorted(places, np.arange(places[-1] + 1), side="right") - 1, places


def lasting(times: np.ndarray, run: np.ndarray, alone: float) -> np.ndarray:
    """How long each frame is shown: until the next one, and before a gap for the usual step.

    Args:
        times: (n,) increasing. s.
        run: (n,) of each frame.
        alone: the usual step if no two frames follow each other. s.

    Returns:
        (n,). s.
    """
    steps, gaps = np.diff(times), np.diff(run) > 0
    usual = float(np.median(steps[~gaps])) if (~gaps).any() else alone
    # No frame is shown longer than until the next one.
    usual = min([usual, *steps[gaps]])
    return np.append(np.where(gaps, usual, steps), usual)


def described(times: np.ndarray, run: np.ndarray) -> dict[str, float | int]:
    """How a video is covered: frames, frames per second, gaps, the longest one, and the share without gaps.

    Args:
        times: (n,) increasing. s.
        run: (n,) of each frame.

    Returns:
        `frames`; `mean_fps`, over the whole length; `gaps`; `longest_gap_s`; `covered`, the share of the
        length that lies within runs.
    """
    steps, gaps = np.diff(times), np.diff(run) > 0
    length = float(times[-1] - times[0])
    lost = float(steps[gaps].sum())
    return {
        "frames": len(times),
        "mean_fps": round((len(times) - 1) / length, 4) if length > 0 else 0.0,
        "gaps": int(gaps.sum()),
        "longest_gap_s": round(float(steps[gaps].max()), 3) if gaps.any() else 0.0,
        "covered": round(1 - lost / length, 4) if length > 0 else 1.0,
    }


def slow(facts: Mapping[str, Any], fps: float | None) -> bool:
    """Whether a video has far fewer frames than its nominal rate.

    Args:
        facts: of `described`.
        fps: the nominal rate; None: none.
    """
    return fps is not None and facts["frames"] > 1 and facts["mean_fps"] < SLOW * fps


def in_words(facts: Mapping[str, Any], fps: float | None) -> str:
    """A video's frames and gaps, for a report.

    Args:
        facts: of `described`.
        fps: the nominal rate; None: none.
    """
    rate = f"{facts['mean_fps']:.3g} per second{f' instead of {fps:g}' if slow(facts, fps) else ''}"
    longest = facts["longest_gap_s"]
    seconds = f"{longest:{'.0f' if longest >= 100 else '.3g'}}"
    return (
        f"{facts['frames']} frames, {rate}; {facts['gaps']} gap(s), the longest of "
        f"{seconds} s; {100 * facts['covered']:.0f} % of its length is without gaps"
    )
