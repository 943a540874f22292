"""Import Cholec80, or any folder with its layout.

  foldwise import cholec80 cholec80 --sheet data/cholec80.csv --split paper

Videos are in `videos/` (`video01.mp4`, …), or their frames in a folder per video, in `frames/`,
`data_resize/` or the folder itself; annotations in `phase_annotations/video01-phase.txt` and
`tool_annotations/video01-tool.txt`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from foldwise.command import run
from foldwise.files import CaseError
from foldwise.importers.arguments import (
    Config,
    ExperimentName,
    Force,
    Import,
    Sheet,
    SkipBroken,
    Source,
    script,
)
from foldwise.importers.sheets import conclude
from foldwise.importers.surgical import Video, publish_videos
from foldwise.metrics.video import CHOLEC80_PHASES
from foldwise.systems.surgical.annotations import read_header
from foldwise.systems.surgical.settings import CHOLEC80_TOOLS
from foldwise.video.images import image_files
from foldwise.video.sheet import VIDEO_SUFFIXES

FRAME_FOLDERS = ("frames", "data_resize")
# Numbers of the last three phases in use: the published evaluation scripts', and TF-Cholec80's.
ORDERS = {
    "scripts": CHOLEC80_PHASES,
    "tf_cholec80": (*CHOLEC80_PHASES[:4], *reversed(CHOLEC80_PHASES[4:])),
}
# Training, validation and test videos.
PAPER = (range(1, 33), range(33, 41), range(41, 81))


def read_videos(folder: Path) -> tuple[list[Video], list[str]]:
    """All videos of a folder with their annotations, and what cannot be used, one line each.

    Raises:
        CaseError: no videos.
    """
    found: dict[str, list[Path]] = {}
    for path in _candidates(folder):
        found.setdefault(path.name if path.is_dir() else path.stem, []).append(path)
    if not found:
        raise CaseError(f"{folder}: contains no videos/<name>.mp4, frames/<name>/ or data_resize/<name>/")
    annotations = {
        kind: {
            re.sub(rf"-{kind}$", "", path.stem): path
            for path in sorted((folder / f"{kind}_annotations").glob("*.txt"))
            # Cholec80 has the phases' time stamps in the same folder.
            if not path.stem.endswith("-timestamp")
        }
        for kind in ("phase", "tool")
    }
    failed = [
        f"two videos have the name {name}: {', '.join(map(str, paths))}"
        for name, paths in found.items()
        if len(paths) > 1
    ]
    failed += [
        f"{path}: no video has the name {name}"
        for files in annotations.values()
        for name, path in files.items()
        if name not in found
    ]
    videos = [
        Video(name, paths[0], annotations["phase"].get(name), annotations["tool"].get(name))
        for name, paths in sorted(found.items())
        if len(paths) == 1
    ]
    return videos, failed


def tool_names(videos: Sequence[Video]) -> list[str]:
    """The tools in the first annotation that can be read; Cholec80's if there is none."""
    for video in videos:
        if video.tools is not None:
            with suppress(CaseError):
                return read_header(video.tools)[1:]
    return list(CHOLEC80_TOOLS)


def paper_split(videos: Sequence[Video]) -> dict[str, Any]:
    """Training, validation and test videos of Cholec80 as one fold: 1 to 32, 33 to 40, 41 to 80.

    Raises:
        CaseError: a part has no video.
    """
    numbers = {video.case: int(m[-1]) for video in videos if (m := re.findall(r"\d+", video.case))}
    parts = [sorted(case for case, number in numbers.items() if number in part) for part in PAPER]
    if not all(parts):
        raise CaseError("--split paper: expected some of videos 1 to 32, of 33 to 40, and of 41 to 80")
    return {"folds": [dict(zip(("train", "validation", "test"), parts, strict=True))]}


def frame_numbers(videos: Sequence[Video]) -> dict[str, Any]:
    """The settings that map an image's number to its time; empty if all are videos.

    Raises:
        CaseError: numbers start differently in different folders.
    """
    firsts = {min(image_files(video.video)) for video in videos if video.video.is_dir()}
    if not firsts:
        return {}
    if not firsts <= {0} and not firsts <= {1}:
        raise CaseError(
            f"image numbers start at {', '.join(map(str, sorted(firsts)))}, so time 0 "
            f"is unclear: start at 0 in all folders, or at 1 in all folders"
        )
    return {"first_image": firsts.pop()}


def _candidates(folder: Path) -> list[Path]:
    videos = [p for p in sorted((folder / "videos").glob("*")) if p.suffix.lower() in VIDEO_SUFFIXES]
    folders = [p for name in FRAME_FOLDERS for p in sorted((folder / name).glob("*")) if p.is_dir()]
    if videos or folders:
        return videos + folders
    inside = [p for p in sorted(folder.iterdir()) if not p.name.endswith("_annotations")]
    return [p for p in inside if p.is_dir() or p.suffix.lower() in VIDEO_SUFFIXES]


def command(
    source: Source,
    sheet: Sheet,
    config: Config = None,
    name: ExperimentName = None,
    force: Force = False,
    skip_broken: SkipBroken = False,
    split: Annotated[
        Literal["folds", "paper"],
        typer.Option(help="folds: k folds; paper: train on videos 1–32, validate on 33–40, test on 41–80."),
    ] = "folds",
    phase_order: Annotated[
        Literal["scripts", "tf_cholec80"],
        typer.Option(
            help="Numbering of the last three phases: that of the evaluation scripts, or TF-Cholec80."
        ),
    ] = "scripts",
    images_fps: Annotated[float, typer.Option(help="Images per second of extracted frames.")] = 1,
) -> None:
    """Import Cholec80."""
    to = Import(source, sheet, config, name, force, skip_broken)
    splits = sheet.with_name(f"{sheet.stem}-splits.json")
    to.refuse_paths([("the split", splits)] if split == "paper" else [])
    videos, failed = read_videos(source)
    phases = list(ORDERS[phase_order])
    data: dict[str, Any] = {"phases": phases, "tools": tool_names(videos), "annotation_fps": "auto"}
    if images := frame_numbers(videos):
        data |= {**images, "images_fps": images_fps}
    if split == "paper":
        paper = {"folds": 1, "file": splits.as_posix()}
        failed = publish_videos(videos, data, paper, to, paper_split, failed)
    else:
        failed = publish_videos(videos, data, None, to, failed=failed)
    conclude(failed, to)


main = script(command)

if __name__ == "__main__":
    run(main)
