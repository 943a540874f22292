"""Rows of metrics.csv for the phases and tools of one video, and protocols computed from such rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from foldwise.metrics.protocols import SHARES, legacy2016, shares_of
from foldwise.metrics.segments import segment_scores
from foldwise.metrics.video import LEGACY, RELAXED, STRICT, Counts, Video, count
from foldwise.systems.surgical.predictions import ALL_PHASES

# Ending of a form's columns.
SUFFIXES = {STRICT: "", RELAXED: "_relaxed", LEGACY: "_legacy2016"}


def average_precision(truth: np.ndarray, probability: np.ndarray) -> float:
    """Average precision of a tool over frames; NaN for a tool that is never present."""
    return float(average_precision_score(truth, probability)) if truth.any() else math.nan


def video_rows(video: Video, phases: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a video: one for all phases, and one for each.

    Every row has its part of foldwise.metrics.video.Counts, from which `counts_of` restores them. The row of
    all phases has means over the video's phases, except for legacy2016, which has none within a video.

    Args:
        video: at least one frame has a known phase.
        phases: names, in the order of the numbers.
    """
    counts = count([video], phases)
    whole: dict[str, Any] = {"class": ALL_PHASES, "frames": int(counts.frames[0])}
    whole |= {"found_frames": whole["frames"]}
    rows: list[dict[str, Any]] = [
        {"class": name, "frames": int(true), "found_frames": int(found)}
        for name, true, found in zip(phases, counts.true[0], counts.found[0], strict=True)
    ]
    for form, suffix in SUFFIXES.items():
        if form not in counts.hits:
            continue
        whole[f"hits{suffix}"] = int(counts.correct[form][0])
        whole[f"accuracy{suffix}"] = whole[f"hits{suffix}"] / whole["frames"]
        shares = (
            legacy2016(counts).phases
            if form == LEGACY
            else {key: values[0] for key, values in shares_of(counts, form).items()}
        )
        for number, row in enumerate(rows):
            row[f"hits{suffix}"] = int(counts.hits[form][0, number])
            row |= {f"{key}{suffix}": float(shares[key][number]) for key in SHARES}
        if form != LEGACY:
            whole |= {f"{key}{suffix}": float(np.nanmean(shares[key])) for key in SHARES}
    return [{**whole, **segment_scores(video)}, *rows]


def counts_of(rows: pd.DataFrame) -> Counts | None:
    """Counts of all videos with phases; None without any.

    Args:
        rows: of metrics.csv of one model: a case's row of all phases, followed by those of its phases.
    """
    whole = rows[rows["class"] == ALL_PHASES].set_index("case")
    if not len(whole) or "found_frames" not in rows:
        return None
    each = rows[(rows["class"] != ALL_PHASES) & rows["found_frames"].notna()]
    phases = tuple(dict.fromkeys(each["class"]))
    forms = [form for form, suffix in SUFFIXES.items() if f"hits{suffix}" in rows]

    def table(column: str) -> np.ndarray:
        wide = each.pivot(index="case", columns="class", values=column)
        return np.asarray(wide.loc[whole.index, list(phases)].to_numpy(np.int64))

    return Counts(
        phases=phases,
        true=table("frames"),
        found=table("found_frames"),
        hits={form: table(f"hits{SUFFIXES[form]}") for form in forms},
        frames=whole["frames"].to_numpy(np.int64),
        correct={form: whole[f"hits{SUFFIXES[form]}"].to_numpy(np.int64) for form in forms},
    )
