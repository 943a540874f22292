"""Scores of phases and tools of one video.

Frame scores come in three forms. `strict` forgives nothing. `relaxed` is the protocol of M2CAI 2016 as
intended: within 10 s of the border of a true segment, the phase on the other side of it counts as correct.
`legacy` is what the widely used evaluation script computes instead: it tests the end of a segment and
forgives at its start. Values of different forms must not be compared (Funke et al., Metrics Matter in
Surgical Phase Recognition, arXiv 2305.13961).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein
from sklearn.metrics import average_precision_score

# The relaxed forms are defined for the phases of Cholec80 alone, numbered in this order.
CHOLEC80_PHASES = (
    "Preparation",
    "CalotTriangleDissection",
    "ClippingCutting",
    "GallbladderDissection",
    "GallbladderPackaging",
    "CleaningCoagulation",
    "GallbladderRetraction",
)
TOLERANCE_S = 10
# Predicted minus true number, by true phase: forgiven at the start of a segment (a late transition) and at
# its end (an early one). Packaging, cleaning and retraction follow one another in any order.
LATE = ((-1,), (-1,), (-1,), (-1,), (-1,), (-1, -2), (-1, -2))
EARLY = ((1,), (1,), (1,), (1, 2), (1, 2), (1, 2), (1, 2))
OVERLAPS = (10, 25, 50)


def segments(phases: np.ndarray) -> list[tuple[int, int, int]]:
    """Runs of one phase: (phase, first frame, frame after the last)."""
    if not len(phases):
        return []
    cuts = [0, *(np.flatnonzero(np.diff(phases)) + 1).tolist(), len(phases)]
    return [(int(phases[a]), a, b) for a, b in itertools.pairwise(cuts)]


def phase_scores(truth: np.ndarray, found: np.ndarray, correct: np.ndarray, phase: int) -> dict[str, float]:
    """Precision, recall, Jaccard and F1 of one phase; NaN for a phase that the truth does not have.

    Args:
        truth: (n,) phase numbers.
        found: (n,) predicted numbers.
        correct: (n,) bool, frames that count as correct.
        phase: its number.
    """
    real, seen = truth == phase, found == phase
    if not real.any():
        return dict.fromkeys(("precision", "recall", "jaccard", "f1"), math.nan)
    # A forgiven frame is a hit of the true and of the predicted phase, so that shares are cut at 1.
    hits = int((correct & (real | seen)).sum())
    precision = min(1.0, hits / int(seen.sum())) if seen.any() else float(hits > 0)
    recall = min(1.0, hits / int(real.sum()))
    both = precision + recall
    return {
        "precision": precision,
        "recall": recall,
        "jaccard": min(1.0, hits / int((real | seen).sum())),
        "f1": 2 * precision * recall / both if both else 0.0,
    }


def strict(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Frames (n,) bool with the correct phase."""
    return np.asarray(truth == found)


def relaxed(truth: np.ndarray, found: np.ndarray, fps: float) -> np.ndarray:
    """Frames (n,) bool that are correct, or forgiven within 10 s of a true border; Cholec80's numbers."""
    return _forgiven(truth, found, fps, legacy=False)


def legacy(truth: np.ndarray, found: np.ndarray, fps: float) -> np.ndarray:
    """As `relaxed`, with the slip of the released script: the end is tested, the start is forgiven."""
    return _forgiven(truth, found, fps, legacy=True)


def _forgiven(truth: np.ndarray, found: np.ndarray, fps: float, legacy: bool) -> np.ndarray:
    difference = found.astype(np.int64) - truth
    for phase, begin, end in segments(truth):
        part = difference[begin:end]
        reach = min(round(TOLERANCE_S * fps), len(part))
        late = np.isin(part[:reach], LATE[phase])
        if legacy:
            part[:reach][late] = 0
            early = np.isin(part[len(part) - reach :], EARLY[phase])
            part[:reach][early] = 0
        else:
            early = np.isin(part[len(part) - reach :], EARLY[phase])
            part[:reach][late] = 0
            part[len(part) - reach :][early] = 0
    return np.asarray(difference == 0)


def canonical(phases: Sequence[str]) -> np.ndarray | None:
    """Cholec80's number of each phase, in any order; None if they are other phases."""
    if sorted(phases) != sorted(CHOLEC80_PHASES):
        return None
    return np.array([CHOLEC80_PHASES.index(name) for name in phases])


def edit_score(truth: np.ndarray, found: np.ndarray) -> float:
    """1 − Levenshtein distance of both sequences of segments over the longer one's length (Lea et al.)."""
    real, seen = ([phase for phase, _, _ in segments(track)] for track in (truth, found))
    return Levenshtein.normalized_similarity(real, seen) if real or seen else math.nan


def segment_f1(truth: np.ndarray, found: np.ndarray, overlap: float) -> float:
    """F1 of segments: found if the best true segment of its phase overlaps enough (Lea et al. 2017).

    Args:
        truth: (n,) phase numbers.
        found: (n,) predicted numbers.
        overlap: smallest intersection over union, 0 to 1; a true segment is found once at most.
    """
    real, seen = segments(truth), segments(found)
    taken: set[int] = set()
    for phase, begin, end in seen:
        shares = [
            max(0, min(end, b) - max(begin, a)) / (max(end, b) - min(begin, a)) if phase == p else 0.0
            for p, a, b in real
        ]
        best = int(np.argmax(shares))
        if shares[best] >= overlap and shares[best] > 0:
            taken.add(best)
    return 2 * len(taken) / (len(real) + len(seen)) if real or seen else math.nan


def average_precision(truth: np.ndarray, probability: np.ndarray) -> float:
    """Average precision of a tool over frames; NaN for a tool that is never present."""
    return float(average_precision_score(truth, probability)) if truth.any() else math.nan


def video_rows(
    truth: np.ndarray, found: np.ndarray, phases: Sequence[str], fps: float
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """All scores of the phases of a video; frames without annotation are left out.

    Args:
        truth: (n,) phase numbers, negative where unknown.
        found: (n,) predicted numbers.
        phases: names, in the order of the numbers.
        fps: rate of the frames; determines how many of them are 10 s.

    Returns:
        Scores of the video, and of each phase. Relaxed scores only for the phases of Cholec80.
    """
    known = truth >= 0
    truth, found = truth[known], found[known]
    forms = {"": strict(truth, found)}
    if (order := canonical(phases)) is not None:
        forms["_relaxed"] = relaxed(order[truth], order[found], fps)
        forms["_legacy"] = legacy(order[truth], order[found], fps)
    rows: list[dict[str, float]] = [{} for _ in phases]
    video: dict[str, float] = {}
    for suffix, correct in forms.items():
        for phase, row in enumerate(rows):
            scores = phase_scores(truth, found, correct, phase)
            row |= {name + suffix: value for name, value in scores.items()}
        video[f"accuracy{suffix}"] = float(correct.mean()) if len(truth) else math.nan
        for name in ("precision", "recall", "jaccard", "f1"):
            there = [row[name + suffix] for row in rows if not math.isnan(row[name + suffix])]
            video[name + suffix] = float(np.mean(there)) if there else math.nan
    video["edit"] = edit_score(truth, found)
    video |= {f"segment_f1_{k}": segment_f1(truth, found, k / 100) for k in OVERLAPS}
    return video, rows
