"""What becomes of predicted clips: scores, and files that other programs read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldwise.index import Entry
from foldwise.systems.clips.metrics import PROBABILITY
from foldwise.systems.clips.predictions import read_classes, read_prediction
from foldwise.systems.clips.settings import Evaluate, Export


def chooses(settings: Evaluate) -> bool:
    """Whether there is anything to choose on validation cases before others are scored."""
    return False


def choose(
    predictions: Mapping[str, Path],
    entries: Sequence[Entry],
    task: Mapping[str, Any],
    settings: Evaluate,
    state: Path,
) -> dict[str, Any]:
    """Nothing is chosen."""
    return {}


def score(
    predictions: Mapping[str, Path],
    entries: Sequence[Entry],
    fold: int | str,
    task: Mapping[str, Any],
    settings: Evaluate,
    chosen: Mapping[str, Any],
) -> pd.DataFrame:
    """A row per labelled case: its class, the predicted one, scores and probabilities.

    Args:
        predictions: case → prediction.
        entries: the cases; those without a class are left out.
        fold: for the column `fold`.
        task: what is learnt.
        settings: of the scores.
        chosen: what `choose` returned.
    """
    classes: list[str] = task["classes"]
    rows = []
    for entry in entries:
        if not (label := entry.facts["label"]):
            continue
        probabilities, _ = read_prediction(predictions[entry.case])
        own = float(probabilities[classes.index(label)])
        best = int(probabilities.argmax())
        target = np.eye(len(classes))[classes.index(label)]
        rows.append(
            {
                "case": entry.case,
                "group": entry.group,
                "fold": fold,
                "class": label,
                "predicted": classes[best],
                "confidence": float(probabilities[best]),
                "correct": float(classes[best] == label),
                "p_true": own,
                "log_loss": float(-np.log(max(own, 1e-7))),
                "brier": float(((probabilities - target) ** 2).sum()),
                **_columns(classes, probabilities),
            }
        )
    return pd.DataFrame(rows)


def export(
    predictions: Mapping[str, Path],
    entries: Sequence[Entry],
    settings: Export,
    chosen: Mapping[str, Any],
    folder: Path,
) -> None:
    """Write predictions.csv: case, group, label, predicted, probability_<class>; with `views`, views.csv.

    Args:
        predictions: case → prediction.
        entries: the cases.
        settings: which files.
        chosen: what `choose` returned.
        folder: where the files go.
    """
    rows, views = [], []
    for entry in entries:
        path = predictions[entry.case]
        classes = read_classes(path)
        mean, each = read_prediction(path)
        facts = {"case": entry.case, "group": entry.group, "label": entry.facts.get("label", "")}
        rows.append({**facts, "predicted": classes[int(mean.argmax())], **_columns(classes, mean)})
        views += [{**facts, "view": number, **_columns(classes, view)} for number, view in enumerate(each)]
    pd.DataFrame(rows).to_csv(folder / "predictions.csv", index=False)
    if settings.views:
        pd.DataFrame(views).to_csv(folder / "views.csv", index=False)


def _columns(classes: Sequence[str], probabilities: np.ndarray) -> dict[str, float]:
    return {f"{PROBABILITY}{name}": float(value) for name, value in zip(classes, probabilities, strict=True)}
