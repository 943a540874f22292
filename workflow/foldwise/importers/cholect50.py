"""Import CholecT50, or a part of it.

  foldwise import cholect50 CholecT50 --sheet data/cholect50.csv

Frames are in `videos/VID01/000000.png`, …, one per second, numbered by the second; labels in
`labels/VID01.json`: per second a list of triplets, each with the instrument in second place and the phase
in last place. They are written in Cholec80's format, with Cholec80's names, into `<sheet>-annotations/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from foldwise.command import run
from foldwise.files import CaseError, atomic_folder, put_back, read_json, refuse_foreign
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
from foldwise.importers.sheets import clean, conclude, refuse
from foldwise.importers.surgical import Video, publish_videos
from foldwise.settings import validate
from foldwise.systems.surgical.annotations import write_phases, write_tools
from foldwise.video.images import image_files

# Rows are numbered as in Cholec80.
ANNOTATION_FPS = 25
PHASES = {
    "preparation": "Preparation",
    "carlot-triangle-dissection": "CalotTriangleDissection",
    "calot-triangle-dissection": "CalotTriangleDissection",
    "clipping-and-cutting": "ClippingCutting",
    "gallbladder-dissection": "GallbladderDissection",
    "gallbladder-packaging": "GallbladderPackaging",
    "cleaning-and-coagulation": "CleaningCoagulation",
    "gallbladder-extraction": "GallbladderRetraction",
}


def read_videos(folder: Path, annotations: Path) -> tuple[list[Video], list[str], list[str], list[str]]:
    """Find all videos, and write their labels in Cholec80's format.

    Args:
        folder: of the data set, with `labels` and `videos` (or `data`).
        annotations: folder for the written labels.

    Returns:
        The videos; the names of phases and of tools in the order of their numbers; a line for each label in
        another format, or without its frames.

    Raises:
        CaseError: no labels that can be used, or with different names.
    """
    files = sorted((folder / "labels").glob("*.json"))
    if not files:
        raise CaseError(f"{folder}: contains no labels/<video>.json")
    videos, failed, converted = [], [], []
    names: dict[tuple[tuple[str, ...], tuple[str, ...]], Path] = {}
    for path in files:
        frames = next((folder / part / path.stem for part in ("videos", "data")
                       if (folder / part / path.stem).is_dir()), None)  # fmt: skip
        try:
            if frames is None:
                raise CaseError(f"{path}: no folder videos/{path.stem} with its frames")
            labels = validate(_Labels, read_json(path), origin=str(path))
            phases, tools = _names(path, labels, "phase"), _names(path, labels, "instrument")
            seconds, phase, tool = _rows(path, labels, len(phases), len(tools))
            _refuse_missing(path, seconds, frames)
            names.setdefault((tuple(phases), tuple(tools)), path)
        except CaseError as error:
            failed.append(str(error))
            continue
        case, rows = clean(path.stem), ANNOTATION_FPS * seconds
        phase_file, tool_file = (annotations / f"{case}-{kind}.txt" for kind in ("phase", "tool"))
        converted.append((phase_file.name, tool_file.name, rows, [phases[number] for number in phase], tool))
        videos.append(Video(case, frames, phase_file, tool_file))
    if len(names) > 1:
        raise CaseError(f"{' and '.join(map(str, names.values()))} have different phases or instruments")
    if not videos:
        refuse(failed, folder)
    both = next(iter(names))
    with atomic_folder(annotations) as temporary:
        for phase_name, tool_name, rows, found, tool in converted:
            write_phases(temporary / phase_name, rows, found)
            write_tools(temporary / tool_name, rows, both[1], tool)
    return videos, list(both[0]), list(both[1]), failed


class _Categories(BaseModel):
    instrument: dict[int, str] = Field(min_length=1)
    phase: dict[int, str] = Field(min_length=1)


class _Labels(BaseModel):
    """The file of a video.

    Attributes:
        categories: the names of its numbers.
        annotations: second → triplets.
    """

    categories: _Categories
    annotations: dict[int, list[list[Any]]] = Field(min_length=1)


def _names(path: Path, labels: _Labels, kind: str) -> list[str]:
    """Names of a category, in the order of their numbers, in Cholec80's spelling."""
    listed: dict[int, str] = getattr(labels.categories, kind)
    if set(listed) != set(range(len(listed))):
        raise CaseError(f"{path}: categories.{kind} is not numbered from 0 on; not a CholecT50 label")
    ordered = [listed[number] for number in range(len(listed))]
    if kind == "phase":
        return [PHASES.get(name, clean(name)) for name in ordered]
    return [clean(name).capitalize() for name in ordered]


def _rows(path: Path, labels: _Labels, phases: int, tools: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seconds (n,), phases (n,) and tools (n, tools) of a label file."""
    seconds = sorted(labels.annotations)
    phase, tool = np.zeros(len(seconds), int), np.zeros((len(seconds), tools), int)
    for place, second in enumerate(seconds):
        triplets = labels.annotations[second]
        try:
            numbers = {int(triplet[-1]) for triplet in triplets}
            # -1 and null mean that no instrument is present.
            held = {-1 if triplet[1] is None else int(triplet[1]) for triplet in triplets}
        except (IndexError, TypeError, ValueError, OverflowError):
            raise CaseError(
                f"{path}: second {second}: expected triplets with an instrument's number in second place "
                f"and a phase's in last place, found {str(triplets)[:80]}"
            ) from None
        if len(numbers) != 1 or not 0 <= min(numbers) < phases:
            raise CaseError(
                f"{path}: second {second}: expected one phase from 0 to {phases - 1}, found {numbers}"
            )
        phase[place] = numbers.pop()
        tool[place, [number for number in held if 0 <= number < tools]] = 1
    return np.array(seconds, np.int64), phase, tool


def _refuse_missing(path: Path, seconds: np.ndarray, frames: Path) -> None:
    missing = np.setdiff1d(seconds, list(image_files(frames)))
    if len(missing):
        raise CaseError(f"{path}: {len(missing)} second(s) without a frame in {frames}, first {missing[0]}")


def command(
    source: Source,
    sheet: Sheet,
    config: Config = None,
    name: ExperimentName = None,
    force: Force = False,
    skip_broken: SkipBroken = False,
) -> None:
    """Import CholecT50."""
    to = Import(source, sheet, config, name, force, skip_broken)
    annotations = sheet.with_name(f"{sheet.stem}-annotations")
    to.refuse_paths([("the annotations", annotations)])
    refuse_foreign(annotations)
    with put_back(annotations):
        videos, phases, tools, failed = read_videos(source, annotations)
        data = {
            "phases": phases,
            "tools": tools,
            "annotation_fps": ANNOTATION_FPS,
            "images_fps": 1,
            "first_image": 0,
        }
        failed = publish_videos(videos, data, None, to, failed=failed)
    conclude(failed, to)


main = script(command)

if __name__ == "__main__":
    run(main)
