"""Scores of phases in text files, of any method, by every protocol."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foldwise.metrics.protocols import METRICS, PROTOCOLS, Result, Score, definition, long_rows, results
from foldwise.metrics.segments import segment_scores
from foldwise.metrics.tracks import Rates, aligned, number_of, paired, read_tracks
from foldwise.metrics.video import CHOLEC80_PHASES, M2CAI_PHASES, Video, count
from foldwise.texts import read_text

ORDERS: Mapping[str, tuple[str, ...]] = {"cholec80": CHOLEC80_PHASES, "m2cai": M2CAI_PHASES}


@dataclass(frozen=True)
class Scored:
    """Scores of videos.

    Attributes:
        videos: the videos.
        phases: names of the phases.
        protocols: name → result; only those that these phases have.
        segments: metric → score over videos, of segments and transitions.
        warnings: what a reader of the scores must know.
    """

    videos: Sequence[Video]
    phases: tuple[str, ...]
    protocols: Mapping[str, Result]
    segments: Mapping[str, Score]
    warnings: Sequence[str]


def score(
    predictions: Path,
    truth: Path,
    rates: Rates,
    phases: Sequence[str] = CHOLEC80_PHASES,
    first: int | None = None,
    chosen_on: Sequence[str] = (),
) -> Scored:
    """Score the predictions of a method.

    Args:
        predictions: folder of text files, or one; see foldwise.metrics.tracks.
        truth: the same for the annotation.
        rates: rates of the rows.
        phases: names in the order of their numbers.
        first: number of the first phase in files with numbers but without a 0; None: such are refused.
        chosen_on: videos on which the epoch was chosen.

    Raises:
        CaseError: a file is not understood, or does not fit its partner.
    """
    pairs, warnings = paired(predictions, truth)
    found, doubts = read_tracks([one for one, _ in pairs.values()], phases, first)
    real, more = read_tracks([two for _, two in pairs.values()], phases, first)
    warnings += [*doubts, *more]
    videos = []
    for name, one, two in zip(pairs, found, real, strict=True):
        video, noted = aligned(name, one, two, rates)
        videos.append(video)
        warnings += noted
    warnings += _chosen_on([video.name for video in videos], chosen_on)
    each = [segment_scores(video) for video in videos]
    segments = {key: _over_videos(np.array([row[key] for row in each])) for key in each[0]}
    return Scored(videos, tuple(phases), results(count(videos, phases)), segments, warnings)


def phases_of(text: str) -> tuple[str, ...]:
    """Names of phases: of a data set in `ORDERS`, or separated by commas."""
    return ORDERS.get(text.lower()) or tuple(name.strip() for name in text.split(","))


def names_of(text: str) -> list[str]:
    """Names in a file, one a line, or separated by commas."""
    path = Path(text)
    listed = read_text(path).splitlines() if path.is_file() else text.split(",")
    return [name.strip() for name in listed if name.strip()]


def page(scored: Scored, explain: bool) -> str:
    """The scores as text: protocols × metrics in %, with the spread and what it is over."""
    frames = sum(int(video.known.sum()) for video in scored.videos)
    rates = ", ".join(f"{fps:g}" for fps in sorted({video.fps for video in scored.videos}))
    lines = [f"{len(scored.videos)} video(s), {frames} frames at {rates} per second"]
    lines += ["%, ± standard deviation over videos (v) or phases (p)", ""]
    titles = [title.capitalize() for title in METRICS]
    lines.append("".join(["protocol".ljust(12), *(f"{title:>19}" for title in titles)]))
    for name, result in scored.protocols.items():
        cells = [_cell(result.scores[metric], 100) for metric in METRICS]
        lines.append("".join([name.ljust(12), *(f"{cell:>19}" for cell in cells)]))
    lines.append("")
    for key, value in scored.segments.items():
        lines.append(f"{key:<18}{_cell(value, 1 if key.endswith('_s') else 100):>19}")
    if missing := [name for name in PROTOCOLS if name not in scored.protocols]:
        lines += ["", f"{' and '.join(missing)}: for the phases of Cholec80 and M2CAI only"]
    if explain:
        for name in PROTOCOLS:
            lines += ["", *textwrap.wrap(f"{name}: {definition(name)}", 110)]
    else:
        lines += ["", "Values of different protocols must not be compared; --explain defines each."]
    return "\n".join(lines)


def table(scored: Scored) -> list[dict[str, Any]]:
    """A row per protocol, metric and phase, and per score of segments; values from 0 to 1, errors in s."""
    rows = long_rows(scored.protocols, scored.phases)
    return rows + [
        {"protocol": "segments", "metric": key, "phase": "", **asdict(value)}
        for key, value in scored.segments.items()
    ]


def nested(scored: Scored) -> dict[str, Any]:
    """Everything, for JSON: with definitions, videos and warnings."""
    return {
        "videos": [
            {"name": video.name, "frames": int(video.known.sum()), "fps": video.fps}
            for video in scored.videos
        ],
        "definitions": {name: definition(name) for name in scored.protocols},
        "scores": [
            {
                key: None if isinstance(value, float) and math.isnan(value) else value
                for key, value in row.items()
            }
            for row in table(scored)
        ],
        "warnings": list(scored.warnings),
    }


def _chosen_on(videos: Sequence[str], chosen: Sequence[str]) -> list[str]:
    """A warning of videos that chose the epoch and are scored; the last number in a name tells which."""
    numbers = {number_of(name) or name for name in chosen}
    both = [name for name in videos if (number_of(name) or name) in numbers]
    if not both:
        return []
    return [
        f"the epoch was chosen on {len(both)} of the {len(videos)} scored videos ({', '.join(both[:8])}"
        f"{', …' if len(both) > 8 else ''}): these scores are too good for new videos"
    ]


def _over_videos(values: np.ndarray) -> Score:
    known = values[~np.isnan(values)]
    if not len(known):
        return Score(math.nan, math.nan, "", 0)
    sd = float(known.std(ddof=1)) if len(known) > 1 else math.nan
    return Score(float(known.mean()), sd, "videos", len(known))


def _cell(value: Score, scale: float) -> str:
    if math.isnan(value.value):
        return "–"
    text = f"{scale * value.value:.2f}"
    return text if math.isnan(value.sd) else f"{text} ± {scale * value.sd:.2f} {value.over[:1]}"
