"""Check that a video and its annotation fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from foldwise.check import Findings
from foldwise.sheet import Sheet
from foldwise.systems.surgical.annotations import Track
from foldwise.systems.surgical.prepare import rates_of, read_tracks
from foldwise.systems.surgical.rates import Rate, Timeline, judged
from foldwise.systems.surgical.settings import Cache, Data, Settings
from foldwise.systems.surgical.sheet import SurgicalCase
from foldwise.video.decode import VideoInfo
from foldwise.video.gaps import SLOW, described, in_words, runs, slow

# Problems, each with whether it is only a warning; phases and tools; and facts for check.json.
Judged = tuple[list[tuple[str, bool]], list[str], dict[str, Any]]


def check_annotation(case: SurgicalCase, data: Data, cache: Cache, info: VideoInfo) -> Judged:
    """Judge a case's annotation, and its frames in time.

    Returns:
        Problems; the phases and tools that occur; and facts: `annotation_fps`, the rates in use, and for
        images `video.gaps.described`, since only their times are known without decoding.

    Raises:
        CaseError: an annotation is not readable, or no rate fits, or two that differ.
    """
    phases, tools = read_tracks(data, case.phases, case.tools)
    files = {p: t for p, t in ((case.phases, phases), (case.tools, tools)) if p and t is not None}
    video = Timeline.of(case.video, info, data.first_image)
    kept = video.kept(cache.fps)
    rates = rates_of(files, video, kept, data)
    problems: list[tuple[str, bool]] = []
    for path, track in files.items():
        problems += judged(path, track, video, kept, rates[0])
        if video.images:
            problems += _without_image(video, rates[0], track, path)
    facts: dict[str, Any] = {"annotation_fps": rates[0] or "own frames"} if files else {}
    if video.images:
        run, _ = runs(kept.numbers, kept.times, cache.fps, cache.longest_step)
        facts |= described(kept.times, run)
        if slow(facts, cache.fps):
            problems.append((f"{case.video}: {in_words(facts, cache.fps)}", True))
    elif cache.fps and info.fps < SLOW * cache.fps:
        problems.append(
            (f"{case.video}: {info.fps:.3g} frames per second, for cache.fps: {cache.fps:g}", True)
        )
    present = [] if phases is None else [data.phases[number] for number in np.unique(phases.values)]
    if tools is not None:
        present += [data.tools[number] for number in np.flatnonzero(tools.values.any(axis=0))]
    return problems, present, facts


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


def _without_image(video: Timeline, rate: Rate, track: Track, path: Path) -> list[tuple[str, bool]]:
    """Rows for frames without an image in the folder."""
    rows, frames = track.frames, video.rows(rate)
    between = round(video.per_second(rate) * video.step_s)
    if track.step < between:
        # If the annotation is denser than the images, only rows at an image's time can have an image.
        rows = rows[rows % between == 0]
    after = np.minimum(np.searchsorted(frames, rows), len(frames) - 1)
    apart = np.minimum(np.abs(frames[after] - rows), np.abs(frames[np.maximum(after - 1, 0)] - rows))
    missing = rows[2 * apart > max(track.step, between)]
    if not len(missing):
        return []
    text = f"{path}: {len(missing)} row(s) for frames without an image, the first is frame {missing[0]}"
    return [(f"{text} (data.first_image, data.images_fps, data.annotation_fps)", False)]
