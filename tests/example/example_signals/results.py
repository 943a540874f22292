"""From predictions to one row of scores per case, a table for other programs, and the report's view."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from foldwise.hdf5 import open_hdf5
from foldwise.index import Entry
from foldwise.report.tables import Column
from foldwise.report.view import View
from foldwise.scores import Chosen
from foldwise.systems.base import Results, Rows


class SignalResults(Results):
    """Whether the likeliest class is the true one, and its probability."""

    def score_case(
        self, prediction: Path, entry: Entry, task: Mapping[str, Any], evaluate: Any, chosen: Chosen
    ) -> Rows:
        """One row; no row without a class."""
        label = entry.facts["label"]
        if not label:
            return []
        classes, found = read(prediction)
        own = float(found[classes.index(label)])
        return [{"class": label, "correct": float(classes[int(found.argmax())] == label), "p_true": own}]

    def export_case(
        self,
        prediction: Path,
        entry: Entry,
        export: Any,
        chosen: Chosen,
        folder: Path,
        scored: Path | None = None,
    ) -> Mapping[str, Rows]:
        """A row of predictions.csv."""
        classes, found = read(prediction)
        return {"predictions.csv": [{"case": entry.case, "predicted": classes[int(found.argmax())]}]}

    @property
    def view(self) -> View:
        """Two columns."""
        columns = (Column("correct", "correct", 3), Column("p_true", "probability of the true class", 3))
        return View(
            metrics=columns,
            case_metrics=columns,
            score=("val_probability", "validation probability"),
            about="A signal's class is the likeliest one.",
            excluded="",
            pictures_title="",
            pictures_note="",
            pictures=lambda experiment, results: [],
        )


def read(prediction: Path) -> tuple[list[str], np.ndarray]:
    """Classes and their probabilities."""
    with open_hdf5(prediction) as file:
        return list(map(str, file.attrs["classes"])), file["probabilities"][()]
