"""From predicted clips to scores, and files for other programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldwise.index import Entry
from foldwise.report.view import View
from foldwise.scores import Chosen
from foldwise.systems.base import Results, Rows, Tables
from foldwise.systems.clips.metrics import ACCEPTED
from foldwise.systems.clips.patients import (
    ATTENTION,
    BAG,
    PROBABILITY,
    has_attention,
    of_clips,
    probability_columns,
    with_attention,
)
from foldwise.systems.clips.predictions import read_bag, read_classes, read_facts, read_prediction
from foldwise.systems.clips.settings import Evaluate, Export


class ClipsResults(Results):
    """A row per clip: its class, the predicted one, scores and probabilities."""

    def score_case(
        self, prediction: Path, entry: Entry, task: Mapping[str, Any], evaluate: Evaluate, chosen: Chosen
    ) -> Rows:
        """One row; no row without a class."""
        classes: list[str] = task["classes"]
        if not (label := entry.facts["label"]):
            return []
        probabilities, _ = read_prediction(prediction)
        own = float(probabilities[classes.index(label)])
        best = int(probabilities.argmax())
        target = np.eye(len(classes))[classes.index(label)]
        row = {
            "class": label,
            "predicted": classes[best],
            "confidence": float(probabilities[best]),
            "correct": float(classes[best] == label),
            "p_true": own,
            "log_loss": float(-np.log(max(own, 1e-7))),
            "brier": float(((probabilities - target) ** 2).sum()),
        }
        row["damaged"] = read_facts(prediction)["damaged"]
        if "review" in entry.facts:
            row[ACCEPTED] = float(not entry.facts["review"])
        return [row | _columns(classes, probabilities) | _bag(prediction)]

    def export_case(
        self,
        prediction: Path,
        entry: Entry,
        export: Export,
        chosen: Chosen,
        folder: Path,
        scored: Path | None = None,
    ) -> Mapping[str, Rows]:
        """A row of predictions.csv, with facts about the clip; with `views`, those of views.csv."""
        classes = read_classes(prediction)
        mean, each = read_prediction(prediction)
        facts = {"case": entry.case, "group": entry.group, "label": entry.facts.get("label", "")}
        row = {**facts, **_answer(classes, mean), **read_facts(prediction), **_bag(prediction)}
        views = [{**facts, "view": number, **_columns(classes, view)} for number, view in enumerate(each)]
        return {"predictions.csv": [row], **({"views.csv": views} if export.views else {})}

    def completed(self, tables: Tables) -> Tables:
        """With each clip's share of the attention, if it was learnt; and patients.csv, if one has several."""
        listed = tables.get("predictions.csv", ())
        rows = pd.DataFrame(listed)
        if learnt := has_attention(rows):
            shares = with_attention(rows)[ATTENTION]
            listed = [
                {**{key: value for key, value in row.items() if key != BAG}, ATTENTION: float(share)}
                for row, share in zip(listed, shares, strict=True)
            ]
            tables = {**tables, "predictions.csv": listed}
        if not len(rows) or not rows["group"].duplicated().any():
            return tables
        columns = probability_columns(rows)
        classes = [column.removeprefix(PROBABILITY) for column in columns]
        by = {"by": "attention" if learnt else "mean"}
        patients = [
            {"group": group, "clips": len(clips), **by, **_answer(classes, of_clips(clips, columns))}
            for group, clips in rows.groupby("group", sort=False)
        ]
        return {**tables, "patients.csv": patients}

    @property
    def view(self) -> View:
        """Clips and patients."""
        from foldwise.systems.clips.report import VIEW

        return VIEW


def _answer(classes: Sequence[str], probabilities: np.ndarray) -> dict[str, Any]:
    best = int(probabilities.argmax())
    own = {"predicted": classes[best], "confidence": float(probabilities[best])}
    return {**own, **_columns(classes, probabilities)}


def _bag(prediction: Path) -> dict[str, str]:
    """A clip's part of its patient's bag, as a column; none without learned attention."""
    bag = read_bag(prediction)
    return {} if bag is None else {BAG: json.dumps(bag.tolist())}


def _columns(classes: Sequence[str], probabilities: np.ndarray) -> dict[str, float]:
    return {f"{PROBABILITY}{name}": float(value) for name, value in zip(classes, probabilities, strict=True)}
