"""The report of interactive segmentation: Dice over rounds, choices of slices, quality."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foldwise.report.figures import PALETTE, picture
from foldwise.report.results import Experiment, ModelResults
from foldwise.report.tables import Column, Table
from foldwise.report.view import Picture, View
from foldwise.systems.interactive.kinds import CHOICES, ENGINES, PROTOCOLS
from foldwise.systems.interactive.record import Record, Scored, correlation, open_record, pairs
from foldwise.systems.interactive.segfm3d_table import protocol_table
from foldwise.volumes.remarks import lung_remarks

METRICS = (
    Column("dice", "Dice", 3),
    Column("jaccard", "Jaccard", 3),
    Column("hd95_mm", "HD95 (mm)", 1),
    Column("assd_mm", "ASSD (mm)", 2),
    Column("surface_dice", "surface Dice", 3),
    Column("quality_r", "r of quality", 2),
    Column("seconds", "seconds per round", 2),
)
CASE_METRICS = (
    Column("dice", "Dice", 3),
    Column("hd95_mm", "HD95 (mm)", 1),
    Column("surface_dice", "surface Dice", 3),
    Column("truth_ml", "truth (ml)", 2),
    Column("volume_ml", "found (ml)", 2),
    Column("quality_r", "r of quality", 2),
    Column("seconds", "s per round", 2),
)
CHOOSERS = {"predicted": "predicted quality", "oracle": "oracle (true quality)", "random": "random"}
KEYS = ["engine", "hints", "choice", "round"]


def shown(experiment: Experiment) -> Experiment:
    """The rows that tables rank and summarise: the last round of sessions with predicted choice."""
    return replace(experiment, models=[_last(model) for model in experiment.models])


def _last(model: ModelResults) -> ModelResults:
    def kept(rows: pd.DataFrame) -> pd.DataFrame:
        if not len(rows):
            return rows
        rows = rows[rows["choice"] == "predicted"]
        # A session ends early if no slice is left to look at.
        ends = rows.groupby(["case", "class", "engine", "hints"])["round"].transform("max")
        rows = rows[rows["round"] == ends]
        baseline = rows["engine"].where(rows["engine"] != ENGINES[0], "")
        named = rows["class"] + ", " + rows["hints"] + baseline.map(lambda name: name and f" ({name})")
        return rows.assign(**{"class": named})

    return replace(model, metrics=kept(model.metrics), test=kept(model.test))


def over_rounds(rows: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """Means over cases and objects: a row per engine, kind of hints and choice of slices, a column per round.

    A session that ended early counts with its last round in all later rounds.
    """
    rounds = range(1, int(rows["round"].max()) + 1)
    keys = ["engine", "hints", "choice"]
    sessions = rows.pivot_table(index=[*keys, "case", "class"], columns="round", values=metric)
    whole = sessions.reindex(columns=rounds).ffill(axis=1)
    means = whole.groupby(level=keys, sort=False).mean()
    kinds = dict.fromkeys(rows["hints"])
    wanted = [(engine, kind, choice) for kind in kinds for engine in ENGINES for choice in CHOICES]
    return means.loc[[key for key in wanted if key in means.index]]


def tables(model: ModelResults) -> list[Table]:
    """Scores over rounds, figures on quality and time, and those of a published protocol."""
    published = model.metrics["hints"].isin(PROTOCOLS)
    rows = model.metrics[~published]
    shown_tables = []
    for column in (METRICS[0], METRICS[2], METRICS[4]):
        means = over_rounds(rows, column.key)
        rounds = tuple(Column(f"round{n}", f"round {n}", column.digits) for n in means.columns)
        shown_tables.append(
            Table(
                f"{column.title} after each round: means over held-out cases and objects. Slices after the "
                f"first are chosen by the predicted quality; for comparison by the true one (oracle) and at "
                f"random.",
                (
                    Column("hints", "hints", text=True),
                    Column("engine", "engine", text=True),
                    Column("choice", "slices chosen by", text=True),
                    *rounds,
                ),
                _rows(means),
            )
        )
    predicted, true = quality_of(model)
    seconds = rows[rows["engine"] == ENGINES[0]]["seconds"]
    ended = rows[rows["over"].astype(bool)]
    facts = [
        ("correlation of predicted and true IoU of slices", correlation(predicted, true)),
        ("mean absolute difference of both", float(np.abs(predicted - true).mean()) if len(true) else np.nan),
        ("number of these slices", float(len(true))),
        ("seconds per round, mean", float(seconds.mean())),
        ("seconds per round, longest", float(seconds.max())),
        ("marked voxels that a mask contradicts", float(rows["broken"].sum())),
        ("sessions with nothing left to do, lowest Dice", float(ended["dice"].min())),
        ("peak memory of a propagation (MiB)", _memory(model) / 2**20),
    ]
    columns = (Column("fact", "measure", text=True), Column("value", "value", 3))
    shown_tables.append(
        Table(
            "Quality and cost. The quality is of slices without hints where the object may be, in sessions "
            "with predicted choice. The memory does not grow with the volume.",
            columns,
            [{"fact": fact, "value": value} for fact, value in facts],
        )
    )
    return [*shown_tables, *_published(model.metrics[published])]


def _published(rows: pd.DataFrame) -> list[Table]:
    """The table of the protocol for each engine."""
    shown_tables = []
    for engine, given in rows.groupby("engine", sort=False):
        last = given[given["segfm3d_dice"].notna()][["case", "class", *given.filter(like="segfm3d_")]]
        table = protocol_table(last.rename(columns=lambda name: name.removeprefix("segfm3d_")))
        shown_tables.append(replace(table, caption=f"Engine {engine}. {table.caption}"))
    return shown_tables


def _rows(means: pd.DataFrame) -> list[dict[str, Any]]:
    listed = []
    for row in means.rename(columns=lambda number: f"round{number}").reset_index().to_dict("records"):
        listed.append({**{str(key): value for key, value in row.items()}, "choice": CHOOSERS[row["choice"]]})
    return listed


def _records(model: ModelResults) -> Iterator[tuple[Record, list[Scored]]]:
    for path in model.predictions.values():
        with open_record(path) as file:
            record = Record(file)
            kept = (ENGINES[0], "predicted")
            yield record, [each for each in record.rounds() if (each.engine, each.choice) == kept]


def _memory(model: ModelResults) -> int:
    return max((record.memory_bytes for record, _ in _records(model)), default=0)


def quality_of(model: ModelResults) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true IoU for all slices of all rounds with predicted choice."""
    found = [np.stack(pairs(round_)) for _, rounds in _records(model) for round_ in rounds]
    predicted, true = np.concatenate([np.zeros((2, 0)), *found], axis=1)
    return predicted, true


