"""Numbered images of a folder, which are a video."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from foldwise.files import CaseError
from foldwise.video.pixels import on_black
from foldwise.video.sheet import IMAGE_SUFFIXES


def image_files(folder: Path) -> dict[int, Path]:
    """Images of a folder by the number in their names (the last number, if there are several), in this order.

    Raises:
        CaseError: no images, a name without a number, or two of one number.
    """
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        numbers = re.findall(r"\d+", path.stem)
        if not numbers:
            raise CaseError(f"{path}: no number in the name; images of a video must be numbered")
        number = int(numbers[-1])
        if number in found:
            raise CaseError(f"{folder}: {found[number].name} and {path.name} have the same number")
        found[number] = path
    if not found:
        raise CaseError(f"{folder}: contains no images ({', '.join(IMAGE_SUFFIXES)})")
    return dict(sorted(found.items()))


def images_from(folder: Path, first: int | None) -> tuple[dict[int, Path], int]:
    """Images of a folder by number, and the number at time 0; by default the smallest.

    Raises:
        CaseError: as for `image_files`, or an image comes before the one at time 0.
    """
    files = image_files(folder)
    start = min(files) if first is None else first
    if min(files) < start:
        raise CaseError(
            f"{folder}: {files[min(files)].name} comes before the first image's number {start} "
            f"(data.first_image); number the images from {start}"
        )
    return files, start


def read_image(path: Path) -> np.ndarray:
    """Pixels (height, width, 3) uint8 of an image as it is shown: turned by its EXIF, transparency on black.

    Raises:
        CaseError: not readable, or more than 8 bits per channel, which Pillow would clip.
    """
    try:
        with Image.open(path) as image:
            if image.mode[0] in "IF":
                raise CaseError(
                    f"{path}: an image with more than 8 bits ({image.mode}); convert it to 8 bits"
                )
            shown = ImageOps.exif_transpose(image)
            if shown.has_transparency_data:
                return on_black(np.asarray(shown.convert("RGBA")))
            return np.asarray(shown.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise CaseError(f"{path}: not readable as an image ({error})") from error


def rate_of(folder: Path, rate: float | None) -> float:
    """The images per second of a folder.

    Raises:
        CaseError: none are given, or it is not a folder of numbered images.
    """
    if rate is None or rate <= 0:
        image_files(folder)  # names what else is wrong with it
        raise CaseError(
            f"{folder}: a folder of images needs their number per second; set data.images_fps (for new "
            f"cases: predict.images_fps, or foldwise predict --images-fps)"
        )
    return rate


def rates_of(video: Path, prepared: Mapping[str, Any]) -> dict[str, float]:
    """The fact `images_fps` of a new case that is a folder: as the user gives it, else as in training.

    Raises:
        CaseError: a folder, and no rate is known.
    """
    if not video.is_dir():
        return {}
    given = prepared.get("images_fps") or prepared.get("data", {}).get("images_fps")
    return {"images_fps": rate_of(video, given)}
