"""New videos for a trained model, prepared as its training cases were."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foldwise.files import CaseError
from foldwise.index import Entry
from foldwise.settings import validate
from foldwise.systems.surgical.prepare import cache_video
from foldwise.systems.surgical.settings import Cache, Data
from foldwise.systems.surgical.sheet import read_sheet

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".mpg", ".mpeg", ".webm", ".m4v")


def new_entries(source: Path) -> list[Entry]:
    """Videos to be predicted, from a sample sheet, or from a folder of videos or of folders of images.

    Raises:
        CaseError: nothing to predict, or a sheet with faults.
    """
    if source.is_file():
        sheet = read_sheet(Data(sheet=source))
        sheet.refuse(source)
        return [_entry(case.name, case.group, case.video) for case in sheet.cases]
    if not source.is_dir():
        raise CaseError(f"{source}: neither a sample sheet nor a folder of videos")
    found = [
        path
        for path in sorted(source.iterdir())
        if not path.name.startswith(".") and (path.is_dir() or path.suffix.lower() in VIDEO_SUFFIXES)
    ]
    names = [path.name if path.is_dir() else path.stem for path in found]
    if not found:
        raise CaseError(f"{source}: no videos in it ({', '.join(VIDEO_SUFFIXES)}, or folders of images)")
    for name in names:
        if not name.isprintable():
            raise CaseError(f"{source}: {name!r} holds a character that cannot be printed; rename the video")
        if names.count(name) > 1:
            raise CaseError(f"{source}: two videos are named {name!r}")
    return [_entry(name, name, path) for name, path in zip(names, found, strict=True)]


def prepare_case(entry: Entry, state: Mapping[str, Any], folder: Path) -> Path:
    """Make a new video's cache as the workflow would, and return its path.

    Args:
        entry: the video.
        state: what the model's file holds.
        folder: for the cache.

    Raises:
        CaseError: the video cannot be used.
    """
    data = validate(Data, state["prepared"]["data"], origin="model")
    cache = validate(Cache, state["prepared"]["cache"], origin="model")
    path = folder / f"{entry.case}.h5"
    cache_video(entry.case, Path(entry.files["video"][0]), None, None, data, cache, path)
    return path


def _entry(case: str, group: str, video: Path) -> Entry:
    return Entry(case, group, {"video": (str(video),)}, "", {}, 0)
