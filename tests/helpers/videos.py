"""Synthetic videos for tests: written with PyAV, a known grey value per frame."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def flat_frames(count: int, size: tuple[int, int] = (32, 48)) -> np.ndarray:
    """Frames (count, *size, 3) uint8, each of one grey that encodes its number: 8 + 4 · number."""
    values = (8 + 4 * np.arange(count)).astype(np.uint8)
    return np.broadcast_to(values[:, None, None, None], (count, *size, 3)).copy()


def write_video(
    path: Path,
    frames: np.ndarray,
    *,
    fps: int = 25,
    codec: str = "libx264",
    times: Sequence[Fraction] | None = None,
    options: dict[str, str] | None = None,
    gop: int | None = None,
    pixels: str = "yuv420p",
) -> Path:
    """Encode frames (n, height, width, 3) uint8.

    `times` in seconds makes the rate variable; every `gop`-th frame is a key frame.
    """
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.bit_rate = 4_000_000
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb8" if codec == "gif" else pixels
        if gop:
            stream.codec_context.gop_size = gop
        base = Fraction(1, 1000 if times else fps)
        stream.codec_context.time_base = base
        for number, values in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(values, format="rgb24")
            frame.time_base = base
            frame.pts = int(times[number] * 1000) if times else number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
