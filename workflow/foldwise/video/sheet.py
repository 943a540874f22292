"""Cases that are videos: rows of a sheet, and files of a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from foldwise import sheet
from foldwise.files import CaseError
from foldwise.sheet import Table, read_table

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mov", ".mpeg", ".mpg", ".m4v", ".mkv", ".webm", ".wmv", ".gif"),
    *(".ts", ".mts", ".m2ts", ".vob", ".mxf", ".flv", ".asf", ".3gp", ".ogv"),
)


@dataclass(frozen=True)
class VideoCase(sheet.Case):
    """A video.

    Attributes:
        video: a video file, or a folder of numbered images.
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
    """Whether a source of new cases is a sample sheet: a file that is neither a video nor an image."""
    return source.is_file() and source.suffix.lower() not in VIDEO_SUFFIXES + IMAGE_SUFFIXES


def videos_in(source: Path) -> dict[str, Path]:
    """Name of each new case → its video: of one video, or of those in a folder.

    A folder of numbered images is a video, too: in the source, or as the source itself.

    Raises:
        CaseError: no such file or folder, no videos in it, or two with one name.
    """
    if not source.exists():
        raise CaseError(f"{source}: no such file or folder; expected videos, or a sample sheet")
    if source.is_file() and _is_image(source):
        raise CaseError(
            f"{source}: is an image; expected the folder of its video's images, a folder of videos, or a "
            f"sample sheet"
        )
    found: dict[str, Path] = {}
    there = sorted(source.iterdir()) if source.is_dir() else [source]
    for path in there:
        is_folder = path.is_dir()
        if path.name.startswith(".") and path != source:
            continue
        if not (_holds_images(path) if is_folder else path.suffix.lower() in VIDEO_SUFFIXES):
            continue
        name = path.name if is_folder else path.stem
        if (other := found.setdefault(name, path)) is not path:
            raise CaseError(
                f"{source}: {other.name} and {path.name} are two videos with one name; rename one"
            )
    if not found and source.is_dir() and _holds_images(source):
        # Not resolved: a link to a folder is named by the user.
        found = {Path(os.path.abspath(source)).name: source}  # noqa: PTH100
    if not found:
        raise CaseError(f"{source}: contains no videos ({', '.join(VIDEO_SUFFIXES)}, or folders of images)")
    if wrong := [name for name in found if not name.isprintable()]:
        raise CaseError(
            f"{source}: {wrong[0]!r} contains a character that cannot be printed; rename the video"
        )
    return found


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _holds_images(folder: Path) -> bool:
    return any(map(_is_image, folder.iterdir()))
