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
from foldwise.report.tables import Column, Table, interval, number, spread
from foldwise.report.view import View
from foldwise.statistics import paired_p

MODEL = Column("model", "model", text=True)
CASE, FOLD = Column("case", "case", text=True), Column("fold", "fold")
SUMMARY = (
    Column("over_folds", "over folds"),
    Column("over_cases", "over cases"),
    Column("interval", "95 % interval"),
    Column("n", "cases"),
    Column("excluded", "left out"),
)
BOOTSTRAP = "the 95 % interval is a bootstrap over patients"


def write_report(experiment: Experiment, view: View, folder: Path) -> None:
    """Write report.html, summary.csv, summary.json, and the system's further files.

    Args:
        experiment: what to show.
        view: the system's parts.
        folder: folder for the files.
    """
    whole, experiment = experiment, view.shown(experiment)
    keys = [metric.key for metric in view.metrics]
    summary = view.summary(experiment.rows, keys)
    tested = experiment.test_rows
    test = view.summary(tested, keys) if len(tested) else pd.DataFrame()
    nested = {"experiment": experiment.name, "models": _nested(summary), "test": _nested(test)}
    write_text(folder / "summary.csv", _long(summary, test).to_csv(index=False))
    write_json(folder / "summary.json", nested)
    view.files(experiment, folder)
    environment = Environment(
        loader=PackageLoader("foldwise", "report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        experiment=experiment,
        view=view,
        cases=experiment.rows["case"].nunique(),
        groups=experiment.rows["group"].nunique(),
        folds=experiment.rows["fold"].nunique(),
        tested=tested["case"].nunique() if len(tested) else 0,
        headline=_headline(view, summary),
        compared=[_compared(view, experiment.models[0], other) for other in experiment.models[1:]],
        details=_details(view, summary,
                         f"All metrics: mean ± standard deviation of the folds' means; mean over cases; "
                         f"{BOOTSTRAP}. {view.excluded}"),
        across=view.across(whole),
        test=_details(view, test, f"Fixed test set, predicted by the mean of all folds' models; {BOOTSTRAP}.",
                      SUMMARY[1:]),
        per_fold=_per_fold(view, experiment.rows),
        models=[
            _model(experiment, view, model, all_rows)
            for model, all_rows in zip(experiment.models, whole.models, strict=True)
        ],
        remarks=_remarks(experiment, view),
        resources=_resources(experiment.usage),
        provenance=_provenance(experiment),
        packages=_packages(experiment),
        origins=_origins(experiment),
    )  # fmt: skip
    write_text(folder / "report.html", page)


def _class(view: View) -> Column:
    return Column("class", view.class_title, text=True)


def _headline(view: View, summary: pd.DataFrame) -> Table:
    first = view.metrics[0]
    rows = _written(view, summary[summary["metric"] == first.key])
    caption = (
        f"{first.title} of held-out cases: mean ± standard deviation of the folds' means; mean over cases; "
        f"{BOOTSTRAP}."
    )
    return Table(caption, (MODEL, _class(view), *SUMMARY), rows)


def _details(view: View, summary: pd.DataFrame, caption: str, columns: Sequence[Column] = SUMMARY) -> Table:
    metric = Column("metric", "metric", text=True)
    return Table(caption, (MODEL, _class(view), metric, *columns), _written(view, summary))


def _written(view: View, summary: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a summary with their numbers as text, each with its metric's decimals."""
    columns = {metric.key: metric for metric in view.metrics}
    rows: list[dict[str, Any]] = [{str(k): v for k, v in row.items()} for row in summary.to_dict("records")]
    for row in rows:
        metric = columns[row["metric"]]
        row["metric"] = metric.title
        row["over_folds"] = spread(row["fold_mean"], row["fold_std"], metric.digits)
        row["over_cases"] = number(row["mean"], metric.digits)
        row["interval"] = interval(row["low"], row["high"], metric.digits)
    return rows


def _compared(view: View, first: ModelResults, other: ModelResults) -> Table:
    """Two models side by side on the cases and classes that both have, with the paired difference."""
    keys = [m.key for m in view.metrics if m.key in first.metrics and m.key in other.metrics]
    metrics = {metric.key: metric for metric in view.metrics}
    one, two = (m.metrics.set_index(["case", "class"]) for m in (first, other))
    both = one.index.intersection(two.index)
    one, two = one.loc[both], two.loc[both]
    differences = two[keys].astype(float) - one[keys].astype(float)
    paired = differences.assign(model=other.name, group=one["group"], fold=one["fold"]).reset_index()
    summary = view.summary(paired, keys)
    rows = _written(view, summary)
    for row, key in zip(rows, summary["metric"] if len(summary) else (), strict=True):
        of_class = differences[key].xs(row["class"], level="class").dropna()
        row["higher"], row["lower"] = int((of_class > 0).sum()), int((of_class < 0).sum())
        row["p"] = paired_p(of_class.groupby(one["group"].xs(row["class"], level="class")).mean().tolist())
        for name, side in (("first", one), ("other", two)):
            seen = side[key].xs(row["class"], level="class")[of_class.index]
            row[name] = number(float(seen.mean()), metrics[key].digits)
    columns = (
        _class(view),
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
        f"Wilcoxon's signed-rank test over patients (two-sided; not corrected for multiple rows)."
    )
    return Table(caption, columns, rows)


def _per_fold(view: View, rows: pd.DataFrame) -> Table:
    metrics = [metric for metric in view.metrics if metric.key in rows]
    by = rows.groupby(["model", "class", "fold"], sort=False)
    means = by[[m.key for m in metrics]].mean(numeric_only=True).join(by.size().rename("n")).reset_index()
    columns = (MODEL, _class(view), FOLD, Column("n", "cases"), *metrics)
    return Table("Means over the held-out cases of each fold.", columns, _records(means))


def _model(experiment: Experiment, view: View, model: ModelResults, all_rows: ModelResults) -> dict[str, Any]:
    best = {fold: origin.get("best_epoch") for fold, origin in model.provenance.items()}
    chosen = {fold: view.chosen(choice) for fold, choice in sorted(model.chosen.items())}
    return {
        "name": model.name,
        "curves": curves(model.name, model.logs, best, *view.score),
        "runs": _runs(model),
        "chosen": ", ".join(f"{text} (fold {fold})" for fold, text in chosen.items() if text),
        "tables": view.tables(all_rows),
        "pictures": view.pictures(experiment, all_rows),
        "cases": _cases(view, model.metrics, "Held-out cases, worst first; click a heading to sort."),
        "test": _cases(view, model.test, "Fixed test set, worst first.") if len(model.test) else None,
    }


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
                "labels": _learns_from(origin.get("learns_from")),
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
        *([Column("labels", "learnt from", text=True)] if any(row["labels"] for row in rows) else []),
    )
    return Table("Training. Data wait is the share of time without a ready batch.", columns, rows)


def _learns_from(part: dict[str, Any] | None) -> str | None:
    """A share of the training patients and cases, in words; None: all."""
    if part is None:
        return None
    return " and ".join(f"{part[kind]} of {part['of'][kind]} {kind}" for kind in ("patients", "cases"))


def _cases(view: View, rows: pd.DataFrame, caption: str) -> Table:
    rank = view.rank or view.metrics[0].key
    ranked = rows.sort_values(rank, na_position="last", kind="stable") if rank in rows else rows
    columns = (CASE, Column("group", "patient", text=True), FOLD, _class(view), *view.case_metrics)
    return Table(caption, columns, _records(ranked), sortable=True)


def _remarks(experiment: Experiment, view: View) -> Table:
    rows: list[dict[str, Any]] = [{"case": r.case, "text": r.text} for r in experiment.remarks]
    for model in experiment.models:
        # Without a fixed test set, its table has no columns.
        for table in (model.metrics, model.test):
            concerns = view.concerns(table) if len(table) else []
            rows += [{"model": model.name, **concern} for concern in concerns]
    columns = (CASE, Column("model", "model", text=True), _class(view), Column("text", "remark", text=True))
    return Table("Cases to look at.", columns, [{"model": "–", "class": "–", **row} for row in rows])


def _resources(usage: pd.DataFrame) -> Table:
    rows = _records(usage)
    for row in rows:
        for share in ("cpu", "gpu_busy"):
            row[share] = None if row.get(share) is None else 100 * row[share]
    columns = (
        Column("rule", "rule", text=True),
        Column("jobs", "jobs"),
        Column("failed", "failed"),
        Column("minutes", "longest (min)", 1),
        Column("minutes_asked", "requested (min)"),
        Column("mib", "memory (MiB)"),
        Column("mib_asked", "requested (MiB)"),
        Column("cpu", "CPU used (%)"),
        Column("gpus", "GPUs"),
        Column("gpu_hours", "GPU (h)", 2),
        Column("gpu_busy", "GPU busy (%)"),
        Column("gpu_mib", "GPU (MiB)"),
    )
    shown = tuple(column for column in columns if column.key in usage and usage[column.key].notna().any())
    return Table(
        "Time and memory of each rule: maximum used by a job, and maximum requested; of GPUs, the share of "
        "the time in which they computed, and the maximum in use on one.",
        shown,
        rows,
    )


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
    """Twelve digits of a commit; a mark of local changes is kept."""
    if commit is None:
        return None
    digits, *dirty = commit.split("-")
    return "-".join([digits[:12], *dirty])


def _origins(experiment: Experiment) -> int:
    """Number of code versions that trained the folds."""
    return len({o.get("commit") for m in experiment.models for o in m.provenance.values()})


def _packages(experiment: Experiment) -> list[str]:
    """Versions of the packages, one line for each set of versions that a fold used."""
    sets: dict[str, None] = {}
    for model in experiment.models:
        for origin in model.provenance.values():
            found = {"Python": origin.get("python"), **origin.get("packages", {})}
            sets[", ".join(f"{name} {version}" for name, version in found.items() if version)] = None
    return list(sets)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _nested(summary: pd.DataFrame) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for row in _records(summary):
        model, name, metric = (row.pop(key) for key in ("model", "class", "metric"))
        values = {key: _plain(value) for key, value in row.items()}
        nested.setdefault(model, {}).setdefault(name, {})[metric] = values
    return nested


def _long(summary: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    return pd.concat(
        [part.assign(cases=name) for name, part in (("held out", summary), ("test", test)) if len(part)],
        ignore_index=True,
    )


def _plain(value: float) -> float | None:
    """A number for JSON, which has no NaN."""
    return None if math.isnan(value) else value
