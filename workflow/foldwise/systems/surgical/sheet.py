"""The sample sheet of a surgical experiment: `case,group,video,phases,tools,split`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from foldwise import sheet
from foldwise.systems.surgical.settings import Data
from foldwise.video.sheet import VideoCase, read_video_table


@dataclass(frozen=True)
class SurgicalCase(VideoCase):
    """A video file, or a folder of numbered images.

    Attributes:
        phases: file of phases, or None.
        tools: file of tools, or None; without either, the video is only predicted.
    """

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


def read_sheet(data: Data) -> sheet.Sheet[SurgicalCase]:
    """Read the sheet without touching the files that it names.

    Raises:
        CaseError: no such file, or wrong columns.
    """
    table = read_video_table(data.sheet, ("video", "phases", "tools"))
    folder = data.root

    def make(cells: Mapping[str, str], base: sheet.Case) -> SurgicalCase:
        def path(column: str) -> Path | None:
            return folder / cells[column] if cells.get(column) else None

        video = folder / cells["video"]
        return SurgicalCase(**asdict(base), video=video, phases=path("phases"), tools=path("tools"))

    return sheet.read_cases(table, ("video",), make)
