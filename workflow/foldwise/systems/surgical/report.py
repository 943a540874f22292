"""The report of surgical videos: scores of phases and tools, and ribbons."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from foldwise.report.figures import picture
from foldwise.report.results import Experiment, ModelResults
from foldwise.report.tables import Column
from foldwise.report.view import Picture, View
from foldwise.statistics import fold_summary
from foldwise.systems.surgical.predictions import ALL_PHASES, ALL_TOOLS, read_prediction, truth_of
from foldwise.systems.surgical.ribbon import ribbon

SHARES = (("accuracy", "accuracy"), ("precision", "precision"), ("recall", "recall"), ("jaccard", "Jaccard"))
FORMS = (("", "strict"), ("_relaxed", "relaxed"), ("_legacy", "legacy relaxed"))
METRICS = (
    *(
        Column(key + suffix, f"{title}, {form}", 3)
        for suffix, form in FORMS
        for key, title in (*SHARES, ("f1", "F1"))
    ),
    Column("edit", "edit score", 3),
    Column("segment_f1_10", "segment F1@10", 3),
    Column("segment_f1_25", "segment F1@25", 3),
    Column("segment_f1_50", "segment F1@50", 3),
    Column("average_precision", "average precision", 3),
    Column("prevalence", "prevalence", 3),
    Column("tool_precision", "precision at the threshold", 3),
    Column("tool_recall", "recall at the threshold", 3),
)
CASE_METRICS = (
    Column("frames", "frames"),
    Column("fps", "fps", 2),
    Column("accuracy", "accuracy", 3),
    Column("accuracy_relaxed", "relaxed", 3),
    Column("accuracy_legacy", "legacy", 3),
    Column("precision", "precision", 3),
    Column("recall", "recall", 3),
    Column("jaccard", "Jaccard", 3),
    Column("segment_f1_50", "F1@50", 3),
    Column("average_precision", "AP", 3),
)
ABOUT = (
    "Scores use every annotated cached frame, at the rate in the column fps: per phase within a "
    "video, then the mean over videos; (phases) is the mean over a video's phases, its accuracy, and its "
    "segments; (tools) the mean over tools. Strict forgives nothing. Relaxed forgives neighbouring phases "
    "within 10 s of a true transition, as intended by the M2CAI protocol; legacy relaxed is what its "
    "released script computes. Values of different forms must not be compared."
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
    pictures_title="Best, median and worst video",
    pictures_note="Grey: not annotated. Tools: the upper half is the truth, the lower half the prediction.",
    pictures=pictures,
    concerns=concerns,
    summary=summary,
)
