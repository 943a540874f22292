"""An experiment's results on disk, read for its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from foldwise.files import CaseError, read_json


@dataclass(frozen=True)
class Remark:
    """A remark of preparation on a case."""

    case: str
    text: str


@dataclass(frozen=True)
class ModelResults:
    """One model's folds.

    Attributes:
        name: name of the model.
        metrics: one row per held-out case and class, with the column `fold`.
        logs: fold → a row per epoch.
        provenance: fold → the train stage's record.
        predictions: case → HDF5 of its held-out prediction.
        test: rows of the fixed test set by the ensemble; may be empty.
        chosen: fold → the choice from its validation cases.
        further: name of a further test of the system → its rows of all folds.
    """

    name: str
    metrics: pd.DataFrame
    logs: Mapping[int, pd.DataFrame]
    provenance: Mapping[int, dict[str, Any]]
    predictions: Mapping[str, Path]
    test: pd.DataFrame
    chosen: Mapping[int, Mapping[str, Any]]
    further: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def labels(self) -> float:
        """Share of the training patients that it learnt from."""
        learns_from = next(iter(self.provenance.values())).get("learns_from")
        return float(learns_from["labels"]) if learns_from else 1.0


@dataclass(frozen=True)
class Experiment:
    """Everything that a report shows.

    Attributes:
        name: name of the experiment.
        models: their results.
        caches: folder of <case>.h5.
        warnings: lines of the check.
        remarks: on single cases.
        unlabelled: cases that were only predicted.
        usage: resources that jobs requested and used, one row per rule; see foldwise.report.usage.
    """

    name: str
    models: Sequence[ModelResults]
    caches: Path
    warnings: Sequence[str] = ()
    remarks: Sequence[Remark] = ()
    unlabelled: Sequence[str] = ()
    usage: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def rows(self) -> pd.DataFrame:
        """Held-out rows of all models, with the column `model`."""
        return pd.concat([m.metrics.assign(model=m.name) for m in self.models], ignore_index=True)

    @property
    def test_rows(self) -> pd.DataFrame:
        """Rows of the fixed test set of all models, with the column `model`; may be empty."""
        return pd.concat([m.test.assign(model=m.name) for m in self.models], ignore_index=True)


def read_experiment(
    name: str,
    folder: Path,
    models: Sequence[str],
    folds: int,
    caches: Path,
    remarks: Callable[[Mapping[str, Any]], Sequence[Remark]],
    further: Sequence[str] = (),
) -> Experiment:
    """Read an experiment's folder.

    Args:
        name: name of the experiment.
        folder: results/<experiment>.
        models: names of the models.
        folds: number of folds.
        caches: folder of the caches.
        remarks: function from check.json's cases to remarks of preparation on them.
        further: names of the system's further tests.

    Raises:
        CaseError: a file is missing or not readable.
    """
    check = read_json(folder / "check.json")
    return Experiment(
        name=name,
        models=[_model(model, folder / model, folds, further) for model in models],
        caches=caches,
        warnings=check["warnings"],
        remarks=remarks(check["cases"]),
        unlabelled=[case for case, facts in check["cases"].items() if not facts["labelled"]],
    )


def _model(name: str, folder: Path, folds: int, further: Sequence[str]) -> ModelResults:
    parts = {fold: folder / f"fold{fold}" for fold in range(folds)}
    ensemble = folder / "ensemble" / "metrics.csv"

    def joined(table: str) -> pd.DataFrame:
        return pd.concat([_table(part / table) for part in parts.values()], ignore_index=True)

    return ModelResults(
        name=name,
        metrics=joined("metrics.csv"),
        logs={fold: _table(part / "log.csv") for fold, part in parts.items()},
        provenance={fold: read_json(part / "provenance.json") for fold, part in parts.items()},
        predictions={p.stem: p for part in parts.values() for p in (part / "predictions").glob("*.h5")},
        test=_table(ensemble) if ensemble.exists() else pd.DataFrame(),
        chosen={fold: read_json(part / "choice.json")["chosen"] for fold, part in parts.items()},
        further={test: joined(f"{test}.csv") for test in further},
    )


def _table(path: Path) -> pd.DataFrame:
    """Read a CSV in which only an empty field is a missing value: a patient may be named NA or 007."""
    names = dict.fromkeys(("case", "group", "class"), str)
    try:
        return pd.read_csv(path, dtype=names, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise CaseError(f"{path}: not readable as CSV ({error}); delete it and run again") from error
