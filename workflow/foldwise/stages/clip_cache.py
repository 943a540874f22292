"""Decode a clip into its frame cache, with its class and patient."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from foldwise.command import Output, run, stage
from foldwise.files import naming
from foldwise.systems.clips.cache import cache_clip
from foldwise.systems.clips.settings import Cache


@stage
def clip_cache(
    *,
    case: Annotated[str, "the case's name"],
    video: Annotated[Path, "video file, or folder of numbered images"],
    images_fps: Annotated[float | None, "images per second of a folder"] = None,
    label: Annotated[str, "the case's class, by name"] = "",
    group: Annotated[str, "its patient"] = "",
    settings: Cache,
    cache: Annotated[Output, "HDF5 file to write"],
) -> None:
    """Write a clip's frame cache."""
    with naming(case):
        count = cache_clip(case, video, label, settings, cache, group=group, rate=images_fps)
    logging.info("%s: %d frames", case, count)


if __name__ == "__main__":
    run(clip_cache.main)