def pictures(experiment: Experiment, model: ModelResults) -> list[Picture]:
    """Dice over rounds by choice of slices, and predicted against true quality."""
    shown_rows = (model.metrics["engine"] == ENGINES[0]) & ~model.metrics["hints"].isin(PROTOCOLS)
    means = over_rounds(model.metrics[shown_rows]).droplevel("engine")
    kinds = list(dict.fromkeys(means.index.get_level_values("hints")))
    figure = Figure(figsize=(2.6 * (len(kinds) + 1), 2.9), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(kinds) + 1, sharey=True))
    _rounds_panel(panels[0], means.groupby(level="choice", sort=False).mean(), "all hints")
    for axes, kind in zip(panels[1:], kinds, strict=True):
        _rounds_panel(axes, means.loc[[kind]].droplevel("hints"), kind)
    panels[0].set_ylabel("Dice", fontsize=8)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False
    )
    shown_pictures = [
        Picture(
            picture(figure),
            "Mean Dice over rounds, by choice of slices.",
            "Curves of mean Dice over rounds, for each kind of hints; the table above gives the numbers",
        )
    ]
    predicted, true = quality_of(model)
    if len(true):
        scatter = Figure(figsize=(3.4, 3.2), layout="constrained")
        axes = scatter.subplots()
        axes.plot([0, 1], [0, 1], color="0.7", lw=1)
        axes.plot(predicted, true, ".", ms=2, alpha=0.3, color=PALETTE[0])
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted IoU", ylabel="true IoU")
        shown_pictures.append(
            Picture(
                picture(scatter),
                "Predicted and true IoU of slices without hints where the object may be.",
                "Scatter of predicted against true IoU; the table above gives their correlation",
            )
        )
    return shown_pictures


def _rounds_panel(axes: Axes, means: pd.DataFrame, title: str) -> None:
    for choice, colour in zip(CHOICES, PALETTE, strict=False):
        if choice in means.index:
            values = means.loc[choice]
            axes.plot(values.index, values.to_numpy(), ".-", color=colour, lw=1.4, label=CHOOSERS[choice])
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("round", fontsize=8)
    axes.set_xticks(list(means.columns))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


VIEW = View(
    metrics=METRICS,
    case_metrics=CASE_METRICS,
    score=("val_dice", "validation Dice"),
    about="Scores are computed on the grid of the source files. A simulated user, who sees the truth of one "
    "slice at a time, gave hints; unless stated otherwise, the predicted quality alone chose the slices "
    "after the first, and scores are those of the last round.",
    excluded="Left out and counted: cases in which truth and mask are empty, and for correlations those with "
    "fewer than three slices to compare.",
    class_title="object, hints",
    pictures_title="Rounds",
    pictures_note="",
    pictures=pictures,
    remarks=lambda cases, data, caches: lung_remarks(cases, data),
    shown=shown,
    tables=tables,
)
