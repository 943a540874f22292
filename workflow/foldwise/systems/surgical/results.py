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
from foldwise.systems.surgical.annotations import UNKNOWN, write_phases, write_tools
from foldwise.systems.surgical.metrics import average_precision, video_rows
from foldwise.systems.surgical.predictions import ALL_TOOLS, Prediction, read_prediction, truth_of
from foldwise.systems.surgical.settings import Evaluate, Export
from foldwise.systems.surgical.timing import timing
from foldwise.video.store import open_video


# The class of rows for all phases or all tools of a video.
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
            dropped, gaps = int(file.attrs["dropped"]), timing(file)
        # A row counts its own frames.
        facts = {"fps": predicted.fps, "dropped": dropped, "mode": predicted.mode}
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

        phase/<case>-phase.txt and tool/<case>-tool.txt can be imported again; probability/ holds the same
        with probabilities per phase and tool, ribbon/<case>.png truth over prediction, and videos.csv a row
        per video.
        """
        predicted = read_prediction(prediction)
        row: dict[str, Any] = {
            "case": entry.case,
            "group": entry.group,
            "frames": len(predicted.rows),
            "fps": predicted.fps,
            "seconds": round(float(predicted.times[-1] - predicted.times[0]), 3),
            "mode": predicted.mode,
        }
        if predicted.phases:
            found = predicted.phase.argmax(1)
            names = [predicted.phases[number] for number in found]
            write_phases(folder / "phase" / f"{entry.case}-phase.txt", predicted.rows, names)
            path = folder / "probability" / f"{entry.case}-phase.txt"
            write_tools(path, predicted.rows, predicted.phases, predicted.phase)
            row |= {name: int((found == n).sum()) for n, name in enumerate(predicted.phases)}
        if predicted.tools:
            there = predicted.tool >= chosen["threshold"]
            write_tools(folder / "tool" / f"{entry.case}-tool.txt", predicted.rows, predicted.tools, there)
            write_tools(
                folder / "probability" / f"{entry.case}-tool.txt",
                predicted.rows,
                predicted.tools,
                predicted.tool,
            )
            row |= dict(zip(predicted.tools, there.sum(0).tolist(), strict=True))
        if export.ribbons:
            # Imported only here, since it takes seconds to import.
            from foldwise.systems.surgical.ribbon import write_ribbon

            truth = truth_of(entry.cache) if entry.cache and Path(entry.cache).exists() else None
            with atomic_path(folder / "ribbon" / f"{entry.case}.png") as temporary:
                write_ribbon(predicted, truth, chosen["threshold"], temporary)
        return {"videos.csv": [row]}

    @property
    def view(self) -> View:
        """Videos, phases and tools."""
        from foldwise.systems.surgical.report import VIEW

        return VIEW


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
