"""Read the images of a video, for runner.py; needs numpy and SimpleITK."""

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy import ndarray as Array

# How far Pillow's filters reach, in pixels of the smaller image.
REACH = {"box": 0.5, "bilinear": 1, "bicubic": 2, "lanczos": 3}
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


def _oriented(path: Path) -> int:
    """The orientation in a file's EXIF data, 1 to 8; SimpleITK leaves it out."""
    raw = path.read_bytes()
    if raw[:4] in (b"II*\0", b"MM\0*"):
        return _orientation(raw)
    marks = [
        (raw.find(mark), len(mark))
        for mark in (b"Exif\0\0II*\0", b"Exif\0\0MM\0*", b"eXIfII*\0", b"eXIfMM\0*")
    ]
    start = next((place + size - 4 for place, size in marks if place >= 0), None)
    return 1 if start is None else _orientation(raw[start:])


def _orientation(raw: bytes) -> int:
    little = raw[:1] == b"I"

    def number(place: int, size: int) -> int:
        return int.from_bytes(raw[place : place + size], "little" if little else "big")

    entries = number(4, 4)
    for place in range(entries + 2, entries + 2 + 12 * number(entries, 2), 12):
        if number(place, 2) == 0x112:
            return number(place + 8, 2)
    return 1


def read(path: Path) -> Array:
    """A frame (height, width, 3) uint8 as it is shown: turned by its EXIF data, and transparency on black."""
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    if image.dtype != np.uint8:
        raise ValueError(f"{path}: expected 8 bits per colour")
    if image.ndim == 2:
        image = image[..., None]
    if image.shape[2] in (2, 4):  # the last channel is opacity
        image = ((image[..., :-1] * image[..., -1:].astype(np.uint16) + 127) // 255).astype(np.uint8)
    turn = _oriented(path)
    if path.suffix.lower() in {".tif", ".tiff"}:
        if turn not in (1, 4):  # SimpleITK turns only some
            raise ValueError(f"{path}: a turned or mirrored TIFF; save it upright")
    else:
        if turn in (5, 6, 7, 8):
            image = image.swapaxes(0, 1)
        image = image[:: -1 if turn in (3, 4, 7, 8) else 1, :: -1 if turn in (2, 3, 6, 7) else 1]
    return np.broadcast_to(image, (*image.shape[:2], 3)) if image.shape[2] == 1 else image


def _weights(x: Array, method: str) -> Array:
    """Pillow's weight of a pixel at a distance in pixels of the smaller image."""
    far = np.abs(x)
    if method == "box":
        return ((x > -0.5) & (x <= 0.5)).astype(float)
    if method == "bilinear":
        return np.maximum(0, 1 - far)
    if method == "bicubic":
        near, wide = (1.5 * far - 2.5) * far**2 + 1, ((far - 5) * far + 8) * far - 4
        return np.where(far < 1, near, np.where(far < 2, -0.5 * wide, 0))
    return np.where(far < 3, np.sinc(x) * np.sinc(x / 3), 0)


def resized(frame: Array, size: tuple[int, int], method: str = "bilinear", bits: int | None = 22) -> Array:
    """A frame of another height and width, as by Pillow.

    Weights are whole numbers of so many bits, 22 in Pillow; None: as many as fit 16 bits, as in torch.
    """
    for axis in (1, 0):
        old, new = frame.shape[axis], size[axis]
        if old == new:
            continue
        if method == "nearest":
            steps = np.full(new, old / new)
            steps[0] /= 2
            frame = frame.take(np.cumsum(steps).astype(int), axis)  # rounded as in Pillow's sum
            continue
        scale = max(1.0, old / new)
        centres = (np.arange(new)[:, None] + 0.5) * (old / new)
        first, last = (np.trunc(centres + side * REACH[method] * scale + 0.5) for side in (-1, 1))
        weights = _weights((np.arange(old) - centres + 0.5) * (1 / scale), method)
        weights = weights * ((np.arange(old) >= first) & (np.arange(old) < last))
        weights /= weights.sum(1, keepdims=True)
        few = next(n for n in range(23) if n == 22 or int(0.5 + weights.max() * 2 ** (n + 1)) >= 2**15)
        unit = 2 ** (few if bits is None else bits)
        whole = np.trunc(weights * unit + np.copysign(0.5, weights))
        sums = np.tensordot(whole, frame.astype(float), (1, axis))
        frame = np.moveaxis(np.clip(np.floor(sums / unit + 0.5), 0, 255).astype(np.uint8), 0, axis)
    return frame
