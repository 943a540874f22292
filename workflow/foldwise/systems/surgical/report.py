"""The report of surgical videos: scores of phases and tools, and ribbons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from foldwise.files import write_text
from foldwise.metrics.protocols import PROTOCOLS, Score, definition, has, long_rows, results
from foldwise.report.figures import picture
from foldwise.report.results import Experiment, ModelResults
from foldwise.report.tables import Column, Table, number, spread
from foldwise.report.view import Picture, View
from foldwise.statistics import fold_summary
from foldwise.systems.surgical.metrics import SUFFIXES, counts_of
from foldwise.systems.surgical.predictions import ALL_PHASES, ALL_TOOLS, read_prediction, truth_of
from foldwise.systems.surgical.ribbon import ribbon
from foldwise.systems.surgical.timing import remarks

TITLES = {
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "jaccard": "Jaccard",
    "f1": "F1",
}
METRICS = (
    *(
        Column(key + suffix, f"{title}, {form}", 3)
        for form, suffix in SUFFIXES.items()
        for key, title in TITLES.items()
    ),
    Column("edit", "edit score", 3),
    Column("segment_f1_10", "segment F1@10", 3),
    Column("segment_f1_25", "segment F1@25", 3),
    Column("segment_f1_50", "segment F1@50", 3),
    Column("boundary_error_s", "error of transitions (s)", 1),
    Column("average_precision", "average precision", 3),
    Column("prevalence", "prevalence", 3),
    Column("tool_precision", "precision at the threshold", 3),
    Column("tool_recall", "recall at the threshold", 3),
)
CASE_METRICS = (
    Column("mode", "mode", text=True),
    Column("frames", "frames"),
    Column("fps", "fps", 2),
    Column("mean_fps", "real fps", 2),
    Column("gaps", "gaps"),
    Column("longest_gap_s", "longest gap (s)", 1),
    Column("covered", "without gaps", 2),
    Column("accuracy", "accuracy", 3),
    Column("accuracy_relaxed", "relaxed", 3),
    Column("accuracy_legacy2016", "legacy2016", 3),
    Column("precision", "precision", 3),
    Column("recall", "recall", 3),
    Column("jaccard", "Jaccard", 3),
    Column("segment_f1_50", "F1@50", 3),
    Column("boundary_error_s", "transitions (s)", 1),
    Column("average_precision", "AP", 3),
)
ABOUT = (
    "Scores use every annotated cached frame, at the rate in the column fps: per phase within a "
    "video, then the mean over videos; (phases) is the mean over a video's phases, its accuracy, and its "
    "segments; (tools) the mean over tools. The tables of protocols below define strict, relaxed and "
    "legacy2016; values of different protocols must not be compared. Segments and transitions are measured "
    "in seconds. online: predictions depend on earlier frames alone; offline: on the whole video; do not "
    "compare one with the other."
)
EXCLUDED = "A phase or tool that a video does not have is left out of its means."


def summary(rows: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Means over folds and cases, for classes and metrics that belong together."""
    means = fold_summary(rows, [metric for metric in metrics if metric in rows])
    return means[means["n"] > 0].reset_index(drop=True)


def concerns(rows: pd.DataFrame) -> list[dict[str, str]]:
    """Videos with frames left out after the end of the annotation: rows of case, class and text."""
    whole = rows[rows["class"].isin((ALL_PHASES, ALL_TOOLS))].drop_duplicates("case")
    return [
        {
            "case": str(row["case"]),
            "class": str(row["class"]),
            "text": f"{row['dropped']} frame(s) after the end of the annotation are left out",
        }
        for row in whole.to_dict("records")
        if row["dropped"]
    ]


