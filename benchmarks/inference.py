"""Predicting volumes by a sliding window: CPU seconds, peak memory and its forecast, and the way back.

    python benchmarks/inference.py --folder /scratch/inference memory
    python benchmarks/inference.py --folder /scratch/inference resampling [--labels label.nii.gz]

`memory`: three cases are predicted one after another, with reading and writing beside, each time in a process
of its own. `resampling`: a label map, smoothed as by a network, goes to a coarser grid and back to its own.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SHAPES = [(160, 160, 96), (320, 320, 96)]
# Classes, networks, settings of the model.
RUNS: list[tuple[int, int, dict[str, Any]]] = [
    (1, 1, {"patch": [96, 96, 96]}),
    (3, 5, {"patch": [96, 96, 96]}),
    (3, 1, {"patch": [128, 128, 1], "dimensions": "2d"}),
    (40, 1, {"patch": [64, 64, 64]}),
    (40, 2, {"patch": [64, 64, 64]}),
]
SMALL = {"network": {"name": "UNet", "channels": [4, 8], "strides": [2]}, "inference": {"overlap": 0.25}}


def predict(folder: Path, shape: tuple[int, ...], classes: int, networks: int, model: dict[str, Any]) -> None:
    """Predict three cases; prints CPU seconds, peak and forecast in MiB."""
    import torch

    from foldwise.evaluate import Steps, made_from
    from foldwise.forecast import TORCH_MIB
    from foldwise.settings import validate
    from foldwise.store import Store
    from foldwise.systems.segmentation.settings import Settings
    from foldwise.systems.segmentation.system import Segmentation
    from foldwise.training.memory import count_step
    from foldwise.volumes.cache import Contents, write_case
    from foldwise.volumes.geometry import Box, Lineage, int3
    from foldwise.volumes.size import Size

    torch.set_num_threads(1)
    settings = validate(
        Settings,
        {
            "experiment": "x",
            "data": {"sheet": "x.csv", "labels": {f"c{n}": n for n in range(1, 1 + classes)}},
            "split": {"folds": max(2, networks)},
            "models": {"unet": {**SMALL, **model}},
        },
    )
    caches, fresh = {}, False
    for number in range(3):
        path = folder / f"{'x'.join(map(str, shape))}-{number}.h5"
        caches[path.stem] = str(path)
        if not path.exists():
            image = np.random.default_rng(number).integers(-1000, 500, shape).astype(np.int16)
            lineage = Lineage.of(int3(shape), np.eye(4), Box((0, 0, 0), int3(shape)))
            contents = Contents(image[None], None, None, lineage, ("c1",))
            write_case(path, path.stem, contents, (32, 32, 32), 100)
            fresh = True
    if fresh:
        print("again")
        return  # the peak is to be that of predicting alone
    task = {"targets": settings.data.targets().as_dict(), "channels": 1}
    learner = Segmentation().learner(settings.models["unet"], task)
    step = count_step(learner)
    built = [learner.network().eval() for _ in range(networks)]
    base, peak, done = anonymous(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.process_time()
    steps = Steps(learner.read, lambda case: learner.infer(built, case))
    store = Store(folder / "state")
    made_from(caches, steps, store, time.time())
    seconds = time.process_time() - begun
    store.clear()
    done.set()
    watcher.join()
    stage = "test" if networks == 1 else "ensemble"
    size = Size(shape, (1.0, 1.0, 1.0), 1, True)
    forecast = Segmentation().footprint.model_mib(stage, settings, "unet", [size], step)
    # Of libraries, the forecast's own figure: how much of them is in memory depends on other processes.
    print(json.dumps([seconds, TORCH_MIB + peak - base, forecast]))


def anonymous() -> float:
    """Memory of this process that is no file's, in MiB."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 2**10 if found else 0.0


def memory(folder: Path) -> None:
    print("| shape | classes | networks | model | CPU (s) | peak (MiB) | forecast | forecast / peak |")
    print("|---|---|---|---|---|---|---|---|")
    for shape in SHAPES:
        for classes, networks, model in RUNS:
            words = [json.dumps(shape), str(classes), str(networks), json.dumps(model)]
            out = "again"
            while out == "again":
                command = [sys.executable, __file__, "--folder", str(folder), "one", *words]
                done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
                out = done.stdout.split("\n")[-2]
            seconds, peak, forecast = json.loads(out)
            name = f"{model.get('dimensions', '3d')} {model['patch']}"
            print(
                f"| {shape} | {classes} | {networks} | {name} | {seconds:.1f} | {peak:.0f} | {forecast:.0f} "
                f"| {forecast / peak:.2f} |",
                flush=True,
            )


def ways(shape: tuple[int, int, int]) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Ways back to a grid of this shape and the same extent."""
    import torch
    from scipy.ndimage import zoom

    from foldwise.volumes.geometry import resample

    def by_scipy(order: Any) -> Callable[[np.ndarray], np.ndarray]:
        def back(data: np.ndarray) -> np.ndarray:
            factors = [new / old for new, old in zip(shape, data.shape, strict=True)]
            return np.asarray(zoom(data, factors, order=order, mode="nearest", grid_mode=True))

        return back

    def by_torch(data: np.ndarray) -> np.ndarray:
        found = torch.nn.functional.interpolate(torch.from_numpy(data)[None, None], shape, mode="trilinear")
        return np.asarray(found[0, 0].numpy())

    return {
        "linear (ours, scikit-image)": lambda data: resample(data, shape),
        "linear (scipy)": by_scipy(1),
        "cubic (scipy)": by_scipy(3),
        "linear (torch)": by_torch,
    }


def resampling(labels: list[Path]) -> None:
    """Dice of a label map that went to a coarser grid and back, and CPU seconds of the way back."""
    import torch
    from scipy.ndimage import gaussian_filter

    from foldwise.volumes.geometry import resample
    from foldwise.volumes.phantom import make_phantom
    from foldwise.volumes.volume import read_volume

    torch.set_num_threads(1)
    phantom = make_phantom("p01a", (1.5, 1.5, 2.0))
    truths = {"phantom, tumours": phantom.label.data > 0, "phantom, lungs": phantom.lungs.data > 0}
    truths |= {f"{path.parent.name}, {path.name}": read_volume(path).data > 0 for path in labels}
    print("| label map | shape | factor | way back | CPU (s) | Dice |")
    print("|---|---|---|---|---|---|")
    for label, truth in truths.items():
        shape = (truth.shape[0], truth.shape[1], truth.shape[2])
        for factor in (1.5, 2, 3):
            x, y, z = (max(1, round(n / factor)) for n in shape)
            # As soft as a network's probabilities, in 255 steps.
            share = resample(gaussian_filter(truth.astype(np.float32), 0.7), (x, y, z))
            steps = np.rint(255 * share).astype(np.uint8).astype(np.float32)
            for name, back in ways(shape).items():
                begun = time.process_time()
                found = back(steps) > 127.5
                seconds = time.process_time() - begun
                dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
                print(f"| {label} | {shape} | {factor} | {name} | {seconds:.2f} | {dice:.4f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="folder for all files")
    parser.add_argument("what", choices=["memory", "resampling", "one"])
    parser.add_argument("words", nargs="*", help="of a single run")
    parser.add_argument("--labels", type=Path, nargs="+", default=[], help="label maps, besides a phantom's")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.what == "memory":
        memory(args.folder)
    elif args.what == "resampling":
        resampling(args.labels)
    else:
        shape, classes, networks, model = args.words
        predict(args.folder, tuple(json.loads(shape)), int(classes), int(networks), json.loads(model))


if __name__ == "__main__":
    main()
