"""From predicted clips to scores, and files for other programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foldwise.index import Entry
from foldwise.report.view import View
from foldwise.scores import Chosen
from foldwise.systems.base import Results, Rows
from foldwise.systems.clips.metrics import ACCEPTED, PROBABILITY
from foldwise.systems.clips.predictions import read_classes, read_prediction
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
        if "review" in entry.facts:
            row[ACCEPTED] = float(not entry.facts["review"])
        return [row | _columns(classes, probabilities)]

    def export_case(
        self,
        prediction: Path,
        entry: Entry,
        export: Export,
        chosen: Chosen,
        folder: Path,
        scored: Path | None = None,
    ) -> Mapping[str, Rows]:
        """A row of predictions.csv: case, group, label, predicted, probabilities; with `views`, views.csv."""
        classes = read_classes(prediction)
        mean, each = read_prediction(prediction)
        facts = {"case": entry.case, "group": entry.group, "label": entry.facts.get("label", "")}
        row = {**facts, "predicted": classes[int(mean.argmax())], **_columns(classes, mean)}
        views = [{**facts, "view": number, **_columns(classes, view)} for number, view in enumerate(each)]
        return {"predictions.csv": [row], **({"views.csv": views} if export.views else {})}

    @property
    def view(self) -> View:
        """Clips and patients."""
        from foldwise.systems.clips.report import VIEW

        return VIEW


def _columns(classes: Sequence[str], probabilities: np.ndarray) -> dict[str, float]:
    return {f"{PROBABILITY}{name}": float(value) for name, value in zip(classes, probabilities, strict=True)}
