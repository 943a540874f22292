"""The frame cache of a clip."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from foldwise.files import CaseError
from foldwise.systems.clips.settings import Cache
from foldwise.video.decode import probe, read_frames
from foldwise.video.store import write_frames


def cache_clip(case: str, video: Path, label: str, settings: Cache, path: Path) -> int:
    """Decode a clip, shrink and subsample its frames, and write them with its class; returns their number.

    Args:
        case: its name.
        video: the file.
        label: its class by name, or "".
        settings: of the cache.
        path: HDF5 file to write; attributes source_width and source_height hold the video's size.

    Raises:
        CaseError: the video cannot be decoded, or only one frame is left.
    """
    info = probe(video)

    def shrink(rgb: np.ndarray) -> np.ndarray:
        height, width = rgb.shape[:2]
        if settings.size is None or min(height, width) <= settings.size:
            return rgb
        scale = settings.size / min(height, width)
        size = (round(width * scale), round(height * scale))
        return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR))

    count = write_frames(
        path,
        case,
        read_frames(video, fps=settings.fps, edit=shrink),
        encoding=settings.encoding,
        quality=settings.quality,
        attrs={"source_width": info.width, "source_height": info.height},
        # An array, not an attribute, so that the cache's hash covers it.
        arrays={"label": np.array(list(label.encode("utf-8")), np.uint8)},
    )
    if count < 2:
        path.unlink()
        raise CaseError(f"case {case}: {video}: only one frame; a clip needs at least two")
    return count


def label_of(file: h5py.File) -> str:
    """The class of a case stored with its frames; "" without one."""
    return bytes(file["label"][()]).decode("utf-8")
