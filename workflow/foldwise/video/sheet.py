"""Cases that are videos: rows of a sheet, and files of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from foldwise import sheet
from foldwise.files import CaseError
from foldwise.sheet import Table, read_table

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mpeg", ".mpg", ".m4v", ".mkv", ".webm", ".wmv", ".gif")


@dataclass(frozen=True)
class VideoCase(sheet.Case):
    """A video.

    Attributes:
        video: a video file, or, for some systems, a folder of numbered images.
    """

    video: Path

    @property
    def recordings(self) -> tuple[Path, ...]:
        """The video."""
        return (self.video,)


def read_video_table(path: Path, columns: tuple[str, ...]) -> Table:
    """Read the text of a sheet of videos.

    Args:
        path: the sheet.
        columns: columns with a meaning, including `video`.

    Raises:
        CaseError: no such file, no header, or a missing or unknown column.
    """
    table = read_table(path, columns)
    if "video" not in table.header:
        raise CaseError(f"{path}: line 1: no column `video`")
    return table


def videos_in(source: Path, *, folders: bool) -> dict[str, Path]:
    """Name of each new case of a folder → its video.

    Args:
        source: the folder.
        folders: whether a folder of numbered images in it is also a video.

    Raises:
        CaseError: not a folder, nothing in it, or two videos with one name.
    """
    if not source.is_dir():
        raise CaseError(f"{source}: neither a sample sheet nor a folder of videos")
    found: dict[str, Path] = {}
    for path in sorted(source.iterdir()):
        is_folder = path.is_dir()
        if path.name.startswith(".") or not (folders if is_folder else path.suffix.lower() in VIDEO_SUFFIXES):
            continue
        name = path.name if is_folder else path.stem
        if not name.isprintable():
            raise CaseError(
                f"{source}: {name!r} contains a character that cannot be printed; rename the video"
            )
        if name in found:
            raise CaseError(f"{source}: two videos have the name {name!r}")
        found[name] = path
    if not found:
        also = ", or folders of images" if folders else ""
        raise CaseError(f"{source}: contains no videos ({', '.join(VIDEO_SUFFIXES)}{also})")
    return found
