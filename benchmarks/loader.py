"""Patches per second and peak memory of training loaders, side by side in one run on the same volumes.

    uv pip install -r envs/requirements-bench.txt
    python benchmarks/loader.py

Every loader returns batches of two 128³ patches of image and label, without augmentation, from the same
synthetic 320×320×256 int16 CTs, through the same number of worker processes. Each runs in a separate
process, after building its cache and a warm-up; the rounds alternate between loaders, and the median is
shown. Memory is the largest sum of proportional set sizes over the process and its workers, in MiB, above
that of the bare process with its imports.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

PATCH = (128, 128, 128)
SHAPE = (320, 320, 256)
LOADERS = ("foldwise", "nnunet", "monai_persistent", "monai_cache", "torchio")


def make_volumes(folder: Path, cases: int) -> None:
    """CT-like volumes: correlated noise on a body with two lungs, and a few ball-shaped tumours."""
    from scipy.ndimage import gaussian_filter

    from foldwise.volumes.volume import Volume, write_volume

    axes = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in SHAPE)]
    x, y, z = axes
    body = (x / 0.85) ** 2 + (y / 0.6) ** 2 + 0 * z < 1
    lungs = sum(((x - s) / 0.3) ** 2 + (y / 0.4) ** 2 + (z / 0.8) ** 2 < 1 for s in (-0.4, 0.4)) > 0
    for case in range(cases):
        random = np.random.default_rng(case)
        noise = gaussian_filter(random.standard_normal(SHAPE, np.float32), 0.8)
        image = np.where(lungs, -850, np.where(body, 40, -1000)) + 25 * noise / noise.std() * body
        label = np.zeros(SHAPE, np.uint8)
        for _ in range(3):
            cx, cy, cz = random.uniform(-0.4, 0.4, 3)
            label |= ((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2 < 0.05**2).astype(np.uint8)
        image[label > 0] = 50
        affine = np.diag([1.0, 1.0, 1.25, 1.0])
        write_volume(Volume(np.rint(image).astype(np.int16), affine), folder / f"{case}.nii.gz")
        write_volume(Volume(label, affine), folder / f"{case}_label.nii.gz")


def foldwise(folder: Path, cases: int, workers: int) -> Iterator[Any]:
    """Ours, through the crop and cache stages."""
    from foldwise.training.steps import batches
    from foldwise.volumes.cache import cache_case
    from foldwise.volumes.crop import crop_case
    from foldwise.volumes.patches import Patches
    from foldwise.volumes.settings import Cache, Crop, Intensity, Sampling

    paths = []
    for case in range(cases):
        path = folder / "foldwise" / f"{case}.h5"
        paths.append(str(path))
        if not path.exists():
            crop = folder / "foldwise" / f"crop{case}"
            crop.mkdir(parents=True, exist_ok=True)
            image, label = folder / f"{case}.nii.gz", folder / f"{case}_label.nii.gz"
            crop_case([image], label, None, None, Crop(to="none"), {"tumour": 1}, crop)
            cache_case(str(case), crop, Cache(), {"tumour": 1}, path)
    items = Patches(paths, PATCH, Sampling(), [Intensity()], (0,))
    return batches(items, 0, 10**6, 2, workers, pin=False)


def nnunet(folder: Path, cases: int, workers: int) -> Iterator[Any]:
    """nnU-Net v2's Blosc2 data set and loader in its multi-process augmenter."""
    import pickle
    from types import SimpleNamespace

    from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    from foldwise.volumes.volume import read_volume

    converted = folder / "nnunet"
    converted.mkdir(exist_ok=True)
    for case in range(cases):
        if not (converted / f"{case}.pkl").exists():
            image = read_volume(folder / f"{case}.nii.gz").data[None].astype(np.float32)
            label = read_volume(folder / f"{case}_label.nii.gz").data[None].astype(np.int8)
            image = (image - image.mean()) / image.std()
            found = np.argwhere(label == 1)
            blocks, chunks = comp_blosc2_params(image.shape, PATCH, bytes_per_pixel=4)
            properties = {"class_locations": {1: found[:10000]}}
            nnUNetDatasetBlosc2.save_case(
                image, label, properties, str(converted / str(case)), chunks=chunks, blocks=blocks
            )
            assert pickle.loads((converted / f"{case}.pkl").read_bytes())
    data = nnUNetDatasetBlosc2(str(converted), [str(case) for case in range(cases)])
    labels = SimpleNamespace(all_labels=[1], has_ignore_label=False)
    loader = nnUNetDataLoader(data, 2, PATCH, PATCH, labels, oversample_foreground_percent=0.33)
    return NonDetMultiThreadedAugmenter(loader, None, workers, num_cached=max(6, workers // 2))


def monai(folder: Path, cases: int, workers: int, persistent: bool) -> Iterator[Any]:
    """MONAI's PersistentDataset or CacheDataset with RandCropByPosNegLabel, indices cached as recommended."""
    from monai.data import CacheDataset, DataLoader, PersistentDataset
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        FgBgToIndicesd,
        LoadImaged,
        RandCropByPosNegLabeld,
        ScaleIntensityRanged,
    )

    keys = ["image", "label"]
    transform = Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            ScaleIntensityRanged(["image"], -1000, 600, -1, 1, clip=True),
            FgBgToIndicesd(["label"]),
            RandCropByPosNegLabeld(
                keys, "label", PATCH, pos=0.8, neg=0.2, num_samples=1,
                fg_indices_key="label_fg_indices", bg_indices_key="label_bg_indices",
            ),
        ]
    )  # fmt: skip
    files = [
        {"image": str(folder / f"{case}.nii.gz"), "label": str(folder / f"{case}_label.nii.gz")}
        for case in range(cases)
    ]
    data: Any = (
        PersistentDataset(files, transform, cache_dir=folder / "monai")
        if persistent
        else CacheDataset(files, transform, progress=False)
    )
    loader = DataLoader(data, batch_size=2, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    while True:
        for batch in loader:
            yield {"image": batch["image"], "label": batch["label"]}


def torchio(folder: Path, cases: int, workers: int) -> Iterator[Any]:
    """A TorchIO queue with its label sampler."""
    import torchio as tio

    subjects = [
        tio.Subject(
            image=tio.ScalarImage(folder / f"{case}.nii.gz"),
            label=tio.LabelMap(folder / f"{case}_label.nii.gz"),
        )
        for case in range(cases)
    ]
    sampler = tio.LabelSampler(PATCH, label_name="label", label_probabilities={0: 0.2, 1: 0.8})
    queue = tio.Queue(
        tio.SubjectsDataset(subjects), max_length=8, samples_per_volume=4, sampler=sampler,
        num_workers=workers,
    )  # fmt: skip
    loader = tio.SubjectsLoader(queue, batch_size=2, num_workers=0)
    while True:
        yield from loader


def measure(name: str, folder: Path, cases: int, workers: int, seconds: float) -> dict[str, float]:
    """Run one loader in this process: patches per second, and peak memory above the imports."""
    make: dict[str, Callable[[], Iterator[Any]]] = {
        "foldwise": lambda: foldwise(folder, cases, workers),
        "nnunet": lambda: nnunet(folder, cases, workers),
        "monai_persistent": lambda: monai(folder, cases, workers, persistent=True),
        "monai_cache": lambda: monai(folder, cases, workers, persistent=False),
        "torchio": lambda: torchio(folder, cases, workers),
    }
    before = _pss()
    peak, done = [before], threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            peak[0] = max(peak[0], _pss())

    threading.Thread(target=watch, daemon=True).start()
    feed = iter(make[name]())
    for _ in range(2 * cases):
        next(feed)
    begun, count = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        next(feed)
        count += 2
    rate = count / (time.monotonic() - begun)
    done.set()
    return {"patches_per_s": rate, "peak_mib": max(peak[0], _pss()) - before}


def _pss() -> float:
    total = 0.0
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total / 2**20


def main() -> None:
    """Read the command line; measure, or with --one run one loader in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", type=int, default=6, help="volumes")
    parser.add_argument("--workers", type=int, default=2, help="worker processes of every loader")
    parser.add_argument("--seconds", type=float, default=20, help="time per measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements per loader")
    parser.add_argument("--loaders", nargs="+", default=LOADERS, choices=LOADERS, help="which")
    parser.add_argument("--folder", type=Path, help="keep volumes and caches here")
    parser.add_argument("--one", choices=LOADERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        found = measure(args.one, args.folder, args.cases, args.workers, args.seconds)
        print("RESULT " + json.dumps(found))
        # Some loaders' workers never end on their own.
        sys.stdout.flush()
        for child in psutil.Process().children(recursive=True):
            child.kill()
        os._exit(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        _compare(args, folder)


def _compare(args: argparse.Namespace, folder: Path) -> None:
    if not (folder / f"{args.cases - 1}_label.nii.gz").exists():
        make_volumes(folder, args.cases)
    results: dict[str, list[dict[str, float]]] = {}
    runs = [(name, args.cases) for name in args.loaders]
    # The same loader on a third of the cases: its memory must not grow with their number.
    runs += [("foldwise", max(1, args.cases // 3))]
    for turn in range(args.rounds):
        for name, cases in runs:
            command = [sys.executable, __file__, "--one", name, "--folder", str(folder)]
            command += ["--cases", str(cases), "--workers", str(args.workers)]
            command += ["--seconds", str(args.seconds)]
            done = subprocess.run(command, capture_output=True, encoding="utf-8")
            lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
            key = f"{name} ({cases} cases)"
            if lines:
                results.setdefault(key, []).append(json.loads(lines[0].removeprefix("RESULT ")))
                print(f"round {turn + 1}: {key}: {results[key][-1]}", flush=True)
            else:
                print(f"round {turn + 1}: {key} failed:\n{done.stderr[-1500:]}", flush=True)
    ours = statistics.median(r["patches_per_s"] for r in results[f"foldwise ({args.cases} cases)"])
    print("\n| loader | patches/s | ours is | peak MiB |\n|---|---|---|---|")
    for key, rows in results.items():
        rate = statistics.median(row["patches_per_s"] for row in rows)
        memory = max(row["peak_mib"] for row in rows)
        print(f"| {key} | {rate:.1f} | {ours / rate:.1f}× | {memory:.0f} |")


if __name__ == "__main__":
    main()
