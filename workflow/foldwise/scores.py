"""Scores of cases: the rows of each case with each choice that is still open, e.g. of post-processing.

A part of the cases has a folder: `rows.json`, case → a list of (choice, rows); and, if the system keeps
something for the export, e.g. label maps, a file <case>.h5.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from foldwise.files import CaseError, naming, read_json, write_json
from foldwise.hdf5 import create_hdf5, open_hdf5
from foldwise.index import Entry

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "foldwise-scores-1"
ROWS = "rows"
Chosen = Mapping[str, Any]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Scores:
    """A case's scores.

    Attributes:
        choices: everything that may be chosen.
        rows: the case's rows of metrics.csv with each of them; none without a label.
    """

    choices: Sequence[Chosen]
    rows: Sequence[Sequence[Row]]

    def number(self, chosen: Chosen) -> int:
        """The place of a choice among all.

        Raises:
            CaseError: it was not among those that were scored.
        """
        if chosen not in self.choices:
            raise CaseError(f"was not scored with {dict(chosen)}, but with {[*map(dict, self.choices)]}")
        return self.choices.index(chosen)

    def of(self, chosen: Chosen) -> Sequence[Row]:
        """The rows with a choice.

        Raises:
            CaseError: it was not among those that were scored.
        """
        return self.rows[self.number(chosen)]


def create_scores(path: Path) -> h5py.File:
    """A new file for a case's scores, in which a system may keep more."""
    file = create_hdf5(path)
    file.attrs["format"] = FORMAT
    return file


def store_scores(file: h5py.File, scores: Scores) -> None:
    """Store a case's scores in its file, as an array, since an attribute holds 64 KiB at most."""
    file[ROWS] = np.frombuffer(json.dumps(_plain(scores)).encode(), np.uint8)


def open_scores(path: Path) -> h5py.File:
    """Open the file of a case's scores.

    Raises:
        CaseError: it is missing or broken.
    """
    return open_hdf5(path, FORMAT)


def scores_in(path: Path) -> Scores:
    """The scores in a case's file."""
    with open_scores(path) as file:
        return _scores(json.loads(file[ROWS][()].tobytes()))


def keeps_more(path: Path) -> bool:
    """Whether a case's file holds more than its scores."""
    with open_scores(path) as file:
        return set(file) != {ROWS}


def write_rows(folder: Path, scores: Mapping[str, Scores]) -> None:
    """Write the table of a part's cases."""
    write_json(folder / f"{ROWS}.json", {case: _plain(each) for case, each in scores.items()})


def read_rows(folders: Iterable[Path]) -> dict[str, Scores]:
    """Case → its scores, from the folders of all parts.

    Raises:
        CaseError: a table is missing or broken.
    """
    return {
        case: _scores(listed)
        for folder in folders
        for case, listed in read_json(folder / f"{ROWS}.json").items()
    }


def table_of(
    entries: Iterable[Entry], scores: Mapping[str, Scores], chosen: Chosen, fold: str
) -> pd.DataFrame:
    """The rows of metrics.csv with a choice: one or more per case, in the order of the entries.

    Args:
        entries: those of these cases and perhaps others.
        scores: case → its scores.
        chosen: what was chosen.
        fold: for the column `fold`.

    Raises:
        CaseError: a case was not scored with this choice.
    """
    import pandas as pd

    rows = []
    for entry in (entry for entry in entries if entry.case in scores):
        keys = {"case": entry.case, "group": entry.group, "fold": fold}
        with naming(entry.case):
            rows += [{**keys, **row} for row in scores[entry.case].of(chosen)]
    return pd.DataFrame(rows)


def _plain(scores: Scores) -> list[Any]:
    """The scores as JSON values; an undefined score is null."""
    rows = [[{key: _value(value) for key, value in row.items()} for row in each] for each in scores.rows]
    return [[dict(chosen), each] for chosen, each in zip(scores.choices, rows, strict=True)]


def _value(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(plain, float) and math.isnan(plain) else plain


def _scores(listed: Sequence[Any]) -> Scores:
    rows = [[{k: math.nan if v is None else v for k, v in row.items()} for row in each] for _, each in listed]
    return Scores([chosen for chosen, _ in listed], rows)
