"""The report: one HTML page that needs no other file, and the same numbers as CSV and JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader

from foldwise.files import write_json, write_text
from foldwise.report.figures import curves
from foldwise.report.results import Experiment, ModelResults
from foldwise.report.segmentation import (
    CASE_METRICS,
    COLOURS,
    EXCLUDED,
    METRICS,
    SCORE,
    SCORE_TITLE,
    concerns,
    overlay,
    three_cases,
)
from foldwise.report.tables import Column, Table, interval, number, spread
from foldwise.volumes.metrics import fold_summary, paired_p

KEYS = [metric.key for metric in METRICS]
FIRST = METRICS[0]
MODEL, CLASS = Column("model", "model", text=True), Column("class", "class", text=True)
CASE, FOLD = Column("case", "case", text=True), Column("fold", "fold")
SUMMARY = (
    Column("over_folds", "over folds"),
    Column("over_cases", "over cases"),
    Column("interval", "95 % interval"),
    Column("n", "cases"),
    Column("excluded", "left out"),
)
BOOTSTRAP = "the 95 % interval is a bootstrap over patients"


def write_report(experiment: Experiment, folder: Path) -> None:
    """Write report.html, summary.csv and summary.json.

    Args:
        experiment: what to show.
        folder: where the three files go.
    """
    summary = fold_summary(experiment.rows, KEYS)
    tested = experiment.test_rows
    test = fold_summary(tested, KEYS) if len(tested) else pd.DataFrame()
    nested = {"experiment": experiment.name, "models": _nested(summary), "test": _nested(test)}
    write_text(folder / "summary.csv", _long(summary, test).to_csv(index=False))
    write_json(folder / "summary.json", nested)
    environment = Environment(
        loader=PackageLoader("foldwise", "report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        experiment=experiment,
        cases=experiment.rows["case"].nunique(),
        groups=experiment.rows["group"].nunique(),
        folds=experiment.rows["fold"].nunique(),
        tested=tested["case"].nunique() if len(tested) else 0,
        headline=_headline(summary),
        compared=[_compared(experiment.models[0], other) for other in experiment.models[1:]],
        details=_details(summary, f"All metrics: mean ± standard deviation of the folds' means; mean over "
                                  f"cases; {BOOTSTRAP}. {EXCLUDED}"),
        test=_details(test, f"Fixed test set, predicted by the mean of all folds' models; {BOOTSTRAP}.",
                      SUMMARY[1:]),
        per_fold=_per_fold(experiment.rows),
        models=[_model(experiment, model) for model in experiment.models],
        colours=COLOURS,
        remarks=_remarks(experiment),
        provenance=_provenance(experiment),
        packages=_packages(experiment),
        origins=_origins(experiment),
    )  # fmt: skip
    write_text(folder / "report.html", page)


def _headline(summary: pd.DataFrame) -> Table:
    rows = _written(summary[summary["metric"] == FIRST.key])
    caption = (
        f"{FIRST.title} of held-out cases: mean ± standard deviation of the folds' means; mean over cases; "
        f"{BOOTSTRAP}."
    )
    return Table(caption, (MODEL, CLASS, *SUMMARY), rows)


def _details(summary: pd.DataFrame, caption: str, columns: Sequence[Column] = SUMMARY) -> Table:
    metric = Column("metric", "metric", text=True)
    return Table(caption, (MODEL, CLASS, metric, *columns), _written(summary))


def _written(summary: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of `fold_summary` with their numbers as text, each with its metric's decimals."""
    columns = {metric.key: metric for metric in METRICS}
    rows: list[dict[str, Any]] = [{str(k): v for k, v in row.items()} for row in summary.to_dict("records")]
    for row in rows:
        metric = columns[row["metric"]]
        row["metric"] = metric.title
        row["over_folds"] = spread(row["fold_mean"], row["fold_std"], metric.digits)
        row["over_cases"] = number(row["mean"], metric.digits)
        row["interval"] = interval(row["low"], row["high"], metric.digits)
    return rows


