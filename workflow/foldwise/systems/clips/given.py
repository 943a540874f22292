"""Given masks of a clip: which frame each one is for, and which pixels it marks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from foldwise.files import CaseError
from foldwise.video.images import image_files

# Values between these shares of the largest one belong to neither side of a mask's threshold.
BETWEEN = (0.25, 0.75)
# The largest share of such pixels, e.g. along outlines that JPEG or a resize has blurred.
BLURRED = 0.02
# Largest value of an empty mask after JPEG.
NOISE = 16


def read_given(path: Path, file: h5py.File, case: str) -> dict[int, np.ndarray]:
    """A given mask on the cached frames: frame → (height, width) bool; all False if it marks nothing.

    Args:
        path: an image, which is for the first frame, or a folder of images by frame number.
        file: the frame cache.
        case: for messages.

    Raises:
        CaseError: not an image, not of the video's size, not a mask, of no frame, or no mask of a cached
            frame.
    """
    height, width = int(file.attrs["height"]), int(file.attrs["width"])
    source = (int(file.attrs["source_width"]), int(file.attrs["source_height"]))
    numbers = file["number"][()].tolist()
    files = _of_frames(path, numbers, case) if path.is_dir() else {numbers[0]: path}
    masks = {}
    for place, number in enumerate(numbers):
        if (image_path := files.get(number)) is None:
            continue
        try:
            with Image.open(image_path) as image:
                if image.size != source:
                    raise CaseError(
                        f"case {case}: {image_path}: the mask is {image.size[0]}×{image.size[1]}, the video "
                        f"{source[0]}×{source[1]}"
                    )
                whole = Image.fromarray(_marked(image, f"case {case}: {image_path}"))
                masks[place] = np.asarray(whole.resize((width, height), Image.Resampling.NEAREST))
        except OSError as error:
            raise CaseError(f"case {case}: {image_path}: not readable as an image ({error})") from error
    if not masks:
        raise CaseError(f"case {case}: {path}: has no mask of a cached frame")
    return masks


def _of_frames(folder: Path, numbers: list[int], case: str) -> Mapping[int, Path]:
    """The masks of a folder by frame number, also if they are numbered from 1 and the frames from 0."""
    files = image_files(folder)
    first, last, count = numbers[0], numbers[-1], len(numbers)
    named = list(files)
    every = last - first + 1 == count
    from_one = first == 0 and named == [*range(1, len(named) + 1)] and named[-1] > last
    if from_one and every and len(named) == count:
        logging.info("%s: masks 1 to %d are those of frames 0 to %d", case, count, count - 1)
        return {number - 1: path for number, path in files.items()}
    if from_one and not every:
        raise CaseError(
            f"case {case}: {folder}: the masks are numbered 1 to {named[-1]}, the frames from 0, and the "
            f"cache holds only some of them (cache.fps): number the masks from 0"
        )
    # Between cached frames there may be others; beyond the last one, fewer than between two of them.
    step = 1 if every else int(np.diff(numbers).max())
    for number, path in files.items():
        if not first <= number < last + step:
            raise CaseError(
                f"case {case}: {path}: a mask without a frame: the video has the frames {first} to {last}; "
                f"name each mask by its frame's number"
            )
    return files


def _marked(image: Image.Image, name: str) -> np.ndarray:
    """Marked pixels of a mask of any depth: those above half of its largest value that are not transparent.

    In a palette, every colour but black is marked, however dark.
    """
    if image.mode in ("P", "1"):
        colours = np.asarray(image.convert("RGBA"))
        return np.asarray(colours[..., :3].any(-1) & (colours[..., 3] > 0))
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image).astype(np.float64)
    else:
        # Not as grey values, in which a colour could be below the threshold.
        colours = np.asarray(image.convert("RGBA")).astype(np.float64)
        values = colours[..., :3].max(-1) * colours[..., 3] / 255
    largest = float(values.max())
    if not np.isfinite(largest) or values.min() < 0:
        raise CaseError(f"{name}: not a mask: it has values below 0 or that are not numbers")
    if largest <= (NOISE if image.format == "JPEG" else 0):
        return np.zeros(values.shape, bool)
    low, high = (share * largest for share in BETWEEN)
    between = float(((values > low) & (values < high)).mean())
    if between > BLURRED:
        raise CaseError(
            f"{name}: not a mask of two values: {100 * between:.0f} % of its pixels are between {low:g} and "
            f"{high:g}; save it with 0 outside and one value inside, e.g. 255, as PNG"
        )
    return np.asarray(values > largest / 2)
