"""How long Snakemake takes to build the DAG, and its peak memory, as the number of cases grows.

    python benchmarks/dag.py work/ --cases 100 1000 10000

Dry runs of five folds on synthetic cases; `parts` is the Slurm profile's way, 30 jobs for all cases, `single`
a job for each case and stage. The first call also counts the network, the second one remembers it.
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
import yaml

from foldwise.volumes.volume import Volume, write_volume

ROOT = Path(__file__).parents[1]
WAYS = {"parts": ["--set-scatter", "prepare=30"], "single": []}

# A process of its own for each call, since the peak of children is that of all that were waited for.
MEASURED = """\
import resource, subprocess, sys

done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
print(done.stdout + done.stderr)
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def main() -> None:
    """Read the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("folder", type=Path, help="folder to work in, outside of the checkout")
    made.add_argument("--cases", nargs="+", type=int, default=[100, 1000, 10000], help="numbers of cases")
    made.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS, help="how cases become jobs")
    args = made.parse_args()
    print("| cases | way | call | jobs | seconds | peak (MiB) |\n|---|---|---|---|---|---|")
    for cases in args.cases:
        for way in args.ways:
            folder = args.folder / f"{cases}-{way}"
            write_cases(folder, cases)
            for call in ("first", "second"):
                jobs, seconds, mib = dry_run(folder, WAYS[way])
                print(f"| {cases} | {way} | {call} | {jobs} | {seconds:.1f} | {mib:.0f} |", flush=True)


def write_cases(folder: Path, count: int) -> None:
    """A sheet of so many cases; all names lead to one small volume."""
    folder.mkdir(parents=True)
    for name, values in (
        ("image", np.zeros((32, 32, 32), np.int16)),
        ("label", np.ones((32, 32, 32), np.uint8)),
    ):
        write_volume(Volume(values, np.eye(4)), folder / f"{name}.nii.gz")
    rows = ["case,group,image,label"]
    for number in range(count):
        for name in ("image", "label"):
            os.link(folder / f"{name}.nii.gz", folder / f"c{number}_{name}.nii.gz")
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


def dry_run(folder: Path, more: list[str]) -> tuple[int, float, float]:
    """Jobs, seconds, and the peak memory of Snakemake and what it starts, the larger of the two, in MiB."""
    begun = time.monotonic()
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--dry-run", "--quiet"),
        *("rules", "--cores", "1", *more, "--configfile", "experiment.yaml"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *command], cwd=folder, capture_output=True, text=True, check=True
    )
    total = re.search(r"^total +(\d+)", done.stdout, re.MULTILINE)
    if total is None:
        raise SystemExit(done.stdout)
    peak = int(done.stdout.rsplit("peak ", 1)[1]) / 1024
    return int(total.group(1)), time.monotonic() - begun, peak


if __name__ == "__main__":
    main()
