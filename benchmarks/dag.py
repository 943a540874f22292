"""How long Snakemake takes to build the DAG, and its peak memory, as the number of cases grows.

    python benchmarks/dag.py work/ --cases 100 1000 10000

Dry runs of five folds on synthetic cases; `parts` is the Slurm profile's method, 30 jobs for all cases,
`single` a job for each case and stage. The first call also counts the network, the second one reads the
count.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import yaml

from foldwise.training.memory import peak_of
from foldwise.volumes.volume import Volume, write_volume

ROOT = Path(__file__).parents[1]
WAYS = {"parts": ["--set-scatter", "prepare=30"], "single": []}


def main() -> None:
    """Read the command line."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("folder", type=Path, help="folder to work in, outside the checkout")
    arguments.add_argument(
        "--cases", nargs="+", type=int, default=[100, 1000, 10000], help="numbers of cases"
    )
    arguments.add_argument(
        "--ways", nargs="+", default=list(WAYS), choices=WAYS, help="how cases become jobs"
    )
    args = arguments.parse_args()
    columns = ("cases", "way", "call", "jobs", "seconds", "Snakemake (MiB)", "counting (MiB)")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for cases in args.cases:
        for way in args.ways:
            folder = args.folder / f"{cases}-{way}"
            write_cases(folder, cases)
            for call in ("first", "second"):
                jobs, seconds, own, other = dry_run(folder, WAYS[way])
                row = (cases, way, call, jobs, f"{seconds:.1f}", f"{own:.0f}", f"{other:.0f}")
                print(f"| {' | '.join(map(str, row))} |", flush=True)


def write_cases(folder: Path, count: int) -> None:
    """A sheet with this many cases, each with a small volume of its own."""
    folder.mkdir(parents=True)
    write_volume(Volume(np.ones((16, 16, 16), np.uint8), np.eye(4)), folder / "label.nii.gz")
    rows = ["case,group,image,label"]
    for number in range(count):
        # Two patients with the same scan would be refused.
        image = Volume(np.full((16, 16, 16), number, np.int16), np.eye(4))
        write_volume(image, folder / f"c{number}_image.nii.gz")
        os.link(folder / "label.nii.gz", folder / f"c{number}_label.nii.gz")
        rows.append(f"c{number},c{number},c{number}_image.nii.gz,c{number}_label.nii.gz")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    model = {"network": {"name": "BasicUNet"}, "patch": [32, 32, 32]}
    experiment = {
        "experiment": "dag",
        "data": {"sheet": "cases.csv", "labels": {"all": 1}},
        "split": {"folds": 5},
        "models": {"unet": model},
    }
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment), encoding="utf-8")


def dry_run(folder: Path, more: list[str]) -> tuple[int, float, float, float]:
    """Jobs, seconds, and the peak memory in MiB of Snakemake and of the process that counts the network."""
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--dry-run", "--quiet"),
        *("rules", "--cores", "1", *more, "--configfile", "experiment.yaml"),
    ]
    begun = time.monotonic()
    own = other = 0.0
    with (folder / "log").open("w+") as log:
        process = psutil.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:
            time.sleep(0.1)
            # The kernel's peak, so that a short one between two samples is not missed.
            own = max(own, peak_of(process))
            children = process.children() if process.is_running() else []
            other = max([other, *(peak_of(child) for child in children)])
        seconds = time.monotonic() - begun
        log.seek(0)
        said = log.read()
    total = re.search(r"^total +(\d+)", said, re.MULTILINE)
    if total is None:
        raise SystemExit(said)
    return int(total.group(1)), seconds, own, other


if __name__ == "__main__":
    main()
