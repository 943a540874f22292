"""Decode a video into its frame cache, with the rows of its annotation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from foldwise.command import Output, run, stage
from foldwise.files import naming
from foldwise.systems.surgical.prepare import cache_video
from foldwise.systems.surgical.settings import Cache, Data


@stage
def frames(
    *,
    case: Annotated[str, "the case's name"],
    video: Annotated[Path, "video file, or folder of numbered images"],
    phases: Annotated[Path | None, "phase annotation (.txt)"] = None,
    tools: Annotated[Path | None, "tool annotation (.txt)"] = None,
    settings: Cache,
    data: Data,
    cache: Annotated[Output, "HDF5 file to write"],
) -> None:
    """Write a video's frame cache."""
    with naming(case):
        cache_video(case, video, phases, tools, data, settings, cache)


if __name__ == "__main__":
    run(frames.main)
