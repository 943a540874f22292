"""Read the images of a video, for runner.py; needs numpy and SimpleITK."""

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy import ndarray as Array

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}


def find_videos(source: Path) -> list[Path]:
    """The folders of images in a folder, or the folder itself if there are none."""
    if not source.is_dir():
        raise SystemExit(f"{source}: no such folder; expected images of a video, or folders of such images")
    return sorted(path for path in source.iterdir() if path.is_dir() and path.name[0] != ".") or [source]


def find_frames(folder: Path) -> list[Path]:
    """Images of a folder, in the order of the last number in their names."""
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGES or path.name.startswith("."):
            continue
        numbers = re.findall(r"\d+", path.stem)
        if not numbers:
            raise ValueError(f"{path.name}: no number in the name")
        if (other := found.setdefault(int(numbers[-1]), path)) is not path:
            raise ValueError(f"{other.name} and {path.name} have the same number")
    if not found:
        raise ValueError(f"no images ({', '.join(sorted(IMAGES))})")
    paths = [found[number] for number in sorted(found)]
    sizes = [_size(path) for path in paths]
    for path, size in zip(paths, sizes, strict=True):
        if size != sizes[0]:
            raise ValueError(f"{path.name} is {size}, earlier ones are {sizes[0]}; expected one size")
    return paths


def _size(path: Path) -> tuple[int, ...]:
    header = sitk.ImageFileReader()
    header.SetFileName(str(path))
    header.ReadImageInformation()
    return tuple(header.GetSize())


def read(path: Path) -> Array:
    """A frame (height, width, 3) uint8; a transparent picture on black."""
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    if image.dtype != np.uint8:
        raise ValueError(f"{path}: expected 8 bits per colour")
    if image.ndim == 2:
        return np.stack([image] * 3, axis=2)
    if image.shape[2] == 4:
        return ((image[..., :3] * image[..., 3:].astype(np.uint16) + 127) // 255).astype(np.uint8)
    return image
