"""The report of clips: scores of clips and patients, confusion, ROC, calibration, and mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix, roc_curve

from foldwise.files import atomic_path, read_json
from foldwise.hdf5 import open_hdf5
from foldwise.report.figures import PALETTE, picture
from foldwise.report.results import Experiment, ModelResults, Remark
from foldwise.report.tables import Column, Table, number
from foldwise.report.view import Picture, View
from foldwise.statistics import fold_summary
from foldwise.systems.clips.metrics import (
    CLEAN,
    arrays,
    measure,
    predicted,
    reliability,
    summarise,
)
from foldwise.systems.clips.patients import (
    ATTENTION,
    has_attention,
    per_patient,
    probability_columns,
    with_attention,
)
from foldwise.systems.clips.predictions import read_source
from foldwise.video.damage import left_out
from foldwise.video.regions import spread
from foldwise.video.store import open_frames, read

METRICS = (
    Column("balanced_accuracy", "balanced accuracy", 3),
    Column("accuracy", "accuracy", 3),
    Column("auc", "AUC", 3),
    Column("f1", "F1", 3),
    Column("recall", "recall", 3),
    Column("log_loss", "log loss", 3),
    Column("brier", "Brier score", 3),
    Column("ece", "calibration error", 3),
    Column("correct", "share correct", 3),
    Column("p_true", "probability of the truth", 3),
)
CASE_METRICS = (
    Column("predicted", "predicted", text=True),
    Column("p_true", "probability of the truth", 3),
    Column("confidence", "confidence", 3),
)
ABOUT = (
    "Each clip is predicted by the model of the fold in which its patient was held out; probabilities are "
    "averaged over the clip's views, and over a patient's clips; with AttentionMIL, a patient's clips count "
    "by the attention that it learnt. Balanced accuracy is the mean recall of the classes; guessing reaches "
    "one over their number. Overall AUC and F1 are means over classes, one against the rest; the calibration "
    "error uses ten bins. With data.update_labels, the same is also given for the clips whose new region was "
    "accepted; clips under review are not trained on, but tested on with the disputed region, or whole if "
    "none was found, as a new clip would be."
)
EXCLUDED = (
    "A fold in which a class is absent, or the only one, has no recall or AUC for it, and is counted as left "
    "out."
)
# Mistakes shown, and frames of each.
MISTAKES, FRAMES = 4, 6
# Wrong predictions with at least this probability get a remark.
CONFIDENT = 0.9


def pictures(experiment: Experiment, model: ModelResults) -> list[Picture]:
    """Confusion matrices, ROC and reliability, and film strips of the most confident mistakes."""
    rows = model.metrics
    shown = [
        Picture(
            confusion(rows),
            "Confusion of clips and of patients, counts; a row is a true class",
            "two confusion matrices",
        ),
        Picture(
            characteristics(rows),
            "Receiver operating characteristic of each class against the rest (clips), and calibration: the "
            "dashed line is perfect, a dot's area its number of clips",
            "ROC curves and a reliability diagram",
        ),
    ]
    for row in mistakes(rows):
        path = source_of(model.predictions[row["case"]], experiment.caches / f"{row['case']}.h5")
        text = (
            f"{row['case']} (patient {row['group']}): {row['class']}, predicted as {row['predicted']} with "
            f"{number(row['confidence'], 2)}"
        )
        shown.append(Picture(film_strip(path), text, f"frames of {row['case']} with its region outlined"))
    return shown


def mistakes(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The wrong predictions of highest confidence, at most one per patient, most confident first."""
    rows = rows.assign(predicted=predicted(rows))
    wrong = rows[rows["predicted"] != rows["class"]].sort_values("confidence", ascending=False, kind="stable")
    return [{str(k): v for k, v in row.items()} for row in wrong.drop_duplicates("group").to_dict("records")][
        :MISTAKES
    ]


