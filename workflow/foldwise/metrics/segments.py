"""Scores of the order and the borders of a video's segments, in seconds."""

from __future__ import annotations

import math

import numpy as np
from rapidfuzz.distance import Levenshtein

from foldwise.metrics.video import Video, segments

OVERLAPS = (10, 25, 50)


def segment_scores(video: Video) -> dict[str, float]:
    """Edit score, F1 of segments at each overlap, and error of the transitions.

    Args:
        video: frames of unknown phase are left out.
    """
    return {
        "edit": edit_score(video),
        **{f"segment_f1_{percent}": segment_f1(video, percent / 100) for percent in OVERLAPS},
        "boundary_error_s": boundary_error_s(video),
    }


def edit_score(video: Video) -> float:
    """1 − Levenshtein distance of both sequences of segments over the longer one's length (Lea et al.).

    It counts segments, however long they are.
    """
    real, seen = ([phase for phase, _, _ in each] for each in _segments(video))
    return Levenshtein.normalized_similarity(real, seen) if real or seen else math.nan


def segment_f1(video: Video, overlap: float) -> float:
    """F1 of segments: found if the best true segment of its phase overlaps enough (Lea et al. 2017).

    Args:
        video: the video.
        overlap: smallest intersection over union, 0 to 1, of the frames' durations; a true segment is found
            once at most.
    """
    real, seen = _segments(video)
    ends = np.concatenate([[0.0], np.cumsum(video.seconds[video.known])])
    taken: set[int] = set()
    for phase, begin, end in seen:
        shares = [
            max(0.0, ends[min(end, b)] - ends[max(begin, a)]) / (ends[max(end, b)] - ends[min(begin, a)])
            if phase == p
            else 0.0
            for p, a, b in real
        ]
        best = int(np.argmax(shares))
        # The sum of durations rounds: a share of exactly the overlap is enough.
        if shares[best] > 0 and shares[best] >= overlap - 1e-9:
            taken.add(best)
    return 2 * len(taken) / (len(real) + len(seen)) if real or seen else math.nan


def boundary_error_s(video: Video) -> float:
    """Mean distance in time from the start of a true segment to the nearest predicted start of its phase.

    The first segment is left out, since nothing precedes it. A phase whose start is never predicted counts
    with the length of the video. NaN without a transition.
    """
    real, seen = _segments(video)
    times = video.times_s[video.known]
    errors = []
    for phase, begin, _ in real[1:]:
        starts = [times[first] for other, first, _ in seen if other == phase]
        length = times[-1] + video.seconds[video.known][-1] - times[0]
        errors.append(min((abs(start - times[begin]) for start in starts), default=length))
    return float(np.mean(errors)) if errors else math.nan


def _segments(video: Video) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
    """True and predicted segments of the frames with a known phase."""
    return segments(video.truth[video.known]), segments(video.found[video.known])
