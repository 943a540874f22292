"""From a video and its annotation to the frame cache."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foldwise.files import CaseError
from foldwise.systems.surgical.annotations import UNKNOWN, Track, read_phases, read_tools
from foldwise.systems.surgical.settings import Cache, Data
from foldwise.video.decode import Edit, Frame, find_border, read_frames, sample_frames
from foldwise.video.store import write_frames

# Number of frames from which the border is found.
LOOKED_AT = 12


def read_tracks(data: Data, phases: Path | None, tools: Path | None) -> tuple[Track | None, Track | None]:
    """The annotations of a case that the experiment uses."""
    return (
        read_phases(phases, data.phases) if phases is not None and data.phases else None,
        read_tools(tools, data.tools) if tools is not None and data.tools else None,
    )


def row_of(frame: Frame, data: Data) -> int:
    """A frame's number in the annotation's numbering."""
    return frame.number if data.annotation_fps is None else round(frame.time_s * data.annotation_fps)


def cache_video(
    case: str, video: Path, phases: Path | None, tools: Path | None, data: Data, settings: Cache, path: Path
) -> int:
    """Write a video's frame cache with the labels of its frames.

    Arrays in addition to the frames: `row` (n,) int64, the frame in the annotation's numbering; `phase` (n,)
    int8 and `tool` (n, tools) int8, -1 without annotation. Frames after the end of the annotation are left
    out; the attribute `dropped` counts them.

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
        CaseError: the video or an annotation cannot be used.
    """
    tracks = [track for track in read_tracks(data, phases, tools) if track is not None]
    end = min((track.end for track in tracks), default=None)
    rows: list[int] = []
    dropped = 0

    def kept() -> Iterator[Frame]:
        nonlocal dropped
        edit = _editing(video, data, settings)
        for frame in read_frames(
            video, fps=settings.fps, edit=edit, rate=data.images_fps, first=data.first_image
        ):
            row = row_of(frame, data)
            if end is not None and row >= end:
                dropped += 1
            else:
                rows.append(row)
                yield frame

    def labels(numbers: np.ndarray, times: np.ndarray) -> dict[str, np.ndarray]:
        phase, tool = read_tracks(data, phases, tools)
        attrs["dropped"] = dropped
        kept_rows = np.array(rows, np.int64)
        size = len(rows), len(data.tools)
        arrays = {
            "row": kept_rows,
            "phase": np.full(size[0], UNKNOWN, np.int8) if phase is None else phase.at(kept_rows),
            "tool": np.full(size, UNKNOWN, np.int8) if tool is None else tool.at(kept_rows),
        }
        if tracks and (arrays["phase"] == UNKNOWN).all() and (arrays["tool"] == UNKNOWN).all():
            raise CaseError(
                f"case {case}: no kept frame has a row in the annotation; see data.annotation_fps, "
                f"data.images_fps and data.first_image"
            )
        return arrays

    attrs: dict[str, Any] = {"phases": list(data.phases), "tools": list(data.tools)}
    if settings.fps is not None:
        attrs["fps"] = settings.fps
    count = write_frames(
        path, case, kept(), encoding=settings.encoding, quality=settings.quality, attrs=attrs, arrays=labels
    )
    if dropped:
        logging.warning("case %s: %d frame(s) after the end of the annotation left out", case, dropped)
    logging.info("case %s: %d frames, %.1f MiB", case, count, path.stat().st_size / 2**20)
    return dropped


def _editing(video: Path, data: Data, settings: Cache) -> Edit:
    """The function applied to each frame: crop the border, then resize."""
    box: tuple[int, int, int, int] | None = None
    if settings.cut_border:
        box = find_border(sample_frames(video, LOOKED_AT, rate=data.images_fps))
        logging.info("%s: picture in rows %d to %d, columns %d to %d", video, *box)

    def edit(rgb: np.ndarray) -> np.ndarray:
        if box is not None:
            rgb = rgb[box[0] : box[1], box[2] : box[3]]
        if rgb.shape[:2] == settings.size:
            return rgb
        height, width = settings.size
        return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR))

    return edit
