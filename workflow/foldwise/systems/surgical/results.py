"""What becomes of predicted videos: scores, and files in the annotation's own form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldwise.files import atomic_path
from foldwise.index import Entry
from foldwise.report.view import View
from foldwise.systems.base import Chosen, Results, Rows
from foldwise.systems.surgical.annotations import UNKNOWN, write_phases, write_tools
from foldwise.systems.surgical.metrics import average_precision, video_rows
from foldwise.systems.surgical.predictions import Prediction, read_prediction
from foldwise.systems.surgical.settings import Evaluate, Export
from foldwise.video.store import open_frames

# The class of rows that are of all phases or all tools of a video.
ALL_PHASES, ALL_TOOLS = "(phases)", "(tools)"


def truth_of(cache: str) -> tuple[np.ndarray, np.ndarray]:
    """Phases (n,) and tools (n, tools) of a cache, -1 where unknown."""
    with open_frames(cache) as file:
        return file["phase"][()], file["tool"][()]


class SurgicalResults(Results):
    """Scores of phases and tools, and files in the annotation's own form."""

    def choose(
        self,
        predictions: Mapping[str, Path],
        entries: Sequence[Entry],
        task: Mapping[str, Any],
        evaluate: Evaluate,
        state: Path,
    ) -> dict[str, Any]:
        """What export needs to know: the threshold of the tools."""
        return {"threshold": evaluate.threshold}

    def score_case(
        self, prediction: Path, entry: Entry, task: Mapping[str, Any], evaluate: Evaluate, chosen: Chosen
    ) -> Rows:
        """A row of all phases, one per phase, and the same of the tools; none without annotation."""
        made = read_prediction(prediction)
        phase, tool = truth_of(entry.cache)
        scored: list[dict[str, Any]] = []
        if made.phases and (phase != UNKNOWN).any():
            video, each = video_rows(phase, made.phase.argmax(1), made.phases, made.fps)
            present = [int((phase == number).sum()) for number in range(len(made.phases))]
            scored.append({"class": ALL_PHASES, **video, "frames": sum(present)})
            names = zip(made.phases, present, each, strict=True)
            scored += [{"class": name, **row, "frames": count} for name, count, row in names]
        if made.tools and (tool != UNKNOWN).any():
            scored += _tool_rows(tool, made, evaluate.threshold)
        with open_frames(entry.cache) as file:
            dropped = int(file.attrs["dropped"])
        return [{**row, "fps": made.fps, "dropped": dropped} for row in scored]

    def export_case(
        self, prediction: Path, entry: Entry, export: Export, chosen: Chosen, folder: Path
    ) -> Mapping[str, Rows]:
        """Write a prediction as annotation: one row for every frame of the cache.

        phase/<case>-phase.txt and tool/<case>-tool.txt can be imported again; probability/ holds the same
        with a probability per phase and tool, ribbon/<case>.png truth over prediction, and videos.csv a row
        per video.
        """
        made = read_prediction(prediction)
        row: dict[str, Any] = {
            "case": entry.case,
            "group": entry.group,
            "frames": len(made.rows),
            "fps": made.fps,
            "seconds": float(made.times[-1] - made.times[0]),
        }
        if made.phases:
            found = made.phase.argmax(1)
            names = [made.phases[number] for number in found]
            write_phases(folder / "phase" / f"{entry.case}-phase.txt", made.rows, names)
            path = folder / "probability" / f"{entry.case}-phase.txt"
            write_tools(path, made.rows, made.phases, made.phase)
            row |= {name: int((found == n).sum()) for n, name in enumerate(made.phases)}
        if made.tools:
            there = made.tool >= chosen["threshold"]
            write_tools(folder / "tool" / f"{entry.case}-tool.txt", made.rows, made.tools, there)
            write_tools(folder / "probability" / f"{entry.case}-tool.txt", made.rows, made.tools, made.tool)
            row |= dict(zip(made.tools, there.sum(0).tolist(), strict=True))
        if export.ribbons:
            # Only here, since importing it takes seconds.
            from foldwise.systems.surgical.ribbon import write_ribbon

            truth = truth_of(entry.cache) if entry.cache and Path(entry.cache).exists() else None
            with atomic_path(folder / "ribbon" / f"{entry.case}.png") as temporary:
                write_ribbon(made, truth, chosen["threshold"], temporary)
        return {"videos.csv": [row]}

    @property
    def view(self) -> View:
        """Videos, phases and tools."""
        from foldwise.systems.surgical.report import VIEW

        return VIEW


def _tool_rows(truth: np.ndarray, made: Prediction, threshold: float) -> list[dict[str, Any]]:
    known = (truth != UNKNOWN).any(1)
    truth, found = truth[known] == 1, made.tool[known]
    each: list[dict[str, Any]] = []
    for number, name in enumerate(made.tools):
        real, seen = truth[:, number], found[:, number] >= threshold
        hits = int((real & seen).sum())
        each.append(
            {
                "class": name,
                "frames": int(real.sum()),
                "average_precision": average_precision(real, found[:, number]),
                # What a guess at random would reach.
                "prevalence": float(real.mean()) if real.any() else np.nan,
                "tool_precision": hits / int(seen.sum()) if seen.any() else np.nan,
                "tool_recall": hits / int(real.sum()) if real.any() else np.nan,
            }
        )
    means = pd.DataFrame(each).mean(numeric_only=True)
    whole = {str(name): value for name, value in means.drop("frames").items()}
    return [{"class": ALL_TOOLS, "frames": int(known.sum()), **whole}, *each]
