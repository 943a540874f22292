"""The frame cache of a clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from foldwise.files import CaseError
from foldwise.systems.clips.settings import Cache
from foldwise.video.damage import Damage
from foldwise.video.decode import probe, read_frames
from foldwise.video.pixels import resized
from foldwise.video.store import write_frames


def cache_clip(
    case: str,
    video: Path,
    label: str,
    settings: Cache,
    path: Path,
    *,
    group: str = "",
    rate: float | None = None,
) -> int:
    """Decode a clip, shrink and subsample its frames, and write them; returns their number.

    Args:
        case: its name.
        video: the file, or a folder of numbered images.
        label: its class by name, or ""; it is stored, too.
        settings: of the cache.
        path: HDF5 file to write; attributes source_width and source_height hold the video's size, damaged the
            number of frames that are left out as damaged.
        group: its patient, or ""; it is stored, too.
        rate: images per second of a folder.

    Raises:
        CaseError: the video cannot be decoded, or only one frame is left.
    """
    info = probe(video, rate=rate)

    def shrink(rgb: np.ndarray) -> np.ndarray:
        height, width = rgb.shape[:2]
        if settings.size is None or min(height, width) <= settings.size:
            return rgb
        scale = settings.size / min(height, width)
        size = (round(height * scale), round(width * scale))
        return resized(rgb, size, settings.interpolation)

    def facts(numbers: np.ndarray, times: np.ndarray) -> dict[str, np.ndarray]:
        attrs["damaged"] = damage.count
        # Arrays, not attributes, so that the cache's hash covers them.
        texts = {"label": label, "group": group}
        return {key: np.array(list(text.encode("utf-8")), np.uint8) for key, text in texts.items()}

    damage = Damage(video, settings.on_damage)
    attrs: dict[str, Any] = {"source_width": info.width, "source_height": info.height}
    count = write_frames(
        path,
        case,
        read_frames(video, fps=settings.fps, edit=shrink, rate=rate, damage=damage),
        encoding=settings.encoding,
        quality=settings.quality,
        attrs=attrs,
        arrays=facts,
    )
    damage.report()
    if count < 2:
        path.unlink()
        raise CaseError(f"case {case}: {video}: only one frame; a clip needs at least two")
    return count


def label_of(file: h5py.File) -> str:
    """The class of a case stored with its frames; "" without one."""
    return bytes(file["label"][()]).decode("utf-8")


def group_of(file: h5py.File) -> str:
    """The patient of a case stored with its frames; "" of a new one."""
    return bytes(file["group"][()]).decode("utf-8")
