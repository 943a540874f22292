"""Pictures of a video: upright, opaque, cropped and resized."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from av.sidedata.sidedata import SideDataContainer
from PIL import Image

# Names of Pillow.
Interpolation = Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]
INTERPOLATION = (
    "Interpolation of frames that are resized, by Pillow's names; box: the mean of the covered pixels."
)


def on_black(rgba: np.ndarray) -> np.ndarray:
    """A transparent picture on black: fully transparent pixels may hold white, or noise."""
    opaque = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * opaque + 127) // 255).astype(np.uint8)


def rgb_of(frame: Any) -> np.ndarray:
    """Pixels (height, width, 3) uint8 of a decoded frame as it is shown: opaque, turned and mirrored."""
    if frame.format.has_palette or any(part.is_alpha for part in frame.format.components):
        rgb = on_black(frame.to_ndarray(format="rgba"))
    else:
        rgb = np.asarray(frame.to_ndarray(format="rgb24"))
    matrix = _matrix(frame)
    return rgb if matrix is None else _displayed(rgb, matrix)


def turned(frame: Any) -> bool:
    """Whether a decoded frame is shown with height and width exchanged."""
    matrix = _matrix(frame)
    return matrix is not None and _on_its_side(matrix)


def _matrix(frame: Any) -> np.ndarray | None:
    """The container's matrix of a frame, (9,) int32, or None."""
    # frame.side_data would refer to the frame, and the frame to it: hundreds would wait for the collector.
    matrix = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]
    return None if matrix is None else np.frombuffer(bytes(matrix), np.int32)


def _on_its_side(matrix: np.ndarray) -> bool:
    return abs(int(matrix[1])) > abs(int(matrix[0]))


def _displayed(rgb: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A picture by the matrix of its container: x' = m0 x + m3 y, y' = m1 x + m4 y; only right angles."""
    if _on_its_side(matrix):
        rgb, along, across = rgb.swapaxes(0, 1), matrix[3], matrix[1]
    else:
        along, across = matrix[0], matrix[4]
    return np.ascontiguousarray(rgb[:: -1 if across < 0 else 1, :: -1 if along < 0 else 1])


def resized(rgb: np.ndarray, size: tuple[int, int], interpolation: Interpolation) -> np.ndarray:
    """A picture of another height and width; itself if it has them."""
    if rgb.shape[:2] == size:
        return rgb
    height, width = size
    method = Image.Resampling[interpolation.upper()]
    return np.asarray(Image.fromarray(rgb).resize((width, height), method))


def find_border(
    frames: Sequence[np.ndarray], dark: int = 24, share: float = 0.02
) -> tuple[int, int, int, int]:
    """The picture within a black border: top, bottom, left, right as in a slice.

    Args:
        frames: (height, width, 3) uint8 from all parts of the video.
        dark: largest value of a black pixel.
        share: share of a row's or column's pixels that must be brighter at some time.
    """
    height, width = frames[0].shape[:2]
    bright = np.max([frame.max(2) for frame in frames], axis=0) > dark
    edges = []
    for axis in (1, 0):
        lines = np.flatnonzero(bright.mean(axis) > share)
        edges += [int(lines[0]), int(lines[-1]) + 1] if len(lines) else [0, (height, width)[1 - axis]]
    top, bottom, left, right = edges
    # A video that is dark almost everywhere has no border to crop.
    if (bottom - top) * (right - left) < height * width / 4:
        return 0, height, 0, width
    return top, bottom, left, right
