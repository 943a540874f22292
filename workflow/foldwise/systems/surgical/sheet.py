"""The sample sheet of a surgical experiment: `case,group,video,phases,tools,split`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from foldwise import sheet
from foldwise.files import CaseError
from foldwise.systems.surgical.settings import Data


@dataclass(frozen=True)
class Case(sheet.Case):
    """A video.

    Attributes:
        video: a file, or a folder of numbered images.
        phases: file of phases, or None.
        tools: file of tools, or None; without either, the video is only predicted.
    """

    video: Path
    phases: Path | None
    tools: Path | None

    @property
    def files(self) -> tuple[Path, ...]:
        """Every source file of the case."""
        return tuple(path for path in (self.video, self.phases, self.tools) if path is not None)

    @property
    def labelled(self) -> bool:
        """Whether anything is annotated."""
        return self.phases is not None or self.tools is not None


def read_sheet(data: Data) -> sheet.Sheet[Case]:
    """Read the sheet without touching the files that it names.

    Raises:
        CaseError: no such file, or wrong columns.
    """
    table = sheet.read_table(data.sheet, ("video", "phases", "tools"))
    if "video" not in table.header:
        raise CaseError(f"{data.sheet}: line 1: needs a column `video`")
    folder = data.folder if data.folder is not None else data.sheet.parent

    def make(cells: Mapping[str, str], base: sheet.Case) -> Case:
        def path(column: str) -> Path | None:
            return folder / cells[column] if cells.get(column) else None

        return Case(**asdict(base), video=folder / cells["video"], phases=path("phases"), tools=path("tools"))

    return sheet.read_cases(table, ("video",), make)
