"""From a video and its annotation to the frame cache."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from foldwise.files import CaseError
from foldwise.systems.surgical.annotations import UNKNOWN, Track, read_phases, read_tools
from foldwise.systems.surgical.rates import (
    NEAR,
    SLACK_S,
    Rate,
    Timeline,
    fitting,
    found_rate,
    judged,
    rows_at,
    text,
)
from foldwise.systems.surgical.settings import Cache, Data
from foldwise.video.damage import Damage
from foldwise.video.decode import Edit, Frame, probe, read_frames, sample_frames
from foldwise.video.gaps import runs
from foldwise.video.pixels import find_border, resized
from foldwise.video.store import write_frames

# Number of frames from which the border is found.
LOOKED_AT = 12


def read_tracks(data: Data, phases: Path | None, tools: Path | None) -> tuple[Track | None, Track | None]:
    """The annotations of a case that the experiment uses."""
    return (
        read_phases(phases, data.phases) if phases is not None and data.phases else None,
        read_tools(tools, data.tools) if tools is not None and data.tools else None,
    )


def cache_video(
    case: str, video: Path, phases: Path | None, tools: Path | None, data: Data, settings: Cache, path: Path
) -> int:
    """Write a video's frame cache with the labels of its frames.

    Arrays in addition to the frames: `row` (n,) int64, the frame in the annotation's numbering; `phase` (n,)
    int8 and `tool` (n, tools) int8, -1 without annotation; `run` (n,) int32, equal for frames without a gap
    between them. Frames after the end of the annotation are left out. Attributes: `dropped` counts these,
    `damaged` the frames that are left out as damaged; `rates`, the rates at which the annotation fits, the
    first of which is used (0: the video's own frames); `step`, the usual one between frames, in seconds.

    Args:
        case: its name.
        video: file, or folder of images.
        phases: annotation, or None.
        tools: annotation, or None.
        data: names and rates.
        settings: rate, size and encoding of the frames.
        path: HDF5 file to write.

    Returns:
        The number of frames left out.

    Raises:
        CaseError: the video or an annotation cannot be used, or they do not fit.
    """
    phase, tool = read_tracks(data, phases, tools)
    files = {file: track for file, track in ((phases, phase), (tools, tool)) if file and track is not None}
    whole = Timeline.of(video, probe(video, rate=data.images_fps), data.first_image)
    rates = rates_of(files, whole, whole.kept(settings.fps), data)
    rate = rates[0] if rates else None
    end = min((track.end for track in files.values()), default=None)
    # Number and time of every frame, also of those that are left out.
    seen: list[tuple[int, float]] = []
    dropped, damage = 0, Damage(video, settings.on_damage)

    def kept() -> Iterator[Frame]:
        nonlocal dropped
        edit = _editing(video, data, settings)
        for frame in read_frames(
            video,
            fps=settings.fps,
            edit=edit,
            rate=data.images_fps,
            first=data.first_image,
            damage=damage,
        ):
            seen.append((frame.number, frame.time_s))
            row = rows_at(np.array([frame.number]), np.array([frame.time_s]), rate)[0]
            if end is not None and row >= end:
                dropped += 1
            else:
                yield frame
        if files:
            numbers, times = (np.array(values) for values in zip(*seen, strict=True))
            real = _real(whole, numbers, times, settings.fps)
            _refuse(files, real, real.at(numbers, times), data, rate)

    def arrays(numbers: np.ndarray, times: np.ndarray) -> dict[str, np.ndarray]:
        rows = rows_at(numbers, times, rate)
        run, step = runs(numbers, times, settings.fps, settings.longest_step)
        attrs["dropped"], attrs["damaged"], attrs["step"] = dropped, damage.count, step
        size = len(rows), len(data.tools)
        return {
            "row": rows,
            "phase": np.full(size[0], UNKNOWN, np.int8) if phase is None else phase.at(rows),
            "tool": np.full(size, UNKNOWN, np.int8) if tool is None else tool.at(rows),
            "run": run,
        }

    attrs: dict[str, Any] = {"phases": list(data.phases), "tools": list(data.tools)}
    attrs["rates"] = np.array([one or 0 for one in rates], np.float64)
    if settings.fps is not None:
        attrs["fps"] = settings.fps
    count = write_frames(
        path, case, kept(), encoding=settings.encoding, quality=settings.quality, attrs=attrs, arrays=arrays
    )
    damage.report()
    if dropped:
        logging.warning("case %s: %d frame(s) after the end of the annotation left out", case, dropped)
    if files:
        logging.info("case %s: rows are numbered by %s", case, text(rate))
    logging.info("case %s: %d frames, %.1f MiB", case, count, path.stat().st_size / 2**20)
    return dropped


def rates_of(files: Mapping[Path, Track], video: Timeline, kept: Timeline, data: Data) -> list[Rate]:
    """The rates at which a video's annotations are read, the first of which is used; none to find: empty.

    Args:
        files: the annotations by file.
        video: all of its frames.
        kept: those that get labels.
        data: with the rate, or `auto`.

    Raises:
        CaseError: the rate is to be found, and none fits, or two that differ.
    """
    if data.annotation_fps != "auto":
        return [data.annotation_fps]
    if not files:
        return []
    first = found_rate(files, video, kept)
    return [first, *(rate for rate in fitting(files, video) if rate != first)]


def _real(header: Timeline, numbers: np.ndarray, times: np.ndarray, fps: float | None) -> Timeline:
    """All frames of a video: as its header has it, unless the decoded frames end elsewhere.

    Args:
        header: all frames by the header.
        numbers: (n,) of the decoded frames that were looked at.
        times: (n,) their stamps. s.
        fps: frames looked at per second; None: all.
    """
    if header.images or len(numbers) < 2 or times[-1] <= times[0]:
        return header
    step = float(times[-1] - times[0]) / int(numbers[-1] - numbers[0])
    end, end_s = int(numbers[-1]) + 1, float(times[-1]) + step
    near = max(SLACK_S, NEAR * end_s, step if fps is None else 1 / fps)
    if abs(header.end_s - end_s) <= near and abs(header.end - end) * step <= near:
        return header
    return Timeline(np.arange(end), np.arange(end) * step, end, end_s, step, images=False)


def _refuse(files: Mapping[Path, Track], video: Timeline, kept: Timeline, data: Data, rate: Rate) -> None:
    """Refuse an annotation that does not fit the frames as they are, by their stamps."""
    found = rates_of(files, video, kept, data)[0]
    problems = [
        problem
        for path, track in files.items()
        for problem, warning in judged(path, track, video, kept, rate)
        if not warning
    ]
    if found != rate:
        problems.append(
            f"the annotation fits at {text(rate)} by the video's header, and at {text(found)} by its frames"
        )
    if problems:
        raise CaseError("; ".join(problems))


def _editing(video: Path, data: Data, settings: Cache) -> Edit:
    """The function applied to each frame: crop the border, then resize."""
    box: tuple[int, int, int, int] | None = None
    if settings.cut_border:
        box = find_border(
            sample_frames(video, LOOKED_AT, rate=data.images_fps, drop=settings.on_damage == "drop")
        )
        logging.info("%s: picture in rows %d to %d, columns %d to %d", video, *box)

    def edit(rgb: np.ndarray) -> np.ndarray:
        if box is not None:
            rgb = rgb[box[0] : box[1], box[2] : box[3]]
        return resized(rgb, settings.size, settings.interpolation)

    return edit
