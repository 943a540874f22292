"""The sample sheet of clips, and the files that define the classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foldwise.files import CaseError, read_json
from foldwise.sheet import CASE_NAME, Case, Sheet, read_cases
from foldwise.systems.clips.settings import Data
from foldwise.texts import read_text
from foldwise.video.regions import Box
from foldwise.video.sheet import VideoCase, is_sheet, read_video_table, videos_in

COLUMNS = ("video", "label", "box", "mask")


@dataclass(frozen=True)
class ClipCase(VideoCase):
    """A clip.

    Attributes:
        label: its class, by name; "" without one. Text that is not a class is kept as written.
        box: "x0 y0 x1 y1" in pixels of the video, or "".
        mask: an image of the region on the video's grid, or a folder of such images by frame number; or None.
    """

    label: str
    box: str
    mask: Path | None

    @property
    def files(self) -> tuple[Path, ...]:
        """Every source file of the case."""
        return (self.video, *([self.mask] if self.mask else []))

    @property
    def labelled(self) -> bool:
        """Whether the case has a class."""
        return bool(self.label)


def read_sheet(data: Data) -> Sheet[ClipCase]:
    """Read the sheet without touching the videos.

    Raises:
        CaseError: no such file, no header, or a missing or unknown column.
    """
    table = read_video_table(data.sheet, COLUMNS)
    names, folder = class_names(data), data.root

    def make(cells: Mapping[str, str], base: Case) -> ClipCase:
        return ClipCase(
            base.name,
            base.group,
            base.split,
            base.line,
            video=folder / cells["video"],
            label=class_of(cells.get("label", ""), names),
            box=cells.get("box", ""),
            mask=folder / cells["mask"] if cells.get("mask") else None,
        )

    return read_cases(table, ("video",), make)


def read_new_cases(source: Path) -> list[ClipCase]:
    """Clips to predict, from a sample sheet (labels are ignored), a video, or a folder of videos.

    Raises:
        CaseError: nothing to predict, or errors in the sheet.
    """
    if is_sheet(source):
        sheet = read_sheet(Data(sheet=source, classes=["no", "class"]))
        sheet.refuse(source)
        return list(sheet.cases)
    found = videos_in(source).items()
    return [
        ClipCase(name, name, "", line, video=path, label="", box="", mask=None)
        for line, (name, path) in enumerate(found, start=1)
    ]


def class_names(data: Data) -> list[str]:
    """Names of the classes in the order of their numbers.

    Raises:
        CaseError: their file is not a JSON list of at least two different names.
    """
    if not isinstance(data.classes, Path):
        return list(data.classes)
    names = read_json(data.classes)
    if (
        not isinstance(names, list)
        or len(names) < 2
        or not all(isinstance(name, str) and CASE_NAME.match(name) for name in names)
        or len(set(names)) != len(names)
    ):
        raise CaseError(
            f"{data.classes}: expected a JSON list of the classes' names, in the order of their numbers: "
            f'["first", "second"]; each name once, with only letters, digits, `_`, `.` and `-`'
        )
    return names


def class_sentences(data: Data) -> list[str]:
    """A sentence per class, in class order; none if the experiment has none.

    Raises:
        CaseError: a sentence is missing, there are too many, or sentences name the wrong classes.
    """
    if data.sentences is None:
        return []
    names, origin = class_names(data), str(data.sentences)
    if isinstance(data.sentences, Path):
        sentences = [line.strip() for line in read_text(data.sentences).rstrip().splitlines()]
    else:
        sentences, origin = [line.strip() for line in data.sentences], "data.sentences"
    for number, name in enumerate(names):
        if number >= len(sentences) or not sentences[number]:
            raise CaseError(f"{origin}: line {number + 1}: the sentence of class {name} is missing")
        others = [n for n in _named(sentences[number], names) if n != name]
        if others and name not in _named(sentences[number], names):
            raise CaseError(
                f"{origin}: line {number + 1} names {others[0]}, but class {number} is {name}; the sentences "
                f"must be in the order of the classes"
            )
    if len(sentences) > len(names):
        raise CaseError(f"{origin}: {len(sentences)} sentences for {len(names)} classes")
    return sentences


def class_of(text: str, names: Sequence[str]) -> str:
    """The class for a label, which is a name or a number; the text itself if it is neither."""
    if text in names:
        return text
    return names[int(text)] if re.fullmatch(r"\d+", text) and int(text) < len(names) else text


def box_from(text: str) -> Box | None:
    """The box x0, y0, x1, y1 in a cell; None for an empty cell.

    Raises:
        CaseError: not four integers, or an empty box.
    """
    if not text:
        return None
    parts = re.split(r"[\s,;]+", text.strip())
    if len(parts) != 4 or not all(re.fullmatch(r"\d+", part) for part in parts):
        raise CaseError(f"box {text!r}: expected four integers, `x0 y0 x1 y1` in pixels")
    x0, y0, x1, y1 = (int(part) for part in parts)
    if x0 >= x1 or y0 >= y1:
        raise CaseError(f"box {text!r}: is empty; expected x0 < x1 and y0 < y1")
    return x0, y0, x1, y1


def _named(sentence: str, names: Sequence[str]) -> list[str]:
    """Classes whose name appears in a sentence; underscores may be written as spaces."""
    words = _words(sentence)
    return [name for name in names if _words(name) in words]


def _words(text: str) -> str:
    return " " + re.sub(r"[\W_]+", " ", text.lower()).strip() + " "