def confusion(rows: pd.DataFrame) -> str:
    """Confusion matrices of clips and of patients, as a data address."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    patients = "patients, by attention" if has_attention(rows) else "patients"
    for axes, (title, table) in zip(
        figure.subplots(1, 2), (("clips", rows), (patients, per_patient(rows))), strict=True
    ):
        truth, probabilities, classes = arrays(table)
        counts = confusion_matrix(truth, probabilities.argmax(axis=1), labels=range(len(classes)))
        axes.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            dark = count > 0.5 * counts[row].sum()
            axes.text(column, row, str(count), ha="center", va="center", color="white" if dark else "black")
        axes.set_xticks(range(len(classes)), classes, fontsize=8)
        axes.set_yticks(range(len(classes)), classes, fontsize=8)
        axes.set_xlabel("predicted", fontsize=8)
        axes.set_ylabel("truth", fontsize=8)
        axes.set_title(title, fontsize=9)
    return picture(figure)


def characteristics(rows: pd.DataFrame) -> str:
    """ROC curves and the reliability diagram, as a data address."""
    truth, probabilities, classes = arrays(rows)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, (name, colour) in enumerate(zip(classes, PALETTE * len(classes), strict=False)):
        if 0 < (truth == index).sum() < len(truth):
            false, true, _ = roc_curve(truth == index, probabilities[:, index])
            left.plot(false, true, color=colour, lw=1.5, label=name)
    bins = reliability(truth, probabilities)
    right.plot([b[0] for b in bins], [b[1] for b in bins], color=PALETTE[0], lw=1)
    right.scatter(
        [b[0] for b in bins],
        [b[1] for b in bins],
        s=[600 * b[2] / len(truth) for b in bins],
        color=PALETTE[0],
    )
    for axes, across, up in ((left, "1 − specificity", "sensitivity"), (right, "confidence", "accuracy")):
        axes.plot([0, 1], [0, 1], "--", color="grey", lw=0.8)
        axes.set_xlabel(across, fontsize=8)
        axes.set_ylabel(up, fontsize=8)
        axes.tick_params(labelsize=8)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    left.legend(fontsize=8, frameon=False, loc="lower right")
    return picture(figure)


def film_strip(path: Path) -> str:
    """Frames of a case, evenly spaced over time, with its region outlined if there is one, as a data address.

    Args:
        path: frame cache, or file of regions.
    """
    with open_hdf5(path) as file:
        numbers = spread(int(file.attrs["frames"]), FRAMES)
        frames = read(file, numbers)
        masks = file["masks"][numbers] if "masks" in file else None
        times = file["time_s"][()][list(numbers)]
    figure = Figure(figsize=(1.6 * len(frames), 1.75 * frames.shape[1] / frames.shape[2] + 0.2))
    figure.set_layout_engine("constrained")
    panels = np.atleast_1d(np.array(figure.subplots(1, len(frames))))
    for place, axes in enumerate(panels):
        _frame(axes, frames[place], None if masks is None else masks[place], f"{times[place]:.1f} s")
    return picture(figure)


def source_of(prediction: Path, cache: Path) -> Path:
    """The file that a model saw: frames with regions if it had them, else the cache."""
    path = read_source(prediction)
    return path if path.exists() else cache


def concerns(rows: pd.DataFrame) -> list[dict[str, str]]:
    """Clips predicted wrongly with high confidence."""
    found = []
    for row in rows.assign(predicted=predicted(rows)).to_dict("records") if len(rows) else ():
        if row["predicted"] != row["class"] and row["confidence"] >= CONFIDENT:
            text = f"predicted as {row['predicted']} with a probability of {row['confidence']:.2f}"
            found.append({"case": str(row["case"]), "class": str(row["class"]), "text": text})
    return found


def remarks(cases: Mapping[str, Any], data: Path, caches: Path) -> list[Remark]:
    """Damaged clips, and the review list: those without a region, or whose region and given mask disagree."""
    listed = []
    for case, facts in cases.items():
        if (cache := caches / f"{case}.h5").exists():
            with open_frames(cache) as file:
                listed += [Remark(case, text) for text in left_out(int(file.attrs["damaged"]))]
        path = Path(facts["regions"]) / f"{case}.json" if facts.get("regions") else None
        if path is not None and path.exists() and (review := read_json(path)["review"]):
            listed.append(Remark(case, f"{review}; the given labels are unchanged"))
    return listed


def robustness(experiment: Experiment) -> pd.DataFrame:
    """Scores of held-out clips as they are and with changed frames; empty if there is nothing to compare.

    Returns:
        A row for each model, kind of change and strength: its share of the labels, number of clips, scores,
        and how much lower these are than those of the clean clips.
    """
    keys = ("accuracy", "balanced_accuracy", "auc")
    rows: list[dict[str, Any]] = []
    for model in experiment.models:
        clean = model.metrics.assign(perturbation=CLEAN, strength=0.0)
        found = model.further.get("perturb", clean)
        first: dict[tuple[str, str], float] | None = None
        for (kind, strength), part in found.groupby(["perturbation", "strength"], sort=False):
            scores = measure(*arrays(part))
            first = first or scores
            row = {"model": model.name, "labels": model.labels, "perturbation": kind, "strength": strength}
            row |= {"n": len(part), **{key: scores["", key] for key in keys}}
            rows.append(row | {f"{key}_drop": first["", key] - scores["", key] for key in keys})
    table = pd.DataFrame(rows)
    return table if len({*table["perturbation"]}) > 1 or (table["labels"] < 1).any() else table[:0]


def compared(experiment: Experiment) -> list[Table]:
    """The table of robustness and of shares of the labels."""
    rows = [{str(k): v for k, v in row.items()} for row in robustness(experiment).to_dict("records")]
    for row in rows:
        row["labels"] = f"{100 * row['labels']:g} %"
        row["frames"] = _changed(row["perturbation"], row["strength"])
        if row["perturbation"] == CLEAN:
            row |= dict.fromkeys(("accuracy_drop", "balanced_accuracy_drop", "auc_drop"))
    shown = [metric for metric in METRICS if metric.key in ("accuracy", "balanced_accuracy", "auc")]
    columns = (
        Column("model", "model", text=True),
        Column("labels", "training patients"),
        Column("frames", "frames", text=True),
        Column("n", "clips"),
        *shown,
        *(Column(f"{metric.key}_drop", f"{metric.title}, drop", 3) for metric in shown),
    )
    caption = (
        "Held-out clips as they are and with changed frames, by the models and their shares of the "
        "training patients (`labels`): scores over all clips, and how much lower they are than clean."
    )
    return [Table(caption, columns, rows)] if rows else []


def _changed(kind: str, strength: float) -> str:
    """A change of frames in words, e.g. `gain −6 dB`."""
    if kind == CLEAN:
        return CLEAN
    amount = {"shadow": f"{100 * strength:g} %", "speckle": f"{strength:g}"}.get(kind, f"{strength:g} dB")
    return f"{kind} {amount}".replace("-", "−")


def files(experiment: Experiment, folder: Path) -> None:
    """Write each model's out-of-fold predictions, <model>/predictions.csv, and perturb.csv, if any."""
    if any(model.further for model in experiment.models):
        with atomic_path(folder / "perturb.csv") as temporary:
            robustness(experiment).to_csv(temporary, index=False)
    else:
        (folder / "perturb.csv").unlink(missing_ok=True)
    for model in experiment.models:
        own = probability_columns(model.metrics)
        rows = with_attention(model.metrics.assign(predicted=predicted(model.metrics)))
        own += [ATTENTION] if ATTENTION in rows else []
        table = rows[["case", "group", "fold", "class", "predicted", *own]]
        with atomic_path(folder / model.name / "predictions.csv") as temporary:
            table.rename(columns={"class": "label"}).to_csv(temporary, index=False)


def summary(rows: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Scores of clips and patients, pooled and over folds; for differences of cases, their means."""
    if not probability_columns(rows):
        return fold_summary(rows, metrics)
    return summarise(rows, metrics)


def _frame(axes: Axes, frame: np.ndarray, mask: np.ndarray | None, title: str) -> None:
    axes.imshow(frame)
    if mask is not None and mask.any() and not mask.all():
        axes.contour(mask, [0.5], colors=[PALETTE[1]], linewidths=0.8)
    axes.set_title(title, fontsize=7)
    axes.set_axis_off()


VIEW = View(
    metrics=METRICS,
    case_metrics=CASE_METRICS,
    score=("val_balanced_accuracy", "validation balanced accuracy"),
    about=ABOUT,
    excluded=EXCLUDED,
    pictures_title="Predictions",
    pictures_note="Film strips show the most confident mistakes, one per patient, with the region that the "
    "model was given.",
    rank="p_true",
    pictures=pictures,
    concerns=concerns,
    remarks=remarks,
    across=compared,
    summary=summary,
    files=files,
)
