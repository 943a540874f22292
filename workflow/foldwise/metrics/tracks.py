"""Phases of videos as text files of any method, read and paired with their truth.

A file has a row per frame: the frame's number and its phase, or the phase alone. Cells are separated by
tabs, commas, semicolons or spaces; a header is optional; a phase is a name, or a number from 0 (if told, 1).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foldwise.files import CaseError
from foldwise.metrics.video import Video
from foldwise.texts import read_text

SUFFIXES = (".txt", ".csv", ".tsv")
# What people add to a video's name.
_ADDED = re.compile(
    r"[-_. ]?(phases?|pred(iction)?s?|predicted|results?|output|gt|truth|labels?|annotations?)(?=$|[-_. ])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Track:
    """Rows of a file.

    Attributes:
        path: the file.
        frames: (n,) int64 numbers of the frames, increasing.
        phases: (n,) int64 phase numbers.
    """

    path: Path
    frames: np.ndarray
    phases: np.ndarray

    @property
    def step(self) -> int:
        """From one number to the next in most rows; in rows with gaps, what divides all steps."""
        steps, counts = np.unique(np.diff(self.frames), return_counts=True)
        if not len(steps):
            return 1
        usual = counts.argmax()
        return int(steps[usual] if 2 * counts[usual] >= counts.sum() else np.gcd.reduce(steps))

    @property
    def gap(self) -> int:
        """The largest step."""
        return int(np.diff(self.frames).max(initial=1))


@dataclass(frozen=True)
class Rates:
    """How rows of files follow each other in time.

    Attributes:
        fps: rows of a prediction per second.
        truth_fps: rows of a truth per second; None: both number their frames alike.
        cut: whether rows that only one file of a pair has are left out; otherwise they are refused.
    """

    fps: float
    truth_fps: float | None = None
    cut: bool = False


def paired(predictions: Path, truth: Path) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """Video → its prediction and its truth, and warnings of files without a partner.

    Files match if their names are the same without what people add, such as `-phase`, or else by the last
    number in their names: `41.txt` and `video41-phase.txt`.

    Args:
        predictions: a file, or a folder; the folder `export` of Foldwise is also understood.
        truth: a file, or a folder.

    Raises:
        CaseError: nothing matches, or two files of a folder are named alike.
    """
    if predictions.is_file() and truth.is_file():
        return {predictions.stem: (predictions, truth)}, []
    mine, theirs = _files(predictions), _files(truth)
    for key in (_bare, number_of):
        one, two = _named(mine, key), _named(theirs, key)
        if both := [name for name in one if name in two]:
            found = {one[name].stem if key is _bare else name: (one[name], two[name]) for name in both}
            warnings = [
                f"{len(left)} file(s) of {folder} have no {what} and are not scored: {_some(left)}"
                for folder, what, left in (
                    (predictions, "truth", [p for name, p in one.items() if name not in two]),
                    (truth, "prediction", [p for name, p in two.items() if name not in one]),
                )
                if left
            ]
            return found, warnings
    raise CaseError(
        f"{predictions}: no file is named like one of {truth}: {_some(mine)} against {_some(theirs)}; "
        f"expected names that are the same apart from additions such as -phase, or with the same last number"
    )


def read_tracks(
    paths: Sequence[Path], phases: Sequence[str], first: int | None
) -> tuple[list[Track], list[str]]:
    """Read the files of one side, predictions or truth, since only all of them show where numbers begin.

    Args:
        paths: the files.
        phases: names in the order of their numbers.
        first: number of the first phase, 0 or 1, in files without a 0; None if unknown, which is refused if
            it matters.

    Returns:
        The files, and warnings.

    Raises:
        CaseError: a row is not understood; with its file and line.
    """
    read = {path: _rows(path, phases) for path in paths}
    cells = {cell for rows in read.values() for _, _, cell in rows}
    numbers = {int(float(cell)) for cell in cells if _is_number(cell)}
    if first is None and numbers and 0 not in numbers:
        raise CaseError(
            f"{paths[0]}: phases are the numbers {min(numbers)} to {max(numbers)}, without 0, in all "
            f"{len(paths)} file(s): it is not clear which phase is {min(numbers)}; give --first-number 0 or 1"
        )
    warnings = []
    if first and 0 in numbers:
        warnings.append(
            f"{paths[0]}: 0 is among the numbers of these {len(paths)} file(s), so 0 is the first"
        )
        first = 0
    return [_track(path, rows, phases, first or 0) for path, rows in read.items()], warnings


def aligned(name: str, found: Track, truth: Track, rates: Rates) -> tuple[Video, list[str]]:
    """A video's frames that both files have, and warnings.

    Frames are the same if their numbers are. If only the rates of both are known, `truth_fps` tells how to
    translate the numbers.

    Raises:
        CaseError: one of both has rows that the other lacks.
    """
    per_second = found.step * rates.fps
    scale = 1.0 if rates.truth_fps is None else rates.truth_fps * truth.step / per_second
    _refuse_other_numbers(name, found, truth, scale, rates)
    exact, step = found.frames * scale, found.step * scale
    numbers = np.rint(exact).astype(np.int64)
    theirs = np.isin(truth.frames, numbers)
    # Of several rows that round to one frame of the truth, the nearest one.
    order = np.lexsort((np.abs(exact - numbers), numbers))
    each, places = np.unique(numbers[order], return_index=True)
    mine = order[places[np.isin(each, truth.frames)]]
    warnings = []
    if not math.isclose(step, truth.step):
        warnings.append(
            f"{name}: the prediction has a row for every {step:g} frame(s), the truth for every "
            f"{truth.step}; the {len(mine)} frames of both are scored"
        )
    if found.gap > 1.5 * found.step:
        warnings.append(
            f"{found.path}: rows have gaps of up to {found.gap / per_second:g} s; times are the frames' "
            f"numbers, of which {per_second:g} are a second; legacy2016 counts frames and ignores gaps"
        )
    lacking = {
        "truth": (found, ~np.isin(numbers, truth.frames) & ~_reached(exact, truth.frames, truth.step)),
        "prediction": (truth, ~theirs & ~_reached(truth.frames, exact, step)),
    }
    for what, (track, alone) in lacking.items():
        if alone.any():
            text = f"{track.path}: {int(alone.sum())} row(s) have no {what}, the first is frame "
            text += f"{int(track.frames[alone][0])}"
            if not rates.cut:
                raise CaseError(f"{text}; --cut scores only the frames that both files have")
            warnings.append(f"{text}; they are left out")
    if not len(mine):
        raise CaseError(f"{found.path}: has no frame of {truth.path}")
    times = found.frames[mine] / per_second
    fps = min(rates.fps, rates.truth_fps or rates.fps)
    if rates.truth_fps is None and len(times) > 1:
        fps = per_second / float(np.median(np.diff(found.frames[mine])))
    return Video(name, truth.phases[theirs], found.phases[mine], times, fps), warnings


def refuse_read(written: Sequence[Path], read: Sequence[Path]) -> None:
    """Refuse files to write that are read, or that would be read as a video's next time.

    Args:
        written: files to write.
        read: files of phases, or folders of them.

    Raises:
        CaseError: one would be.
    """
    for path in written:
        for source in read:
            inside = path.suffix.lower() in SUFFIXES and path.resolve().is_relative_to(source.resolve())
            if inside or path.resolve() == source.resolve():
                raise CaseError(f"{path}: would be among the scored files of {source}; write it elsewhere")


def _refuse_other_numbers(name: str, found: Track, truth: Track, scale: float, rates: Rates) -> None:
    """Refuse files that count differently: equal numbers would be other moments."""
    ratio = (truth.frames[-1] + truth.step) / ((found.frames[-1] + found.step) * scale)
    if not 0.5 < ratio < 2:
        fps = rates.fps * ratio * scale * found.step / truth.step
        raise CaseError(
            f"{name}: {found.path} ends with frame {found.frames[-1]}, {truth.path} with frame "
            f"{truth.frames[-1]}; if they are as long as each other but number their frames at other rates, "
            f"give both rates, e.g. --fps {rates.fps:g} --truth-fps {fps:.3g}"
        )


def _reached(frames: np.ndarray, by: np.ndarray, step: float) -> np.ndarray:
    """Which frames lie within one step after a frame of the other file."""
    last = by[np.maximum(np.searchsorted(by, frames, side="right") - 1, 0)]
    return np.asarray((last <= frames) & (frames < last + step))


def _files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise CaseError(f"{folder}: does not exist; expected a folder of text files, or one such file")
    for place in (folder, folder / "phase", folder / "export" / "phase"):
        if found := sorted(p for p in place.glob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
            return found
    raise CaseError(f"{folder}: has no {', '.join(SUFFIXES)} files")


def _named(paths: Sequence[Path], key: Callable[[str], str]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for path in paths:
        name = key(path.stem) or path.stem
        if name in named:
            raise CaseError(f"{path}: cannot be told from {named[name].name} ({name}); rename one of them")
        named[name] = path
    return named


def _bare(stem: str) -> str:
    return _ADDED.sub("", stem).strip("-_. ").lower()


def number_of(name: str) -> str:
    """The last number in a name, without leading zeros; "" without any."""
    found = re.findall(r"\d+", name)
    return str(int(found[-1])) if found else ""


def _some(paths: Sequence[Path]) -> str:
    names = ", ".join(path.name for path in paths[:4])
    return names + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")


def _rows(path: Path, phases: Sequence[str]) -> list[tuple[int, int, str]]:
    """Line, frame and phase of each row."""
    lines = [(n, line.strip()) for n, line in enumerate(read_text(path).splitlines(), 1) if line.strip()]
    if not lines:
        raise CaseError(f"{path}: is empty; expected a row per frame")
    cells = [(n, [cell.strip().strip('"') for cell in _split(line)]) for n, line in lines]
    columns = len(cells[0][1])
    if columns > 2:
        raise CaseError(
            f"{path}: line {cells[0][0]}: {columns} columns; expected the frame and its phase, or the phase"
        )
    if not _is_number(cells[0][1][0]) and cells[0][1][-1] not in phases:
        cells = cells[1:]
        if not cells:
            raise CaseError(f"{path}: has a header only; expected a row per frame")
    rows: list[tuple[int, int, str]] = []
    for place, (line, row) in enumerate(cells):
        if len(row) != columns:
            raise CaseError(f"{path}: line {line}: {len(row)} column(s), the first line has {columns}")
        if columns == 2 and not row[0].isdecimal():
            raise CaseError(f"{path}: line {line}: {row[0]!r}; expected the frame's number, then its phase")
        frame = int(row[0]) if columns == 2 else place
        if rows and frame <= rows[-1][1]:
            raise CaseError(f"{path}: line {line}: frame {frame} after {rows[-1][1]}; frames must increase")
        rows.append((line, frame, row[-1]))
    return rows


def _split(line: str) -> list[str]:
    for mark in "\t,;":
        if mark in line:
            return line.split(mark)
    return line.split()


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"-?\d+(\.0*)?", cell) is not None


def _track(path: Path, rows: Sequence[tuple[int, int, str]], phases: Sequence[str], first: int) -> Track:
    numbers: Mapping[str, int] = {name: n for n, name in enumerate(phases)}
    values = []
    for line, _, cell in rows:
        number = int(float(cell)) - first if _is_number(cell) else numbers.get(cell, -1)
        if not 0 <= number < len(phases):
            near = difflib.get_close_matches(cell, phases, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected {', '.join(phases)}, or their numbers "
            hint += "" if near else f"from {first} to {first + len(phases) - 1} (--phases, --first-number)"
            raise CaseError(f"{path}: line {line}: phase {cell!r} is unknown; {hint}")
        values.append(number)
    return Track(path, np.array([frame for _, frame, _ in rows], np.int64), np.array(values, np.int64))
