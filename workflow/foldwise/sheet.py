"""Sample sheets: one case per row, read as text; the system defines the columns."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from foldwise.files import CaseError
from foldwise.texts import read_rows, refuse_header

# A case's name becomes part of file names and a wildcard of the workflow.
CASE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
# File systems take 255 bytes in a file's name, of which names of classes and endings take their share.
LONGEST_NAME = 128
# Columns of every sheet.
COLUMNS = ("case", "group", "split")
SPLITS = ("", "train", "test")


@dataclass(frozen=True)
class Case:
    """A row of a sheet; a system adds its columns.

    Attributes:
        name: the case, unique.
        group: the patient; folds never split it. The case's name if the sheet gives none.
        split: "test" for a case of the fixed test set, else "".
        line: the row's line in the sheet; the header is line 1.
    """

    name: str
    group: str
    split: str
    line: int

    @property
    def files(self) -> tuple[Path, ...]:
        """Every source file of the case."""
        raise NotImplementedError

    @property
    def recordings(self) -> tuple[Path, ...]:
        """Scans or videos among the files, as opposed to annotations; no other patient can have the same."""
        return self.files

    @property
    def labelled(self) -> bool:
        """Whether the case can be used for training and scoring; others are only predicted."""
        raise NotImplementedError

    @property
    def trains(self) -> bool:
        """Whether the case takes part in cross-validation."""
        return self.labelled and self.split != "test"


AnyCase = TypeVar("AnyCase", bound=Case)


@dataclass(frozen=True)
class Sheet(Generic[AnyCase]):
    """The cases of a sheet and the problems in its text.

    Attributes:
        cases: the usable rows, in the order of the sheet.
        problems: one line each, starting with the sheet's line number.
    """

    cases: tuple[AnyCase, ...]
    problems: tuple[str, ...]

    def refuse(self, source: Path) -> None:
        """Raise one CaseError with every problem, if there are any."""
        if self.problems:
            raise CaseError(f"{source}: {len(self.problems)} problem(s)\n  " + "\n  ".join(self.problems))

    def __getitem__(self, name: str) -> AnyCase:
        return next(case for case in self.cases if case.name == name)


@dataclass(frozen=True)
class Table:
    """A sheet's text.

    Attributes:
        path: the file.
        header: names of the columns.
        rows: (line, cells) of each row that is neither empty nor a comment.
    """

    path: Path
    header: Sequence[str]
    rows: Sequence[tuple[int, Sequence[str]]]


def read_table(path: Path, known: Sequence[str], also: str = "(?!)") -> Table:
    """Read a sheet's text; TSV if the suffix is .tsv, else CSV.

    Args:
        path: the sheet.
        known: columns with a meaning, in addition to `COLUMNS`; others are the user's own.
        also: pattern of further names with a meaning.

    Raises:
        CaseError: no such file, no column `case`, or a column that appears twice or seems misspelt.
    """
    if not path.is_file():
        raise CaseError(f"{path}: no such sample sheet (data.sheet)")
    (_, header), *body = read_rows(path, "case")
    meant = (*COLUMNS, *known)
    for column in header:
        # The user's own columns are allowed; a misspelt one would silently drop the labels.
        near = difflib.get_close_matches(column.lower(), meant, n=1, cutoff=0.78)
        if column not in meant and near and not re.fullmatch(also, column):
            raise CaseError(f"{path}: line 1: column {column!r}: did you mean `{near[0]}`?")
    refuse_header(path, header, ["case"])
    rows = [(line, row) for line, row in body if not row[0].startswith("#")]
    return Table(path, header, rows)


def read_cases(
    table: Table, needed: Sequence[str], make: Callable[[Mapping[str, str], Case], AnyCase]
) -> Sheet[AnyCase]:
    """Build the cases of a sheet.

    Args:
        table: the sheet's text.
        needed: columns that must not be empty in any row.
        make: builds a system's case from a row's cells and the fields that all cases have.
    """
    cases: list[AnyCase] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    for line, row in table.rows:
        if len(row) != len(table.header):
            problems.append(f"line {line}: {len(row)} cells, the header has {len(table.header)}")
            continue
        cells = dict(zip(table.header, row, strict=True))
        if found := _row_problems(cells, needed, seen):
            problems += [f"line {line}: {problem}" for problem in found]
            continue
        name, split = cells["case"], cells.get("split", "")
        seen[name] = line
        base = Case(name, cells.get("group") or name, "test" if split == "test" else "", line)
        cases.append(make(cells, base))
    if not cases and not problems:
        problems.append("line 1: the sheet has no cases")
    return Sheet(tuple(cases), tuple(problems))


def _row_problems(cells: Mapping[str, str], needed: Sequence[str], seen: Mapping[str, int]) -> list[str]:
    name = cells["case"]
    problems = []
    if not CASE_NAME.match(name):
        problems.append(f"case {name!r}: use only letters, digits, `_`, `.` and `-` in a name")
    if len(name) > LONGEST_NAME:
        problems.append(f"case {name[:40]}…: {len(name)} letters; use {LONGEST_NAME} at most in a name")
    if name in seen:
        problems.append(f"case {name}: already on line {seen[name]}")
    if missing := [column for column in needed if not cells[column]]:
        problems.append(f"case {name}: missing {', '.join(missing)}")
    if (split := cells.get("split", "")) not in SPLITS:
        problems.append(f"case {name}: split {split!r}; use `train`, `test` or leave it empty")
    return problems
