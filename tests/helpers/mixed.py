"""A folder of new videos as users have them: many containers, images, a broken file, and other things."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from videos import write_video

CODECS = {"a.mp4": "libx264", "b.gif": "gif", "c.wmv": "wmv2", "d.mkv": "libx264"}
READABLE = ["a", "b", "c", "d", "images"]


def write_mixed(folder: Path, videos: Sequence[np.ndarray], fps: int) -> Path:
    """Write five videos of frames (n, height, width, 3), the last as images, and what cannot be predicted."""
    folder.mkdir(parents=True)
    for (name, codec), frames in zip(CODECS.items(), videos, strict=False):
        write_video(folder / name, frames, fps=fps, codec=codec)
    (folder / "images").mkdir()
    for number, frame in enumerate(videos[-1], start=1):
        Image.fromarray(frame).save(folder / "images" / f"{number:04}.png")
    whole = (folder / "a.mp4").read_bytes()
    (folder / "broken.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("x", encoding="utf-8")
    (folder / "empty").mkdir()
    return folder
