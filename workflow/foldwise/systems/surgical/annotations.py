"""Phase and tool annotations as text files, in the form of Cholec80, and their rows for given frames.

Phases: header `Frame Phase`, then `<frame> <name>`. Tools: header `Frame <tool> <tool> …`, then `<frame>` and
a 0 or 1 per tool. Cells are separated by tabs (or spaces). Frames count from 0 at the annotation's rate, 25
per second in Cholec80, regardless of the rate of the kept frames; `rates` finds it.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foldwise.files import CaseError, atomic_path
from foldwise.texts import read_text

# Value of a frame without a row.
UNKNOWN = -1


@dataclass(frozen=True)
class Track:
    """Rows of an annotation.

    Attributes:
        frames: (n,) int64, increasing.
        values: (n,) int8 phase numbers, or (n, tools) int8 of 0 and 1.
    """

    frames: np.ndarray
    values: np.ndarray

    def at(self, frames: np.ndarray) -> np.ndarray:
        """Values of the rows nearest to the given frames, (n, …) int8; `UNKNOWN` where none is near.

        Near is half of the usual step, so a hole in the annotation stays one. Of two rows equally near, the
        earlier one counts.
        """
        after = np.minimum(np.searchsorted(self.frames, frames), len(self.frames) - 1)
        before = np.maximum(after - 1, 0)
        apart = [np.abs(self.frames[places] - frames) for places in (before, after)]
        nearest = np.where(apart[0] <= apart[1], before, after)
        found = self.values[nearest]
        found[2 * np.minimum(*apart) > self.step] = UNKNOWN
        return found

    @property
    def step(self) -> int:
        """Frames from one row to the next, for most rows."""
        if len(self.frames) < 2:
            return 1
        steps, counts = np.unique(np.diff(self.frames), return_counts=True)
        return int(steps[counts.argmax()])

    @property
    def end(self) -> int:
        """The first frame beyond the annotation."""
        return int(self.frames[-1]) + self.step


def read_phases(path: Path, phases: Sequence[str]) -> Track:
    """Read a phase file.

    Args:
        path: the file.
        phases: names in the order of their numbers.

    Raises:
        CaseError: not such a file, or a name that is not in `phases`.
    """
    header, rows = _read(path)
    if [name.lower() for name in header] != ["frame", "phase"]:
        raise CaseError(f"{path}: line 1: {' '.join(header)!r}; expected `Frame Phase` in a phase file")
    number = {name: n for n, name in enumerate(phases)}
    values = []
    for line, (_, cells) in enumerate(rows, start=2):
        if cells[0] not in number:
            near = difflib.get_close_matches(cells[0], phases, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"data.phases are {', '.join(phases)}"
            raise CaseError(f"{path}: line {line}: phase {cells[0]!r} is unknown; {hint}")
        values.append(number[cells[0]])
    return Track(_frames(path, rows), np.array(values, np.int8))


def read_tools(path: Path, tools: Sequence[str]) -> Track:
    """Read a tool file.

    Args:
        path: the file.
        tools: names in the order of the columns.

    Raises:
        CaseError: not such a file, other tools or another order, or a value that is neither 0 nor 1.
    """
    header, rows = _read(path)
    if header[0].lower() != "frame" or len(header) < 2:
        raise CaseError(
            f"{path}: line 1: {' '.join(header)!r}; expected `Frame` and the tools' names in a tool file"
        )
    if tuple(header[1:]) != tuple(tools):
        found = ", ".join(header[1:])
        what = "tools in another order" if sorted(header[1:]) == sorted(tools) else "other tools"
        raise CaseError(f"{path}: line 1: {what}: {found}; data.tools are {', '.join(tools)}")
    for line, (_, cells) in enumerate(rows, start=2):
        if wrong := [cell for cell in cells if cell not in ("0", "1")]:
            raise CaseError(f"{path}: line {line}: {wrong[0]!r}; expected 1 (tool present) or 0 (absent)")
    values = np.array([cells for _, cells in rows]).astype(np.int8)
    return Track(_frames(path, rows), values)


def read_header(path: Path) -> list[str]:
    """Names of an annotation's columns.

    Raises:
        CaseError: not such a file.
    """
    return _read(path)[0]


def write_phases(path: Path, frames: Sequence[int] | np.ndarray, names: Sequence[str]) -> None:
    """Write a phase file: one row per frame with the name of its phase."""
    _write(path, ["Frame", "Phase"], zip(map(int, frames), names, strict=True))


def write_tools(
    path: Path, frames: Sequence[int] | np.ndarray, tools: Sequence[str], values: np.ndarray
) -> None:
    """Write a tool file.

    Args:
        path: the file.
        frames: frames of the rows.
        tools: names of the columns.
        values: (n, tools), 0 or 1.
    """
    rows = ([int(frame), *map(int, row)] for frame, row in zip(frames, values, strict=True))
    _write(path, ["Frame", *tools], rows)


def write_probabilities(
    path: Path, frames: np.ndarray, times: np.ndarray, names: Sequence[str], values: np.ndarray
) -> None:
    """Write a file of probabilities: one row per frame, with its time in the column `Seconds`.

    Args:
        path: the file.
        frames: frames of the rows, (n,).
        times: of the frames, (n,). s.
        names: of the columns.
        values: (n, names).
    """
    rows = (
        [int(frame), f"{time:.3f}", *(f"{value:.6f}" for value in row)]
        for frame, time, row in zip(frames, times, values, strict=True)
    )
    _write(path, ["Frame", "Seconds", *names], rows)


def _read(path: Path) -> tuple[list[str], list[tuple[str, list[str]]]]:
    lines = read_text(path).splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) < 2:
        raise CaseError(f"{path}: no rows")
    cells = [
        [c.strip() for c in line.strip().split("\t")] if "\t" in line else line.split() for line in lines
    ]
    for number, row in enumerate(cells, start=1):
        if len(row) != len(cells[0]) or not row:
            raise CaseError(f"{path}: line {number}: {len(row)} cells, the header has {len(cells[0])}")
    return cells[0], [(row[0], row[1:]) for row in cells[1:]]


def _frames(path: Path, rows: Sequence[tuple[str, list[str]]]) -> np.ndarray:
    before = -1
    for line, (cell, _) in enumerate(rows, start=2):
        if not cell.isdecimal():
            raise CaseError(f"{path}: line {line}: {cell!r}; a row must start with its frame's number")
        if int(cell) <= before:
            raise CaseError(f"{path}: line {line}: frame {cell} after frame {before}; frames must increase")
        before = int(cell)
    return np.array([int(cell) for cell, _ in rows], np.int64)


def _write(path: Path, header: Sequence[str], rows: object) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)  # type: ignore[arg-type]
