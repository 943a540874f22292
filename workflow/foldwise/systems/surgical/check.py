"""What is wrong with videos and annotations, before anything is computed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from foldwise.check import Checked, Findings, Produced, check_groups, present_files
from foldwise.files import CaseError
from foldwise.forecast import table
from foldwise.sheet import Sheet
from foldwise.systems.surgical.annotations import Track
from foldwise.systems.surgical.forecast import frames_mib, model_mib
from foldwise.systems.surgical.prepare import read_tracks
from foldwise.systems.surgical.settings import Data, Settings
from foldwise.systems.surgical.sheet import Case, read_sheet
from foldwise.video.decode import VideoInfo, image_files, probe, sample_frames

THREADS = 4
# An annotation may go on for so long after the last frame. s.
SLACK_S = 1.0
# Bytes of a stored pixel: JPEG at a quality of 95, and LZ4.
PIXEL_BYTES = {"jpeg": 0.25, "raw": 1.8}


def check(
    sheet: Sheet[Case], settings: Settings, *, deep: bool, produced: Produced = lambda path: False
) -> Checked:
    """Check a sheet, the heads of its videos, and every row of its annotations.

    Args:
        sheet: as read.
        settings: of the experiment.
        deep: also decode frames from all over each video.
        produced: says of a missing file whether the workflow makes it itself.
    """
    found = Findings(sheet)
    present = present_files(sheet, produced, found)
    seen: dict[Path, Case] = {}
    for case in sheet.cases:
        if case.video in seen:
            found.add(case, f"{case.video}: the video of case {seen[case.video].name} already")
        seen.setdefault(case.video, case)
    usable = [case for case in sheet.cases if all(path in present for path in case.files)]
    with ThreadPoolExecutor(THREADS) as pool:
        for case, texts in zip(
            usable, pool.map(lambda c: _problems(c, settings.data, deep), usable), strict=True
        ):
            for text, warning in texts:
                found.add(case, text, warning=warning)
    check_groups(sheet.cases, settings.split, found)
    return Checked(found.problems, found.warnings)


def examine(settings: Settings, counts: Path) -> tuple[dict[str, Any], str]:
    """Check everything, and forecast memory and disk.

    Args:
        settings: of the experiment.
        counts: JSON that remembers what networks hold.

    Returns:
        Facts for check.json, and a table to print.

    Raises:
        CaseError: everything that is wrong.
    """
    sheet = read_sheet(settings.data)
    checked = check(sheet, settings, deep=True)
    checked.refuse(settings.data.sheet)
    cases = {case.name: _facts(case, settings) for case in sheet.cases}
    models = {
        name: {stage: model_mib(stage, settings, model, counts) for stage in ("train", "test", "ensemble")}
        for name, model in settings.models.items()
    }
    peaks = [("frames", round(frames_mib()), "any video")]
    peaks += [(stage, mib, f"model {name}") for name, made in models.items() for stage, mib in made.items()]
    disk = sum(facts["disk_mib"]["cache"] for facts in cases.values())
    facts = {"cases": cases, "models_mib": models, "warnings": list(checked.warnings)}
    return facts, table(peaks, disk, len(cases))


def _facts(case: Case, settings: Settings) -> dict[str, Any]:
    info, cache = probe(case.video, rate=settings.data.images_fps), settings.cache
    frames = min(info.frames, round(info.duration_s * cache.fps) + 1) if cache.fps else info.frames
    size = frames * cache.size[0] * cache.size[1] * PIXEL_BYTES[cache.encoding]
    return {
        "group": case.group,
        "labelled": case.labelled,
        "split": case.split,
        "frames": info.frames,
        "fps": info.fps,
        "seconds": info.duration_s,
        "size": [info.height, info.width],
        "disk_mib": {"cache": round(size / 2**20, 1)},
    }


def _problems(case: Case, data: Data, deep: bool) -> list[tuple[str, bool]]:
    """Problems of a case; the flag tells a warning."""
    try:
        info = probe(case.video, rate=data.images_fps)
        if deep:
            sample_frames(case.video, 4, rate=data.images_fps)
        tracks = dict(zip(("phases", "tools"), read_tracks(data, case.phases, case.tools), strict=True))
    except CaseError as error:
        return [(str(error), False)]
    made: list[tuple[str, bool]] = []
    for kind, track in tracks.items():
        if track is not None:
            made += _beyond(case, data, info, track, getattr(case, kind))
    ends = {kind: track.end for kind, track in tracks.items() if track is not None}
    rate = _rate(data, info)
    for kind, end in ends.items():
        if (lost := info.duration_s - end / rate - _first(case, data)) > SLACK_S:
            text = f"ends {lost:.0f} s before the video; the frames after it are left out"
            made.append((f"{getattr(case, kind)}: {text}", True))
    return made


def _beyond(case: Case, data: Data, info: VideoInfo, track: Track, path: Path) -> list[tuple[str, bool]]:
    """Rows of frames that the video does not have."""
    if case.video.is_dir():
        return _without_image(case.video, data, track, path)
    last = info.frames - 1 if data.annotation_fps is None else info.duration_s * data.annotation_fps
    if track.frames[-1] <= last + SLACK_S * _rate(data, info):
        return []
    first = int(track.frames[np.searchsorted(track.frames, last, side="right")])
    text = (
        f"{path}: row of frame {first}, but the video ends after {info.duration_s:.0f} s "
        f"(frame {last:.0f} at {_rate(data, info):g} per second; data.annotation_fps)"
    )
    return [(text, False)]


def _without_image(folder: Path, data: Data, track: Track, path: Path) -> list[tuple[str, bool]]:
    """Rows of frames for which a folder has no image."""
    numbers = np.array(list(image_files(folder)))
    rows, frames = track.frames, numbers
    if data.annotation_fps is not None:
        frames = np.rint((numbers - data.first_image) / data.images_fps * data.annotation_fps)
        between = round(data.annotation_fps / data.images_fps)
        if track.step < between:
            # Of an annotation denser than the images, only the rows at an image's time can have one.
            rows = rows[rows % between == 0]
    missing = np.setdiff1d(rows, frames)
    if not len(missing):
        return []
    text = f"{path}: {len(missing)} row(s) of frames that have no image, the first one frame {missing[0]}"
    return [(f"{text} (data.first_image, data.images_fps, data.annotation_fps)", False)]


def _rate(data: Data, info: VideoInfo) -> float:
    return data.annotation_fps if data.annotation_fps is not None else info.fps


def _first(case: Case, data: Data) -> float:
    """Time of a folder's first image, for lengths that are counted from it. s."""
    if not case.video.is_dir():
        return 0.0
    return (data.first_image - min(image_files(case.video))) / data.images_fps
