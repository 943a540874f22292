"""The report: one HTML page that needs no other file, and the same numbers as CSV and JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader

from foldwise.files import write_json, write_text
from foldwise.report.figures import PREDICTION, TRUTH, curves, overlay
from foldwise.report.results import Experiment, ModelResults
from foldwise.volumes.metrics import fold_summary

# Column → how the page calls and rounds it.
SHOWN = {
    "dice": ("Dice", 3),
    "jaccard": ("Jaccard", 3),
    "hd95_mm": ("HD95 (mm)", 1),
    "surface_dice": ("surface Dice", 3),
    "volume_error_ml": ("volume error (ml)", 2),
    "lesion_recall": ("lesion recall", 2),
    "false_lesions": ("false lesions", 2),
}


def write_report(experiment: Experiment, folder: Path) -> None:
    """Write report.html, summary.csv and summary.json.

    Args:
        experiment: what to show.
        folder: where the three files go.
    """
    summary = fold_summary(experiment.rows)
    tests = [m.test.assign(model=m.name) for m in experiment.models if len(m.test)]
    test = fold_summary(pd.concat(tests)) if tests else pd.DataFrame()
    write_text(folder / "summary.csv", _long(summary, test).to_csv(index=False))
    write_json(
        folder / "summary.json",
        {"experiment": experiment.name, "models": _nested(summary), "test": _nested(test)},
    )
    environment = Environment(loader=PackageLoader("foldwise", "report"), autoescape=True)
    environment.filters["number"] = _number
    page = environment.get_template("report.html.j2").render(
        experiment=experiment,
        shown=SHOWN,
        summary=summary.to_dict("records"),
        test=test.to_dict("records"),
        folds=_per_fold(experiment.rows),
        compared=_compared(experiment),
        models=[_model(experiment, model) for model in experiment.models],
        groups=experiment.rows["group"].nunique(),
        cases=experiment.rows["case"].nunique(),
        fold_count=experiment.rows["fold"].nunique(),
        colours={"truth": TRUTH, "prediction": PREDICTION},
    )
    write_text(folder / "report.html", page)


def three_cases(rows: pd.DataFrame) -> list[tuple[str, str, float]]:
    """The best, the median and the worst case by mean Dice over classes: (which, case, Dice)."""
    ranked = rows.groupby("case")["dice"].mean().dropna().sort_values(ascending=False, kind="stable")
    if ranked.empty:
        return []
    places = {"best": 0, "median": len(ranked) // 2, "worst": len(ranked) - 1}
    chosen = {place: (which, str(ranked.index[place])) for which, place in places.items()}
    return [(which, case, float(ranked[case])) for which, case in chosen.values()]


def _model(experiment: Experiment, model: ModelResults) -> dict[str, Any]:
    rows = model.metrics.sort_values("dice", na_position="first", kind="stable")
    pictures = [
        {"which": which, "case": case, "dice": dice,
         "image": overlay(experiment.caches / f"{case}.h5", model.predictions[case])}
        for which, case, dice in three_cases(model.metrics)
        if case in model.predictions
    ]  # fmt: skip
    return {
        "name": model.name,
        "rows": rows.to_dict("records"),
        "test": model.test.to_dict("records"),
        "curves": curves(model.logs),
        "pictures": pictures,
        "runs": [_run(model, fold) for fold in sorted(model.logs)],
        "postprocess": sorted(set(model.postprocess.values())),
    }


def _run(model: ModelResults, fold: int) -> dict[str, Any]:
    log, origin = model.logs[fold], model.provenance[fold]
    attempts = origin.get("attempts", [])
    return {
        "fold": fold,
        "epochs": len(log),
        "best": origin.get("best_epoch"),
        "seconds": log["seconds"].sum(),
        "data_wait": log["data_wait"].mean(),
        "peak_mib": log["peak_mib"].max(),
        "peak_gpu_mib": log["peak_gpu_mib"].max(),
        "jobs": sum(row["event"] == "start" for row in attempts),
        "slurm": ", ".join(map(str, origin.get("slurm_job_ids", []))),
        "commit": origin.get("commit"),
        "settings": origin.get("settings_hash"),
        "seed": origin.get("seed"),
        "host": origin.get("host"),
        "packages": origin.get("packages", {}),
    }


def _per_fold(rows: pd.DataFrame) -> list[dict[str, Any]]:
    means = rows.groupby(["model", "class", "fold"], sort=False)[list(SHOWN)].mean(numeric_only=True)
    counts = rows.groupby(["model", "class", "fold"], sort=False).size().rename("n")
    made: list[dict[str, Any]] = json.loads(means.join(counts).reset_index().to_json(orient="records"))
    return made


def _compared(experiment: Experiment) -> list[dict[str, Any]]:
    """Every model against the first, on the same cases and classes: mean difference of Dice and who wins."""
    first, *others = (m.metrics.set_index(["case", "class"])["dice"] for m in experiment.models)
    made = []
    for name, other in zip([m.name for m in experiment.models[1:]], others, strict=True):
        pairs = pd.concat([first, other], axis=1, join="inner").dropna()
        difference = pairs.iloc[:, 1] - pairs.iloc[:, 0]
        made.append(
            {
                "name": name,
                "against": experiment.models[0].name,
                "n": len(pairs),
                "difference": difference.mean(),
                "better": int((difference > 0).sum()),
                "worse": int((difference < 0).sum()),
            }
        )
    return made


def _nested(summary: pd.DataFrame) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for row in summary.to_dict("records"):
        values = {k: _plain(v) for k, v in row.items() if k not in ("model", "class", "metric")}
        made.setdefault(row["model"], {}).setdefault(row["class"], {})[row["metric"]] = values
    return made


def _long(summary: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    parts = [part.assign(cases=name) for part, name in ((summary, "held out"), (test, "test")) if len(part)]
    return pd.concat(parts, ignore_index=True)


def _plain(value: Any) -> Any:
    """A number for JSON, which has no NaN."""
    if isinstance(value, float) and math.isnan(value):
        return None
    return int(value) if isinstance(value, int) else value


def _number(value: Any, digits: int = 3) -> str:
    """A number for the page; an en dash where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.{digits}f}"
