"""The parts of the report that a system defines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from foldwise.report.results import Experiment, ModelResults, Remark
from foldwise.report.tables import Column, Table
from foldwise.statistics import fold_summary


@dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Attributes:
        image: data address.
        caption: description.
        alternative: alternative text.
    """

    image: str
    caption: str
    alternative: str


def _nothing(*_: Any) -> list[Any]:
    return []


@dataclass(frozen=True)
class View:
    """The system-specific parts of the page.

    Attributes:
        metrics: columns of metrics.csv that are summarised; the first one ranks cases and appears at the top
            of the page.
        case_metrics: columns in the tables of single cases.
        score: column of the training log by which epochs are chosen, and its title.
        about: how scores are computed, a sentence.
        excluded: which cases are left out of which means, and how others count.
        class_title: heading of the column `class`.
        rank: column that ranks tables of cases, worst first; "": the first metric.
        pictures_title: heading over the pictures of a model.
        pictures_note: description of these pictures.
        colours: legend of the pictures.
        pictures: pictures of a model.
        chosen: the choice from a fold's validation cases, in words; "" for none.
        concerns: cases that a reader should look at: rows of case, class and text.
        remarks: remarks of preparation, from check.json's cases, the folder of prepared data and that of the
            caches.
        summary: rows of all models → their means over folds and cases.
        shown: the experiment with only the rows of its metrics that the page's common tables show.
        across: further tables that compare all models, from all their rows.
        tables: further tables of a model, from all its rows; placed above its pictures.
        files: writes further files next to the page, from the experiment and their folder.
    """

    metrics: Sequence[Column]
    case_metrics: Sequence[Column]
    score: tuple[str, str]
    about: str
    excluded: str
    pictures_title: str
    pictures_note: str
    pictures: Callable[[Experiment, ModelResults], list[Picture]]
    class_title: str = "class"
    rank: str = ""
    colours: Mapping[str, str] = field(default_factory=dict)
    chosen: Callable[[Mapping[str, Any]], str] = lambda chosen: ""
    concerns: Callable[[pd.DataFrame], list[dict[str, str]]] = _nothing
    remarks: Callable[[Mapping[str, Any], Path, Path], list[Remark]] = _nothing
    summary: Callable[[pd.DataFrame, Sequence[str]], pd.DataFrame] = fold_summary
    shown: Callable[[Experiment], Experiment] = lambda experiment: experiment
    across: Callable[[Experiment], list[Table]] = _nothing
    tables: Callable[[ModelResults], list[Table]] = _nothing
    files: Callable[[Experiment, Path], None] = lambda experiment, folder: None
