"""Check that a video and its annotation fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from foldwise.check import Findings
from foldwise.sheet import Sheet
from foldwise.systems.surgical.annotations import Track
from foldwise.systems.surgical.prepare import read_tracks
from foldwise.systems.surgical.settings import Data, Settings
from foldwise.systems.surgical.sheet import SurgicalCase
from foldwise.video.decode import VideoInfo, image_files

# An annotation may continue this long after the last frame. s.
SLACK_S = 1.0


def check_annotation(
    case: SurgicalCase, data: Data, info: VideoInfo
) -> tuple[list[tuple[str, bool]], list[str]]:
    """Problems of a case's annotation, each with whether it is only a warning; and its phases and tools.

    Raises:
        CaseError: an annotation is not readable.
    """
    phases, tools = read_tracks(data, case.phases, case.tools)
    tracks = {"phases": phases, "tools": tools}
    problems: list[tuple[str, bool]] = []
    for kind, track in tracks.items():
        if track is not None:
            problems += _beyond(case, data, info, track, getattr(case, kind))
    ends = {kind: track.end for kind, track in tracks.items() if track is not None}
    rate = _rate(data, info)
    for kind, end in ends.items():
        if (lost := info.duration_s - end / rate - _first(case, data)) > SLACK_S:
            text = f"ends {lost:.0f} s before the video; later frames are left out"
            problems.append((f"{getattr(case, kind)}: {text}", True))
    present = [] if phases is None else [data.phases[number] for number in np.unique(phases.values)]
    if tools is not None:
        present += [data.tools[number] for number in np.flatnonzero(tools.values.any(axis=0))]
    return problems, present


def check_rare(
    settings: Settings,
    sheet: Sheet[SurgicalCase],
    classes: Mapping[str, Collection[str]],
    found: Findings,
) -> None:
    """Warn of phases and tools in the videos of fewer patients than there are folds.

    Which folds lack them is known once the videos' frames are cached; the index's log names these.
    """
    folds = settings.split.folds
    if settings.part is not None or settings.split.file is not None:
        return
    for name in (*settings.data.phases, *settings.data.tools):
        having = {case.group for case in sheet.cases if case.trains and name in classes.get(case.name, ())}
        if 0 < len(having) < folds:
            few = f"class {name} has {len(having)} patient(s) for {folds} folds"
            found.add_general(f"{few}: some folds have none to test on", warning=True)


def _beyond(
    case: SurgicalCase, data: Data, info: VideoInfo, track: Track, path: Path
) -> list[tuple[str, bool]]:
    """Rows of frames that the video does not have."""
    if case.video.is_dir():
        return _without_image(case.video, data, track, path)
    last = info.frames - 1 if data.annotation_fps is None else info.duration_s * data.annotation_fps
    if track.frames[-1] <= last + SLACK_S * _rate(data, info):
        return []
    first = int(track.frames[np.searchsorted(track.frames, last, side="right")])
    text = (
        f"{path}: row for frame {first}, but the video ends after {info.duration_s:.0f} s "
        f"(frame {last:.0f} at {_rate(data, info):g} per second; data.annotation_fps)"
    )
    return [(text, False)]


def _without_image(folder: Path, data: Data, track: Track, path: Path) -> list[tuple[str, bool]]:
    """Rows for frames without an image in the folder."""
    numbers = np.array(list(image_files(folder)))
    rows, frames = track.frames, numbers
    if data.annotation_fps is not None:
        frames = np.rint((numbers - data.first_image) / data.images_fps * data.annotation_fps)
        between = round(data.annotation_fps / data.images_fps)
        if track.step < between:
            # If the annotation is denser than the images, only rows at an image's time can have an image.
            rows = rows[rows % between == 0]
    missing = np.setdiff1d(rows, frames)
    if not len(missing):
        return []
    text = f"{path}: {len(missing)} row(s) for frames without an image, the first is frame {missing[0]}"
    return [(f"{text} (data.first_image, data.images_fps, data.annotation_fps)", False)]


def _rate(data: Data, info: VideoInfo) -> float:
    return data.annotation_fps if data.annotation_fps is not None else info.fps


def _first(case: SurgicalCase, data: Data) -> float:
    """Time of a folder's first image, from which its length is counted. s."""
    if not case.video.is_dir():
        return 0.0
    return (data.first_image - min(image_files(case.video))) / data.images_fps
