"""From predicted videos to scores, and files in the annotation's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldwise.files import atomic_path
from foldwise.index import Entry
from foldwise.metrics.video import Video
from foldwise.report.view import View
from foldwise.scores import Chosen
from foldwise.systems.base import Results, Rows
from foldwise.systems.surgical.annotations import (
    UNKNOWN,
    write_phases,
    write_probabilities,
    write_tools,
)
from foldwise.systems.surgical.metrics import average_precision, video_rows
from foldwise.systems.surgical.predictions import ALL_TOOLS, Prediction, read_prediction, truth_of
from foldwise.systems.surgical.rates import Rate
from foldwise.systems.surgical.settings import Evaluate, Export
from foldwise.systems.surgical.timing import timing
from foldwise.video.gaps import described, lasting
from foldwise.video.store import open_video


class SurgicalResults(Results):
    """Scores of phases and tools, and files in the annotation's format."""

    def choices(self, evaluate: Evaluate) -> Sequence[Chosen]:
        """The threshold of the tools alone, which export needs."""
        return [{"threshold": evaluate.threshold}]

    def truths(self, entry: Entry) -> Sequence[str]:
        """The cache, which holds the annotation."""
        return [entry.cache]

    def score_case(
        self, prediction: Path, entry: Entry, task: Mapping[str, Any], evaluate: Evaluate, chosen: Chosen
    ) -> Rows:
        """A row of all phases, one per phase, and the same for tools; none without annotation."""
        predicted = read_prediction(prediction)
        phase, tool = truth_of(entry.cache)
        scored: list[dict[str, Any]] = []
        if predicted.phases and (phase != UNKNOWN).any():
            found = predicted.phase.argmax(1)
            video = Video(predicted.case, phase, found, predicted.times, predicted.fps)
            scored += video_rows(video, predicted.phases)
        if predicted.tools and (tool != UNKNOWN).any():
            scored += _tool_rows(tool, predicted, evaluate.threshold)
        with open_video(entry.cache) as file:
            left_out = {key: int(file.attrs[key]) for key in ("dropped", "damaged")}
            gaps = timing(file)
        # A row counts its own frames.
        facts = {"fps": predicted.fps, **left_out, "mode": predicted.mode}
        return [{**gaps, **row, **facts} for row in scored]

    def export_case(
        self,
        prediction: Path,
        entry: Entry,
        export: Export,
        chosen: Chosen,
        folder: Path,
        scored: Path | None = None,
    ) -> Mapping[str, Rows]:
        """Write a prediction in annotation format: one row per frame of the cache.

        phase/<case>-phase.txt and tool/<case>-tool.txt can be imported again; probability/ holds the
        probabilities of phases and tools, ribbon/<case>.png truth over prediction, and videos.csv a row per
        video.
        """
        predicted = read_prediction(prediction)
        rows, times = predicted.rows, predicted.times
        threshold, kept = chosen["threshold"], nearest(rows, times, predicted.rate)
        there = predicted.tool >= threshold
        for kind, names, values in (
            ("phase", predicted.phases, predicted.phase),
            ("tool", predicted.tools, predicted.tool),
        ):
            if names:
                path = folder / "probability" / f"{entry.case}-{kind}.txt"
                write_probabilities(path, rows, times, names, values)
        if predicted.phases:
            named = [predicted.phases[number] for number in predicted.phase[kept].argmax(1)]
            write_phases(folder / "phase" / f"{entry.case}-phase.txt", rows[kept], named)
        if predicted.tools:
            path = folder / "tool" / f"{entry.case}-tool.txt"
            write_tools(path, rows[kept], predicted.tools, there[kept])
        if export.ribbons:
            # Imported only here, since it takes seconds to import.
            from foldwise.systems.surgical.ribbon import write_ribbon

            truth = truth_of(entry.cache) if entry.cache and Path(entry.cache).exists() else None
            with atomic_path(folder / "ribbon" / f"{entry.case}.png") as temporary:
                write_ribbon(predicted, truth, threshold, temporary)
        return {"videos.csv": [{"case": entry.case, "group": entry.group, **summary_of(predicted, there)}]}

    @property
    def view(self) -> View:
        """Videos, phases and tools."""
        from foldwise.systems.surgical.report import VIEW

        return VIEW


def nearest(rows: np.ndarray, times: np.ndarray, rate: Rate) -> np.ndarray:
    """Which frames an annotation file shows: of those that share a row, the one nearest to it in time.

    Args:
        rows: (n,) of the frames.
        times: (n,). s.
        rate: by which the rows are numbered.
    """
    away = np.zeros(len(rows)) if rate is None else np.abs(times * rate - rows)
    order = np.lexsort((away, rows))
    return np.asarray(order[np.unique(rows[order], return_index=True)[1]])


def summary_of(predicted: Prediction, there: np.ndarray) -> dict[str, Any]:
    """A video's row of videos.csv: its frames and gaps, and the time of each phase and tool.

    Args:
        predicted: the prediction.
        there: (n, tools) bool, the tools that are present.
    """
    times = predicted.times
    seconds = lasting(times, predicted.run, 1 / predicted.fps if predicted.fps else 0.0)
    facts = described(times, predicted.run)
    row: dict[str, Any] = {
        "frames": facts.pop("frames"),
        "seconds": round(float(times[-1] + seconds[-1] - times[0]), 3),
        "fps": predicted.fps,
        **facts,
        "mode": predicted.mode,
        "damaged": predicted.damaged,
        "annotation_fps": predicted.rate,
    }
    if predicted.phases:
        found = predicted.phase.argmax(1)
        row["transitions"] = int((np.diff(found) != 0).sum())
        row["phase_confidence"] = round(float(predicted.phase.max(1).mean()), 4)
        row |= {
            f"phase_{name}_s": round(float(seconds[found == number].sum()), 3)
            for number, name in enumerate(predicted.phases)
        }
    if predicted.tools:
        sure = np.maximum(predicted.tool, 1 - predicted.tool)
        row["tool_confidence"] = round(float(sure.mean()), 4)
        row |= {
            f"tool_{name}_s": round(float(seconds[there[:, number]].sum()), 3)
            for number, name in enumerate(predicted.tools)
        }
    return row


def _tool_rows(truth: np.ndarray, predicted: Prediction, threshold: float) -> list[dict[str, Any]]:
    known = (truth != UNKNOWN).any(1)
    truth, found = truth[known] == 1, predicted.tool[known]
    each: list[dict[str, Any]] = []
    for number, name in enumerate(predicted.tools):
        real, seen = truth[:, number], found[:, number] >= threshold
        hits = int((real & seen).sum())
        each.append(
            {
                "class": name,
                "frames": int(real.sum()),
                "average_precision": average_precision(real, found[:, number]),
                # The value of random guessing.
                "prevalence": float(real.mean()) if real.any() else np.nan,
                "tool_precision": hits / int(seen.sum()) if seen.any() else np.nan,
                "tool_recall": hits / int(real.sum()) if real.any() else np.nan,
            }
        )
    means = pd.DataFrame(each).mean(numeric_only=True)
    whole = {str(name): value for name, value in means.drop("frames").items()}
    return [{"class": ALL_TOOLS, "frames": int(known.sum()), **whole}, *each]
