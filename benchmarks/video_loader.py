"""Frames per second into a training step: frame caches against JPEG files and a torchvision data set.

  python benchmarks/video_loader.py video.mp4 --folder /scratch/frames [--copies 80]

The video is decoded at five frames per second to 250 × 250, stored both ways at the same JPEG quality, and
read in windows of ten frames cropped to 224 × 224, in one run, alternating. With `--copies`, as many
synthetic videos are written and read, with monitored memory. Also prints the decoding time per minute of
video.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from foldwise.training.steps import batches
from foldwise.video.decode import Frame, probe, read_frames
from foldwise.video.store import write_frames
from foldwise.video.windows import Windows

SIZE, CROP, WINDOW, BATCH = (250, 250), (224, 224), 10, 10
FPS, QUALITY = 5, 95


def resized(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).resize(SIZE[::-1], Image.Resampling.BILINEAR))


class JpegFiles(Dataset[torch.Tensor]):
    """Frames as in the usual data set: one file each, opened with PIL, cropped with torchvision."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("*.jpg"))
        self.crop = v2.Compose([v2.RandomCrop(CROP), v2.RandomHorizontalFlip(), v2.PILToTensor()])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> torch.Tensor:
        with Image.open(self.files[number]) as image:
            cropped: torch.Tensor = self.crop(image.convert("RGB"))
        return cropped


def from_files(folder: Path, steps: int, workers: int) -> Iterator[Any]:
    files = JpegFiles(folder)
    random = np.random.default_rng(0)
    starts = random.integers(len(files) - WINDOW, size=steps * BATCH)
    order = [int(start) + n for start in starts for n in range(WINDOW)]
    yield from DataLoader(files, batch_size=BATCH * WINDOW, sampler=order, num_workers=workers)


def from_cache(paths: list[str], steps: int, workers: int) -> Iterator[Any]:
    yield from batches(Windows(paths, WINDOW, (0,), crop=CROP, flip=True), 0, steps, BATCH, workers, False)


def rate(feed: Iterator[Any], steps: int) -> tuple[float, float]:
    """Frames per second after the first batch, which starts the workers; and per second of CPU time."""
    next(feed)
    begun, used = time.monotonic(), time.process_time()
    for _ in feed:
        pass
    frames = (steps - 1) * BATCH * WINDOW
    return frames / (time.monotonic() - begun), frames / (time.process_time() - used)


def compare(video: Path, folder: Path, steps: int, workers: int, turns: int) -> None:
    jpegs = folder / "jpegs"
    jpegs.mkdir(parents=True, exist_ok=True)
    minutes = probe(video).duration_s / 60
    caches = {}
    for encoding in ("raw", "jpeg"):
        path = folder / f"{encoding}.h5"
        begun, used = time.monotonic(), time.process_time()
        frames = read_frames(video, fps=FPS, edit=resized)
        count = write_frames(path, "v", frames, encoding=encoding, quality=QUALITY)
        wall, cpu = (time.monotonic() - begun) / minutes, (time.process_time() - used) / minutes
        kib = path.stat().st_size / count / 1024
        print(f"decode to {encoding}: {wall:.1f} s ({cpu:.1f} s of CPU) per minute, {kib:.1f} KiB per frame")
        caches[encoding] = [str(path)]
    for frame in read_frames(video, fps=FPS, edit=resized):
        Image.fromarray(frame.rgb).save(jpegs / f"{frame.number:06d}.jpg", quality=QUALITY)
    readers: dict[str, Callable[[], Iterator[Any]]] = {
        "JPEG files, torchvision data set": lambda: from_files(jpegs, steps, workers),
        "cache, jpeg": lambda: from_cache(caches["jpeg"], steps, workers),
        "cache, raw": lambda: from_cache(caches["raw"], steps, workers),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in readers}
    for _ in range(turns):
        for name, make in readers.items():
            found[name].append(rate(make(), steps))
    for name, rates in found.items():
        wall, cpu = np.median(rates, axis=0)
        # On a busy machine, compare the second number; it is meaningless with workers.
        spread = f"{min(r for _, r in rates):.0f} to {max(r for _, r in rates):.0f}"
        print(f"{name}: {wall:.0f} frames/s; {cpu:.0f} per second of CPU ({spread})")


def many(folder: Path, copies: int, steps: int) -> None:
    """Memory while many videos are written and read."""

    def synthetic(seed: int) -> Iterator[Frame]:
        image = np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), np.uint8)
        yield from (Frame(n, n / FPS, np.roll(image, n, 0)) for n in range(300))

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    paths = [str(folder / f"many{number}.h5") for number in range(copies)]
    for number, path in enumerate(paths):
        write_frames(Path(path), str(number), synthetic(number), encoding="jpeg", quality=QUALITY)
        if number in (0, copies // 2, copies - 1):
            print(f"peak memory after writing {number + 1} videos: {peak():.0f} MiB")
    for part, _ in enumerate(from_cache(paths, steps, 0)):
        if part in (0, steps // 2, steps - 1):
            print(
                f"peak memory after reading {(part + 1) * BATCH} windows of {copies} videos: {peak():.0f} MiB"
            )


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("video", type=Path, help="video file")
    arguments.add_argument("--folder", required=True, type=Path, help="folder for all files")
    arguments.add_argument("--steps", type=int, default=20, help="batches of 100 frames")
    arguments.add_argument("--workers", type=int, default=0, help="loader processes")
    arguments.add_argument("--turns", type=int, default=3, help="number of measurements of each reader")
    arguments.add_argument(
        "--copies", type=int, default=0, help="number of synthetic videos for monitoring memory"
    )
    args = arguments.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    compare(args.video, args.folder, args.steps, args.workers, args.turns)
    if args.copies:
        many(args.folder, args.copies, args.steps)


if __name__ == "__main__":
    main()
