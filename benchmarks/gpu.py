"""What needs a GPU: training steps and their memory, and predictions of whole volumes beside the CPU's.

    python benchmarks/gpu.py steps
    python benchmarks/gpu.py predict --shape 512 512 300
    python benchmarks/gpu.py workflow work/

`steps`: models of the shipped experiments, and models planned for a given memory, on random inputs that are
on the GPU already: milliseconds, peak memory, and the memory that a plan expects.
`predict`: outputs are added up on the GPU and on the CPU, with 1 and with 118 classes; seconds, peak memory
and its forecast, and voxels whose label differs.
`workflow`: the shipped lung experiment on phantoms, but with fewer steps: seconds of its steps, the share of
them that waits for data, and how busy its jobs keep the GPU.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
import yaml
from tabulate import tabulate

from foldwise.plan import merged
from foldwise.settings import dump, validate
from foldwise.systems import system_of
from foldwise.systems.base import System
from foldwise.systems.segmentation import inference
from foldwise.systems.segmentation.inference import Inference, Scan
from foldwise.systems.segmentation.learner import SegmentationLearner
from foldwise.systems.segmentation.planning import Fingerprint, plan_model
from foldwise.systems.segmentation.settings import Model
from foldwise.training.learner import Learner, precision_of
from foldwise.training.memory import count_step, gpu_gib
from foldwise.training.parallel import make_fabric
from foldwise.volumes.geometry import Box, Lineage, int3
from foldwise.volumes.phantom import make_phantom
from foldwise.volumes.targets import Targets
from foldwise.volumes.volume import write_volume

ROOT = Path(__file__).parents[1]
GPU = torch.device("cuda")
SURGICAL = {"phases": ["p"] * 7, "tools": ["t"] * 7}
CLIPS = {"classes": ["a", "b", "c"], "sentences": [["a"], ["b"], ["c"]]}
# Training steps that are timed, after some to warm up.
MEASURED, WARM_UP = 20, 5


def main() -> None:
    """Read the command line."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = arguments.add_subparsers(dest="what", required=True)
    what.add_parser("steps")
    what.add_parser("predict").add_argument("--shape", type=int, nargs=3, default=[512, 512, 300])
    run = what.add_parser("workflow")
    run.add_argument("folder", type=Path, help="folder to work in, outside the checkout")
    run.add_argument("--steps", type=int, default=100, help="of an epoch")
    args = arguments.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no GPU is visible")
    facts = torch.cuda.get_device_properties(GPU)
    print(f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, PyTorch {torch.__version__}")
    if args.what == "steps":
        steps()
    elif args.what == "predict":
        predict(int3(args.shape))
    else:
        workflow(args.folder.resolve(), args.steps)


# Training steps.


def steps() -> None:
    """Print a row for each model and precision."""
    heads = ("model", "input", "precision", "step (ms)", "peak (GiB)", "expected (GiB)", "expected / peak")
    started(heads)
    for name, (system, model, task) in models().items():
        for amp in ("auto", "off"):
            values = merged(dump(model), {"training": {"amp": amp}})
            learner = system.learner(validate(system.model, values), task)
            expected = gpu_gib(count_step(learner), half=amp != "off")
            free()
            try:
                milliseconds, peak = timed(learner)
            except torch.cuda.OutOfMemoryError:
                milliseconds = peak = math.nan
            size = " × ".join(map(str, learner.sample().shape))
            row(name, size, precision_of(amp, gpu=True), milliseconds, peak, expected, expected / peak)


def started(heads: Sequence[str]) -> None:
    """Print the head of a table, whose rows follow one by one: a run may be cut off."""
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|", flush=True)


def row(*values: Any) -> None:
    """Print a row of a table."""
    words = (f"{value:.3g}" if isinstance(value, float) else str(value) for value in values)
    print("| " + " | ".join(words) + " |", flush=True)


def models() -> dict[str, tuple[System[Any, Any], Any, dict[str, Any]]]:
    """A model of each kind, by its name in the table: its system, settings, and what is learnt."""
    binary = Targets({"a": 1}).as_dict()
    segmentation = system_of("segmentation")
    found: dict[str, Any] = {}
    for experiment, channels in (("lung", 1), ("brats", 4)):
        values = yaml.safe_load((ROOT / "experiments" / f"{experiment}.yaml").read_text())
        settings = validate(segmentation.settings, values)
        task = {"targets": settings.data.targets().as_dict(), "channels": channels}
        found[experiment] = segmentation, settings.models["unet"], task
    for gib in (4, 11, 24):
        found[f"planned for {gib} GiB"] = segmentation, planned(gib), {"targets": binary, "channels": 1}
    for name, values, task in (
        ("surgical", {"kind": "mtrcnet_cl", "training": {"batch": 10}}, SURGICAL),
        ("interactive", {}, {"targets": binary, "channels": 1}),
        ("clips", {"network": {"name": "r2plus1d_18"}, "training": {"batch": 8}}, CLIPS),
    ):
        system = system_of(name)
        found[name] = system, validate(system.model, values), task
    return found


def planned(gib: float) -> Model:
    """What a plan proposes for 100 CTs, in this much memory."""
    shapes, spacings = np.tile([400, 400, 300], (100, 1)), np.tile([0.8, 0.8, 1.0], (100, 1))
    grey = [{"percentile_0.5": -1000.0, "percentile_99.5": 300.0, "mean": -300.0, "std": 300.0}]
    fingerprint = Fingerprint(100, shapes, spacings, grey, True, 1.0)
    values = plan_model(fingerprint, (0.8, 0.8, 1.0), {}, Targets({"a": 1}), 1, gib)
    return validate(Model, values)


def timed(learner: Learner[Any]) -> tuple[float, float]:
    """Milliseconds of a training step, and the peak of allocated memory in GiB."""
    fabric = make_fabric(learner.model.training)
    # Its forward pass of the interactive system is a whole step.
    bare = learner.build_network()
    network, optimiser = fabric.setup(bare, torch.optim.AdamW(bare.parameters(), 1e-4))
    network.train()
    step = step_of(learner, network)
    for number in range(WARM_UP + MEASURED):
        if number == WARM_UP:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            begun = time.perf_counter()
        optimiser.zero_grad()
        loss = step()
        fabric.backward(loss)
        loss.item()
        optimiser.step()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - begun
    return 1000 * seconds / MEASURED, torch.cuda.max_memory_allocated() / 2**30


def step_of(learner: Learner[Any], network: Any) -> Callable[[], torch.Tensor]:
    """A function that returns the loss of a batch: of patches with augmentation, or the sum of outputs."""
    if not isinstance(learner, SegmentationLearner):
        inputs = torch.randn(learner.sample().shape, device=GPU)
        return lambda: total(network(inputs))
    count = learner.model.training.batch
    shape = (count, *learner.patch)
    scaling = torch.tensor([-1000.0, 1000.0, 0.0, 0.01, 0.0], device=GPU).expand(count, learner.channels, 5)
    batch = {
        "image": torch.randint(-1000, 1000, (count, learner.channels, *learner.patch), device=GPU).short(),
        "label": torch.randint(0, 1 + len(learner.targets.classes), shape, device=GPU).byte(),
        "scaling": scaling,
        "spacing": torch.ones(count, 3, device=GPU),
    }
    generator = torch.Generator(GPU).manual_seed(0)
    return lambda: learner.loss(network, batch, generator)["loss"]


def total(outputs: Any) -> torch.Tensor:
    """The mean of all outputs."""
    if isinstance(outputs, torch.Tensor):
        return outputs.float().mean()
    values = outputs.values() if isinstance(outputs, dict) else outputs
    return torch.stack([total(one) for one in values]).sum()


def free() -> None:
    """Return all memory to the driver."""
    gc.collect()
    torch.cuda.empty_cache()


# Predictions.


def predict(shape: tuple[int, int, int]) -> None:
    """Print a row for each number of classes and each place of the sums."""
    started(("classes", "sums on", "seconds", "peak of the GPU (GiB)", "forecast (GiB)", "other labels"))
    for classes in (1, 118):
        learner = segmenter(classes)
        torch.manual_seed(0)
        network = learner.network().to(GPU).eval()
        image = smooth(shape)
        scan = Scan("a", image, image.amin((1, 2, 3), keepdim=True), whole(shape))
        seen: list[np.ndarray] = []
        for place in ("GPU", "CPU"):
            window = Inference(learner)
            # Without free memory, the CPU adds outputs up.
            full = patch.object(inference, "free_bytes", return_value=0)
            with full if place == "CPU" else nullcontext():
                window.found([network], small(scan))
                free()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                begun = time.perf_counter()
                seen.append(window.found([network], scan).label)
            seconds = time.perf_counter() - begun
            peak = (torch.cuda.max_memory_allocated() - before) / 2**30
            # Without the networks' passes.
            forecast = window.need(scan, torch.float16) / 2**30 if place == "GPU" else 0.0
            row(classes, place, seconds, peak, forecast, float((seen[0] != seen[-1]).mean()))


def segmenter(classes: int) -> SegmentationLearner:
    """The lung experiment's model, for this many classes."""
    values = yaml.safe_load((ROOT / "experiments" / "lung.yaml").read_text())["models"]["unet"]
    targets = Targets({f"c{number}": number for number in range(1, 1 + classes)})
    return SegmentationLearner(validate(Model, values), {"targets": targets.as_dict(), "channels": 1})


def smooth(shape: tuple[int, int, int]) -> torch.Tensor:
    """Smooth noise (1, x, y, z), so that labels are regions rather than single voxels."""
    coarse = torch.randn(1, 1, *(math.ceil(n / 8) for n in shape), generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, shape, mode="trilinear")[0]


def small(scan: Scan) -> Scan:
    """A part of a case, to warm up."""
    image = scan.image[:, :128, :128, :64].clone()
    return Scan("warm", image, scan.fill, whole(int3(image.shape[1:])))


def whole(shape: tuple[int, int, int]) -> Lineage:
    """Of a volume that is its own source."""
    return Lineage.of(shape, np.eye(4), Box((0, 0, 0), shape))


# The workflow.


def workflow(folder: Path, per_epoch: int) -> None:
    """Run it, and print a row for each training and for each job on the GPU."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"p{number:02d}" for number in range(1, 9)]
    with ProcessPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(partial(phantom, folder), names))
    rows = ["case,group,image,label", *(f"{n},{n},{n}.nii.gz,{n}_l.nii.gz" for n in names)]
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    values = yaml.safe_load((ROOT / "experiments" / "lung.yaml").read_text())
    values["data"]["sheet"] = "cases.csv"
    values["split"] = {"folds": 2, "validation": 0.2}
    training = {"epochs": 3, "steps_per_epoch": per_epoch, "batch": 2, "validate_every": 3}
    values["models"]["unet"]["training"] = training
    (folder / "experiment.yaml").write_text(yaml.safe_dump(values))
    begun = time.perf_counter()
    with (folder / "snakemake.log").open("w") as file:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
                *("--profile", str(ROOT / "profiles" / "local"), "--configfile", "experiment.yaml"),
            ],
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    if done.returncode:
        raise SystemExit((folder / "snakemake.log").read_text()[-5000:])
    print(f"{time.perf_counter() - begun:.0f} s for all of it")
    for path in sorted(folder.glob("results/**/log.csv")):
        log = pd.read_csv(path)
        log["ms a step"] = 1000 * log["seconds"] / per_epoch
        kept = ["epoch", "loss", "ms a step", "data_wait", "validation_seconds", "peak_gpu_mib"]
        print(path.relative_to(folder))
        print(tabulate(log[kept], headers="keys", tablefmt="github", showindex=False, floatfmt=".3g"))
    for path in sorted(folder.glob("results/**/logs/**/*.log")):
        for line in path.read_text().splitlines():
            if "GPU" in line or "device:" in line:
                print(path.stem, line)


def phantom(folder: Path, name: str) -> None:
    made = make_phantom(name, (1.25, 1.25, 2.5))
    for suffix, volume in (("_l", made.label), ("", made.image)):
        write_volume(volume, folder / f"{name}{suffix}.nii.gz")


if __name__ == "__main__":
    main()