def tables(model: ModelResults) -> list[Table]:
    """The protocols side by side, for held-out cases and for the test set, and their definitions."""
    shown = []
    for rows, which in ((model.metrics, _held_out(model)), (model.test, "Fixed test set, by the ensemble")):
        counts = counts_of(rows) if len(rows) else None
        if counts is None:
            continue
        rates = sorted(rows.loc[rows["class"] == ALL_PHASES, "fps"].unique())
        caption = (
            f"{which}: {len(counts.frames)} video(s), {int(counts.frames.sum())} frames at "
            f"{', '.join(f'{rate:g}' for rate in rates)} per second, {_mode(rows)}. Scores in %, "
            f"as papers give them. "
            f"{_chosen(model)}"
        )
        if missing := [name for name in PROTOCOLS if not has(counts, name)]:
            caption += f" {' and '.join(missing)}: for the phases of Cholec80 and M2CAI only."
        columns = [Column("protocol", "protocol", text=True)]
        columns += [Column(key, title) for key, title in TITLES.items()]
        listed = [
            {"protocol": name, **{key: _written(score) for key, score in result.scores.items()}}
            for name, result in results(counts).items()
        ]
        shown.append(Table(caption, columns, listed))
    if shown:
        columns = [Column("protocol", "protocol", text=True), Column("text", "definition", text=True)]
        listed = [{"protocol": name, "text": definition(name)} for name in PROTOCOLS]
        shown.append(Table("Definitions of the protocols.", columns, listed))
    return shown


def files(experiment: Experiment, folder: Path) -> None:
    """Write protocols.csv: every protocol's scores, of all phases and of each, of all models."""
    found = []
    for model in experiment.models:
        for rows, cases in ((model.metrics, "held out"), (model.test, "test")):
            counts = counts_of(rows) if len(rows) else None
            if counts is not None:
                found += [
                    {"model": model.name, "cases": cases, "videos": len(counts.frames), **row}
                    for row in long_rows(results(counts), counts.phases)
                ]
    if found:
        write_text(folder / "protocols.csv", pd.DataFrame(found).to_csv(index=False))


def _mode(rows: pd.DataFrame) -> str:
    return " and ".join(sorted(rows["mode"].unique())) if "mode" in rows else "online"


def _held_out(model: ModelResults) -> str:
    folds = model.metrics["fold"].nunique()
    return f"Held-out cases of {folds} folds, each by the model that did not learn from it"


def _chosen(model: ModelResults) -> str:
    """Where the folds' epochs were chosen; the index refuses folds that validate and test on one patient."""
    origins = model.provenance.values()
    chosen = [
        origin.get("score") is not None and origin["settings"]["training"]["keep"] == "best"
        for origin in origins
    ]
    if all(chosen):
        return "Each fold's epoch was chosen on validation cases, which share no patient with its test cases."
    if not any(chosen):
        return "No epoch was chosen: each fold uses its last one."
    return f"The epoch was chosen on validation cases in {sum(chosen)} fold(s), else the last one is used."


def _written(score: Score) -> str:
    if math.isnan(score.value) or math.isnan(score.sd):
        return number(100 * score.value, 2)
    return f"{spread(100 * score.value, 100 * score.sd, 2)} ({score.n} {score.over})"


def pictures(experiment: Experiment, model: ModelResults) -> list[Picture]:
    """Ribbons of the best, the median and the worst video."""
    shown = []
    for which, case, value in _three(model.metrics):
        prediction = read_prediction(model.predictions[case])
        figure = ribbon(prediction, truth_of(str(experiment.caches / f"{case}.h5")), 0.5)
        caption = f"{which}: {case}, {value:.3f}"
        shown.append(Picture(picture(figure), caption, f"Phases and tools over time, {caption}"))
    return shown


def _three(rows: pd.DataFrame) -> list[tuple[str, str, float]]:
    """The best, the median and the worst video by accuracy, or by the tools' mean average precision."""
    phases = rows[rows["class"] == ALL_PHASES]
    part, key = phases, "accuracy"
    if not len(part):
        part, key = rows[rows["class"] == ALL_TOOLS], "average_precision"
    if not len(part):
        return []
    ranked = part.set_index("case")[key].dropna().sort_values(ascending=False, kind="stable")
    places = {"best": 0, "median": len(ranked) // 2, "worst": len(ranked) - 1}
    chosen = {place: which for which, place in places.items() if len(ranked)}
    return [(which, str(ranked.index[place]), float(ranked.iloc[place])) for place, which in chosen.items()]


VIEW = View(
    metrics=METRICS,
    case_metrics=CASE_METRICS,
    score=("val_phase_accuracy", "validation phase accuracy"),
    about=ABOUT,
    excluded=EXCLUDED,
    class_title="phase or tool",
    pictures_title="Protocols; best, median and worst video",
    pictures_note="Phases: grey where not annotated. Tools: dark where present; the upper half is the truth, "
    "the lower half the prediction. White: no frames.",
    pictures=pictures,
    concerns=concerns,
    remarks=remarks,
    summary=summary,
    tables=tables,
    files=files,
)