def _compared(first: ModelResults, other: ModelResults) -> Table:
    """Two models side by side on the cases and classes which both have, with the paired difference."""
    one, two = (m.metrics.set_index(["case", "class"]) for m in (first, other))
    both = one.index.intersection(two.index)
    one, two = one.loc[both], two.loc[both]
    differences = two[KEYS].astype(float) - one[KEYS].astype(float)
    paired = differences.assign(model=other.name, group=one["group"], fold=one["fold"]).reset_index()
    rows = _written(fold_summary(paired, KEYS))
    for row, metric in zip(rows, METRICS * (len(rows) // len(METRICS)), strict=True):
        of_class = differences[metric.key].xs(row["class"], level="class").dropna()
        row["higher"], row["lower"] = int((of_class > 0).sum()), int((of_class < 0).sum())
        row["p"] = paired_p(of_class.groupby(one["group"].xs(row["class"], level="class")).mean().tolist())
        for name, side in (("first", one), ("other", two)):
            seen = side[metric.key].xs(row["class"], level="class")[of_class.index]
            row[name] = number(float(seen.mean()), metric.digits)
    columns = (
        CLASS,
        Column("metric", "metric", text=True),
        Column("first", first.name),
        Column("other", other.name),
        Column("over_cases", "difference"),
        Column("interval", "95 % interval"),
        Column("n", "pairs"),
        Column("higher", "higher in"),
        Column("lower", "lower in"),
        Column("p", "p", 3),
    )
    caption = (
        f"{other.name} against {first.name}: means over the same cases, the mean paired difference, and p of "
        f"Wilcoxon's signed-rank test over patients (two-sided; not corrected for the number of rows)."
    )
    return Table(caption, columns, rows)


def _per_fold(rows: pd.DataFrame) -> Table:
    by = rows.groupby(["model", "class", "fold"], sort=False)
    means = by[KEYS].mean(numeric_only=True).join(by.size().rename("n")).reset_index()
    columns = (MODEL, CLASS, FOLD, Column("n", "cases"), *METRICS)
    return Table("Means over the held-out cases of each fold.", columns, _records(means))


def _model(experiment: Experiment, model: ModelResults) -> dict[str, Any]:
    best = {fold: origin.get("best_epoch") for fold, origin in model.provenance.items()}
    return {
        "name": model.name,
        "curves": curves(model.name, model.logs, best, SCORE, SCORE_TITLE),
        "runs": _runs(model),
        "postprocess": _postprocess(model),
        "pictures": [
            {"which": which, "case": case, "score": f"{FIRST.title} {number(score, FIRST.digits)}",
             "image": overlay(experiment.caches / f"{case}.h5", model.predictions[case])}
            for which, case, score in three_cases(model.metrics)
        ],
        "cases": _cases(model.metrics, "Held-out cases, worst first; a click on a heading sorts."),
        "test": _cases(model.test, "Fixed test set, worst first.") if len(model.test) else None,
    }  # fmt: skip


def _runs(model: ModelResults) -> Table:
    rows = []
    for fold, log in sorted(model.logs.items()):
        origin = model.provenance[fold]
        starts = [row for row in origin.get("attempts", []) if row["event"] == "start"]
        gpu = log["peak_gpu_mib"].max() if "peak_gpu_mib" in log else 0
        rows.append(
            {
                "fold": fold,
                "epochs": len(log),
                "best": origin.get("best_epoch"),
                "minutes": log["seconds"].sum() / 60,
                "wait": 100 * (log["data_wait"] * log["seconds"]).sum() / log["seconds"].sum(),
                "memory": log["peak_mib"].max(),
                "gpu": gpu or None,
                "attempts": len(starts) or None,
            }
        )
    columns = (
        FOLD,
        Column("epochs", "epochs"),
        Column("best", "best epoch"),
        Column("minutes", "time (min)", 1),
        Column("wait", "data wait (%)", 1),
        Column("memory", "peak memory (MiB)"),
        Column("gpu", "peak GPU memory (MiB)"),
        Column("attempts", "attempts"),
    )
    return Table("Training. Data wait is the share of the time in which no batch was ready.", columns, rows)


def _postprocess(model: ModelResults) -> str:
    kept = [f"{', '.join(steps)} (fold {fold})" for fold, steps in sorted(model.postprocess.items()) if steps]
    return ", ".join(kept)


def _cases(rows: pd.DataFrame, caption: str) -> Table:
    ranked = rows.sort_values(FIRST.key, na_position="last", kind="stable")
    columns = (CASE, Column("group", "patient", text=True), FOLD, CLASS, *CASE_METRICS)
    return Table(caption, columns, _records(ranked), sortable=True)


def _remarks(experiment: Experiment) -> Table:
    rows: list[dict[str, Any]] = [{"case": r.case, "text": r.text} for r in experiment.remarks]
    for model in experiment.models:
        for table in (model.metrics, model.test):
            rows += [{"model": model.name, **concern} for concern in concerns(table)]
    columns = (CASE, Column("model", "model", text=True), CLASS, Column("text", "remark", text=True))
    return Table("Cases to look at.", columns, [{"model": "–", "class": "–", **row} for row in rows])


def _provenance(experiment: Experiment) -> Table:
    rows = []
    for model in experiment.models:
        for fold, origin in sorted(model.provenance.items()):
            jobs = ", ".join(map(str, origin.get("slurm_job_ids", [])))
            rows.append({**origin, "model": model.name, "fold": fold, "jobs": jobs or "–"})
            rows[-1]["commit"] = _short(origin.get("commit"))
    columns = (
        MODEL,
        FOLD,
        Column("commit", "commit", text=True),
        Column("settings_hash", "settings", text=True),
        Column("seed", "seed"),
        Column("host", "host", text=True),
        Column("jobs", "Slurm jobs", text=True),
        Column("time", "trained", text=True),
    )
    return Table("Where each fold's model came from.", columns, rows)


def _short(commit: str | None) -> str | None:
    """Twelve digits of a commit; a mark of local changes stays."""
    if commit is None:
        return None
    digits, *dirty = commit.split("-")
    return "-".join([digits[:12], *dirty])


def _origins(experiment: Experiment) -> int:
    """How many states of the code trained the folds."""
    return len({o.get("commit") for m in experiment.models for o in m.provenance.values()})


def _packages(experiment: Experiment) -> list[str]:
    """Versions of the packages, a line for each set that some fold used."""
    sets: dict[str, None] = {}
    for model in experiment.models:
        for origin in model.provenance.values():
            found = {"Python": origin.get("python"), **origin.get("packages", {})}
            sets[", ".join(f"{name} {version}" for name, version in found.items() if version)] = None
    return list(sets)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _nested(summary: pd.DataFrame) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for row in _records(summary):
        model, name, metric = (row.pop(key) for key in ("model", "class", "metric"))
        values = {key: _plain(value) for key, value in row.items()}
        made.setdefault(model, {}).setdefault(name, {})[metric] = values
    return made


def _long(summary: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    return pd.concat(
        [part.assign(cases=name) for name, part in (("held out", summary), ("test", test)) if len(part)],
        ignore_index=True,
    )


def _plain(value: float) -> float | None:
    """A number for JSON, which has no NaN."""
    return None if math.isnan(value) else value
