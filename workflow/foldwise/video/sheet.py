"""Cases that are videos: rows of a sheet, and files of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from foldwise import sheet
from foldwise.files import CaseError
from foldwise.published import RECORDS
from foldwise.sheet import Table, read_table

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
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


def is_sheet(source: Path) -> bool:
    """Whether a source of new cases is a sample sheet: a file that is not itself a video."""
    return source.is_file() and source.suffix.lower() not in VIDEO_SUFFIXES


def videos_in(source: Path, *, folders: bool) -> dict[str, Path]:
    """Name of each new case → its video: of one video, or of those in a folder.

    A folder with the predictions of an earlier call is none of them.

    Args:
        source: the video or the folder.
        folders: whether a folder of numbered images is also a video, in the source or as the source itself.

    Raises:
        CaseError: no such file or folder, no videos in it, or two with one name.
    """
    if not source.exists():
        raise CaseError(f"{source}: no such file or folder; expected videos, or a sample sheet")
    found: dict[str, Path] = {}
    there = sorted(source.iterdir()) if source.is_dir() else [source]
    for path in there:
        is_folder = path.is_dir()
        if path.name.startswith(".") or (path / RECORDS).is_dir():
            continue
        if not (folders if is_folder else path.suffix.lower() in VIDEO_SUFFIXES):
            continue
        name = path.name if is_folder else path.stem
        if name in found:
            raise CaseError(f"{source}: two videos have the name {name!r}")
        found[name] = path
    if not found and folders and any(path.suffix.lower() in IMAGE_SUFFIXES for path in there):
        found = {source.resolve().name: source}
    if not found:
        also = ", or folders of images" if folders else ""
        raise CaseError(f"{source}: contains no videos ({', '.join(VIDEO_SUFFIXES)}{also})")
    if wrong := [name for name in found if not name.isprintable()]:
        raise CaseError(
            f"{source}: {wrong[0]!r} contains a character that cannot be printed; rename the video"
        )
    return found
