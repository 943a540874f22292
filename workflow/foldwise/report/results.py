"""What an experiment left on disk, read for its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from foldwise.files import read_json


@dataclass(frozen=True)
class ModelResults:
    """One model's folds.

    Attributes:
        name: of the model.
        metrics: a row per held-out case and class, with the column `fold`.
        logs: fold → a row per epoch.
        provenance: fold → what the train stage wrote.
        predictions: case → HDF5 of its held-out prediction.
        test: rows of the fixed test set by the ensemble; may be empty.
        postprocess: fold → the step that was kept.
    """

    name: str
    metrics: pd.DataFrame
    logs: Mapping[int, pd.DataFrame]
    provenance: Mapping[int, dict[str, Any]]
    predictions: Mapping[str, Path]
    test: pd.DataFrame
    postprocess: Mapping[int, str]


@dataclass(frozen=True)
class Experiment:
    """All that a report shows.

    Attributes:
        name: of the experiment.
        models: their results.
        caches: folder of <case>.h5.
        remarks: lines on the data: warnings of the check, and what lung masks miss.
        unlabelled: cases that were only predicted.
    """

    name: str
    models: Sequence[ModelResults]
    caches: Path
    remarks: Sequence[str] = field(default_factory=tuple)
    unlabelled: Sequence[str] = field(default_factory=tuple)

    @property
    def rows(self) -> pd.DataFrame:
        """Held-out rows of all models, with the column `model`."""
        return pd.concat([m.metrics.assign(model=m.name) for m in self.models], ignore_index=True)


def read_experiment(
    name: str, folder: Path, models: Sequence[str], folds: int, caches: Path, lungs: Path | None
) -> Experiment:
    """Read an experiment's folder.

    Args:
        name: of the experiment.
        folder: results/<experiment>.
        models: names of the models.
        folds: number of folds.
        caches: folder of the caches.
        lungs: folder of the lung masks' facts, or None.
    """
    check = read_json(folder / "check.json")
    remarks = list(check["warnings"])
    for case in check["cases"]:
        facts = lungs / f"{case}.json" if lungs else None
        if facts and facts.exists():
            missed = read_json(facts).get("label_missed_by_region")
            if missed:
                remarks.append(f"case {case}: {missed:.2%} of the label lies outside the thoracic region")
    unlabelled = [case for case, facts in check["cases"].items() if not facts["labelled"]]
    return Experiment(
        name, [_model(model, folder / model, folds) for model in models], caches, remarks, unlabelled
    )


def _model(name: str, folder: Path, folds: int) -> ModelResults:
    parts = {fold: folder / f"fold{fold}" for fold in range(folds)}
    ensemble = folder / "ensemble" / "metrics.csv"
    text = {"case": str, "group": str}
    return ModelResults(
        name=name,
        metrics=pd.concat([pd.read_csv(p / "metrics.csv", dtype=text) for p in parts.values()]),
        logs={fold: pd.read_csv(part / "log.csv") for fold, part in parts.items()},
        provenance={fold: read_json(part / "provenance.json") for fold, part in parts.items()},
        predictions={p.stem: p for part in parts.values() for p in (part / "predictions").glob("*.h5")},
        test=pd.read_csv(ensemble, dtype=text) if ensemble.exists() else pd.DataFrame(),
        postprocess={fold: read_json(part / "test.json")["postprocess"] for fold, part in parts.items()},
    )
