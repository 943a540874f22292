"""Forecast and measured peak memory of training and testing, and whether it grows with the number of cases.

    python benchmarks/memory.py --folder /scratch/memory

Experiments on generated volumes: patches of a CT, whole brains of four channels with overlapping regions, a
planned network with deep supervision, and slices. Each is prepared by the workflow, then one fold is trained
for a few steps and tested, each in a separate process with monitored memory (on a CPU: what a step keeps
is in main memory).
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from foldwise.volumes.volume import Volume, write_volume
from watch import run

ROOT = Path(__file__).parents[1]
TRAINING = {"epochs": 2, "steps_per_epoch": 4, "validate_every": 1}
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "patches": {
        "shape": (192, 192, 128),
        "models": {"unet": {"patch": [96, 96, 96], "training": TRAINING}},
    },
    "regions": {
        "shape": (120, 130, 100),
        "channels": 4,
        "regions": {"outer": ["a", "b"], "inner": ["b"]},
        "cache": {"shape": [96, 96, 96]},
        "models": {
            "unet": {
                "network": {"name": "SegResNet", "init_filters": 16},
                "patch": [96, 96, 96],
                "intensity": {"clip": None, "scale": "zscore"},
                "training": {**TRAINING, "batch": 1},
            }
        },
    },
    "planned": {
        "shape": (128, 128, 96),
        "plan": {"memory": 3},
        "models": {"unet": {"training": TRAINING}},
    },
    "slices": {
        "shape": (256, 256, 40),
        "models": {
            "unet": {
                "network": {"name": "BasicUNet", "features": [32, 32, 64, 128, 256, 32]},
                "dimensions": "2.5d",
                "patch": [256, 256, 1],
                "training": {**TRAINING, "batch": 8},
            }
        },
    },
}


def make(folder: Path, name: str, cases: int) -> Path:
    """Write volumes, a sheet and an experiment."""
    about = dict(EXPERIMENTS[name])
    shape, channels = about.pop("shape"), about.pop("channels", 1)
    columns = [f"image_{c}" for c in range(channels)] if channels > 1 else ["image"]
    rows = [",".join(["case", "group", *columns, "label"])]
    for case in range(cases):
        random = np.random.default_rng(case)
        files = []
        for channel in columns:
            files.append(f"c{case}_{channel}.nii.gz")
            image = random.integers(-1000, 500, shape).astype(np.int16)
            write_volume(Volume(image, np.diag([1.0, 1.0, 2.0, 1.0])), folder / files[-1])
        label = np.zeros(shape, np.uint8)
        label[20:60, 20:60, 10:30] = 1
        label[30:50, 30:50, 15:25] = 2
        write_volume(Volume(label, np.diag([1.0, 1.0, 2.0, 1.0])), folder / f"c{case}_label.nii.gz")
        rows.append(",".join([f"c{case}", f"c{case}", *files, f"c{case}_label.nii.gz"]))
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    data = {
        "sheet": str(folder / "cases.csv"),
        "labels": {"a": 1, "b": 2},
        "regions": about.pop("regions", {}),
    }
    values = {
        "experiment": name,
        "results": str(folder / "results"),
        "data": data,
        "split": {"folds": 2},
        **about,
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def measure(folder: Path, name: str, cases: int) -> dict[str, tuple[float, float]]:
    """Stage → forecast and peak in MiB of one fold."""
    folder.mkdir(parents=True, exist_ok=True)
    experiment = make(folder, name, cases)
    results = folder / "results" / name
    fold_folder = results / "unet" / "fold0"
    snakemake = [sys.executable, "-m", "snakemake", "--cores", "2", "--directory", str(ROOT)]
    common = ["--configfile", str(experiment), "--nolock"]
    # The plan is written along with the caches; requesting it as well triggers a bug of Snakemake 9.27.
    rules = ["check", "cache", "index"]
    wanted = [str(results / "check.json"), str(fold_folder / "metrics.csv")]
    run([*snakemake, *wanted, *common, "--until", *rules], folder / "prepare.log")
    commands = shell_commands([*snakemake, str(fold_folder / "metrics.csv"), *common])
    forecast = json.loads((results / "check.json").read_text())["models_mib"]["unet"]
    if (results / "plan.yaml").exists():
        # The check ran before the plan; the jobs' requests use the plan.
        forecast = planned_forecast(experiment)
    (fold_folder / "export").mkdir(parents=True, exist_ok=True)
    return {
        stage: (forecast[stage], run(["bash", "-c", commands[stage]], folder / f"{stage}.log")[1])
        for stage in ("train", "test")
    }


def shell_commands(snakemake: list[str]) -> dict[str, str]:
    """The commands that the workflow would run for training and testing."""
    done = subprocess.run([*snakemake, "-n", "-p"], capture_output=True, encoding="utf-8", check=True)
    lines = [line for line in done.stdout.splitlines() if "foldwise.stages." in line]
    # The output goes to our log instead of the rule's.
    plain = [line[line.index("python -m") :].rsplit(" > ", 1)[0] for line in lines]
    package, programs = (shlex.quote(str(p)) for p in (ROOT / "workflow", Path(sys.executable).parent))
    path = f"export PYTHONPATH={package} PATH={programs}:$PATH"
    return {line.split("foldwise.stages.")[1].split()[0]: f"{path}; {line}" for line in plain}


def planned_forecast(experiment: Path) -> dict[str, int]:
    from foldwise.front_door import front_door

    opened = front_door(yaml.safe_load(experiment.read_text()), main=True)
    return {stage: round(opened.jobs.peak(stage, "unet")) for stage in ("train", "test")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="folder for all files")
    parser.add_argument("--experiments", nargs="+", default=list(EXPERIMENTS), choices=list(EXPERIMENTS))
    parser.add_argument("--cases", type=int, nargs="+", default=[6], help="numbers of cases")
    args = parser.parse_args()
    print("| experiment | cases | stage | forecast (MiB) | peak (MiB) | forecast / peak |")
    print("|---|---|---|---|---|---|")
    for name in args.experiments:
        for cases in args.cases:
            for stage, (forecast, peak) in measure(args.folder / f"{name}{cases}", name, cases).items():
                ratio = forecast / peak
                print(f"| {name} | {cases} | {stage} | {forecast} | {peak:.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
