"""True and predicted phases of videos, and the frames of each that protocols count.

Every protocol of foldwise.metrics.protocols follows from a few counts per video and phase, so metrics.csv
keeps these counts, and any group of videos can be scored again from it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

CHOLEC80_PHASES = (
    "Preparation",
    "CalotTriangleDissection",
    "ClippingCutting",
    "GallbladderDissection",
    "GallbladderPackaging",
    "CleaningCoagulation",
    "GallbladderRetraction",
)
M2CAI_PHASES = ("TrocarPlacement", *CHOLEC80_PHASES)
TOLERANCE_S = 10
# Ways to tell which frames are correct; the latter two exist for Cholec80's and M2CAI's phases alone.
STRICT, RELAXED, LEGACY = "strict", "relaxed", "legacy2016"
# Times are sums of rounded steps: a frame at the tolerance itself must not depend on the last bit.
_ROUNDING_S = 1e-6


@dataclass(frozen=True)
class Video:
    """True and predicted phases of a video's n frames.

    Attributes:
        name: its name.
        truth: (n,) phase numbers, negative where unknown.
        found: (n,) predicted numbers.
        times_s: (n,) times of the frames, increasing. s.
        fps: stated rate, by which legacy2016 counts.
    """

    name: str
    truth: np.ndarray
    found: np.ndarray
    times_s: np.ndarray
    fps: float

    @cached_property
    def seconds(self) -> np.ndarray:
        """Durations (n,): a frame lasts until the next one, but no longer than the usual step. s."""
        steps = np.diff(self.times_s)
        usual = float(np.median(steps)) if len(steps) else 1 / self.fps
        return np.minimum(np.append(steps, usual), usual)

    @cached_property
    def known(self) -> np.ndarray:
        """Which frames have a known phase, (n,) bool."""
        return np.asarray(self.truth >= 0)


@dataclass(frozen=True)
class Counts:
    """Frames of v videos and p phases.

    Attributes:
        phases: names of the phases.
        true: (v, p) frames of each phase in the truth.
        found: (v, p) predicted frames of each phase.
        hits: form → (v, p) frames that are of the phase by truth or prediction, and correct.
        frames: (v,) annotated frames.
        correct: form → (v,) correct frames.
    """

    phases: tuple[str, ...]
    true: np.ndarray
    found: np.ndarray
    hits: Mapping[str, np.ndarray]
    frames: np.ndarray
    correct: Mapping[str, np.ndarray]

    @property
    def either(self) -> np.ndarray:
        """Frames of each phase by truth or prediction, (v, p)."""
        return np.asarray(self.true + self.found - self.hits[STRICT])


def count(videos: Sequence[Video], phases: Sequence[str]) -> Counts:
    """Count the frames of videos; those with an unknown phase are left out.

    Args:
        videos: one or more.
        phases: names, in the order of the numbers.
    """
    numbers = np.arange(len(phases))[:, None]
    correct = [correct_frames(video, phases) for video in videos]
    real = [video.truth[video.known] == numbers for video in videos]
    seen = [video.found[video.known] == numbers for video in videos]
    return Counts(
        phases=tuple(phases),
        true=np.array([one.sum(1) for one in real]),
        found=np.array([one.sum(1) for one in seen]),
        hits={
            form: np.array(
                [
                    ((one | two) & right[form]).sum(1)
                    for one, two, right in zip(real, seen, correct, strict=True)
                ]
            )
            for form in correct[0]
        },
        frames=np.array([int(video.known.sum()) for video in videos]),
        correct={form: np.array([int(right[form].sum()) for right in correct]) for form in correct[0]},
    )


def correct_frames(video: Video, phases: Sequence[str]) -> dict[str, np.ndarray]:
    """Form → which of the m frames with a known phase are correct, (m,) bool.

    Args:
        video: the video.
        phases: names, in the order of the numbers.
    """
    truth, found = video.truth[video.known], video.found[video.known]
    forms = {STRICT: np.asarray(truth == found)}
    if (order := canonical(phases)) is not None:
        truth, found, last = order[truth], order[found], len(phases) - 1
        forms[RELAXED] = relaxed(
            truth, found, video.times_s[video.known], video.seconds[video.known], last=last
        )
        forms[LEGACY] = legacy2016(truth, found, video.fps, last=last)
    return forms


def canonical(phases: Sequence[str]) -> np.ndarray | None:
    """Cholec80's or M2CAI's number of each phase, in any order; None if they are other phases."""
    for order in (CHOLEC80_PHASES, M2CAI_PHASES):
        if sorted(phases) == sorted(order):
            return np.array([order.index(name) for name in phases])
    return None


def segments(phases: np.ndarray) -> list[tuple[int, int, int]]:
    """Runs of one phase: (phase, first frame, frame after the last)."""
    if not len(phases):
        return []
    cuts = [0, *(np.flatnonzero(np.diff(phases)) + 1).tolist(), len(phases)]
    return [(int(phases[a]), a, b) for a, b in itertools.pairwise(cuts)]


def relaxed(
    truth: np.ndarray, found: np.ndarray, times_s: np.ndarray, seconds: np.ndarray, *, last: int = 6
) -> np.ndarray:
    """Frames (n,) that are correct, or forgiven within 10 s of the border of a true segment.

    Args:
        truth: (n,) numbers of Cholec80's or M2CAI's phases.
        found: (n,) predicted numbers.
        times_s: (n,) times of the frames. s.
        seconds: (n,) their durations. s.
        last: number of the last phase.
    """
    difference = found.astype(np.int64) - truth
    correct = difference == 0
    for phase, begin, end in segments(truth):
        part, times = difference[begin:end], times_s[begin:end]
        late, early = _neighbours(phase, last)
        start, stop = times[0] + TOLERANCE_S, times[-1] + seconds[end - 1] - TOLERANCE_S
        correct[begin:end] |= np.isin(part, late) & (times < start - _ROUNDING_S)
        correct[begin:end] |= np.isin(part, early) & (times >= stop - _ROUNDING_S)
    return np.asarray(correct)


def legacy2016(truth: np.ndarray, found: np.ndarray, fps: float, *, last: int = 6) -> np.ndarray:
    """Frames (n,) that the script of M2CAI 2016 counts as correct: it tests an end, and forgives a start.

    Args:
        truth: (n,) numbers of Cholec80's or M2CAI's phases.
        found: (n,) predicted numbers.
        fps: 10 s are this many frames times ten, rounded.
        last: number of the last phase.
    """
    difference = found.astype(np.int64) - truth
    for phase, begin, end in segments(truth):
        part = difference[begin:end]
        reach = min(round(TOLERANCE_S * fps), len(part))
        late, early = _neighbours(phase, last)
        part[:reach][np.isin(part[:reach], late)] = 0
        part[:reach][np.isin(part[len(part) - reach :], early)] = 0
    return np.asarray(difference == 0)


def _neighbours(phase: int, last: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Predicted minus true number, forgiven at the start of a segment (late) and at its end (early).

    Packaging, cleaning and retraction, the last three phases, follow one another in any order.
    """
    return (-1, -2) if phase > last - 2 else (-1,), (1, 2) if phase > last - 4 else (1,)
