"""What a model takes over from a fold's training videos: weights of phases and tools, and their numbering."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foldwise.systems.surgical.rates import Rate
from foldwise.video.store import open_video

# Maximum weight of a tool's presence.
MOST = 10.0


def label_counts(caches: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Counts of each phase (phases,), and of each tool's absence and presence (2, tools)."""
    phases, tools = np.zeros(0), np.zeros((2, 0))
    for path in caches:
        with open_video(path) as file:
            phase, tool = file["phase"][()], file["tool"][()]
            count = len(file.attrs["phases"])
        if not phases.size:
            phases, tools = np.zeros(count), np.zeros((2, tool.shape[1]))
        phases += np.bincount(phase[phase >= 0], minlength=count)
        tools += np.stack([(tool == 0).sum(0), (tool == 1).sum(0)])
    return phases, tools


def median_frequency(counts: np.ndarray) -> list[float]:
    """Median frequency over frequency (Eigen and Fergus 2015); a phase absent from all videos weighs 1."""
    there = counts[counts > 0]
    median = np.median(there) if there.size else 1.0
    return [float(median / count) if count else 1.0 for count in counts]


def presence_weights(counts: np.ndarray) -> list[float]:
    """Frames without a tool over frames with it, at most `MOST`; a tool that never occurs weighs 1."""
    absent, present = counts
    return [float(min(MOST, a / p)) if p else 1.0 for a, p in zip(absent, present, strict=True)]


def numbering(caches: Sequence[str]) -> Rate:
    """The rate at which rows of videos without annotation are numbered.

    It is the first one that fits all annotated videos; if there is none, the videos' own frames.
    """
    rates: list[list[float]] = []
    for path in caches:
        with open_video(path) as file:
            rates.append(file.attrs["rates"].tolist())
    annotated = [each for each in rates if each]
    common = [rate for rate in annotated[0] if all(rate in each for each in annotated)] if annotated else []
    return common[0] or None if common else None
