"""A thousand full-size scans through every stage: what each job needs, and what it asks for.

    python benchmarks/scale.py stages work/        one full-size CT through every stage, times 1,000
    python benchmarks/scale.py cluster work/       1,000 small cases on a throwaway Slurm cluster

`stages` runs the real workflow on five generated CTs of 512×512×400 voxels with the shipped lung experiment,
but a minimal network and two training steps, and measures every process: processor time, peak memory, and
the bytes that it leaves. Its table compares each job of 1,000 such cases under the Slurm profile with what
it requests: predicting without the time that a real network takes on a GPU, scoring at its worst, since a
network that has learnt nothing finds noise everywhere.

`cluster` runs all stages to the report. Ten jobs are killed on the way, and the main Snakemake once. It
counts jobs and what was done twice, and compares caches and label indices with those of an undisturbed run of
50 of the cases.

`python benchmarks/dag.py work/ --cases 10000` plans 10,000 cases.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import chdir
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  registers the filters of the files
import numpy as np
import pandas as pd
import yaml
from tabulate import tabulate

from foldwise.check import Checked
from foldwise.experiment.jobs import PART_THREADS, SCORED, Jobs
from foldwise.experiment.open import Opened, open_experiment
from foldwise.experiment.parts import Parts
from foldwise.experiment.past import Past
from foldwise.experiment.times import Times
from foldwise.files import short_hash
from foldwise.index import Index
from foldwise.volumes.phantom import make_phantom
from foldwise.volumes.size import Size
from foldwise.volumes.volume import Volume, write_volume

ROOT = Path(__file__).parents[1]
CASES = 1000
# Of them, those without a label.
OTHERS = 100
PARTS = 30
FOLDS = 5
# In a folder on PYTHONPATH: every process of a stage reports what it used.
REPORTER = """\
import atexit
import json
import os
import resource
import sys
import time

stage = next((word for word in sys.orig_argv if word.startswith("foldwise.stages.")), None)
begun = time.monotonic()


def report():
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu = own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime
    words = dict(word[2:].split("=", 1) for word in sys.orig_argv if word.startswith("--") and "=" in word)
    mib = max(own.ru_maxrss, others.ru_maxrss) / 1024
    facts = {"stage": stage.rsplit(".", 1)[1], "cpu": cpu, "wall": time.monotonic() - begun, "mib": mib}
    facts |= {key: words.get(key, "") for key in ("case", "scores", "predictions")}
    with open(os.environ["SCALE_REPORT"], "a") as file:
        file.write(json.dumps(facts) + "\\n")


if stage:
    atexit.register(report)
"""


def main() -> None:
    """Read the command line."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("what", choices=("stages", "cluster"))
    arguments.add_argument("folder", type=Path, help="folder to work in, outside the checkout")
    arguments.add_argument("--cases", type=int, default=CASES, help="number of small cases")
    arguments.add_argument("--kills", type=int, default=10, help="jobs to kill")
    arguments.add_argument("--seed", type=int, default=0, help="of the kills")
    args = arguments.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    folder = args.folder.resolve()
    stages(folder) if args.what == "stages" else cluster(folder, args.cases, args.kills, args.seed)


# One full-size CT.


def stages(folder: Path) -> None:
    """Print a row for each rule."""
    experiment = full_size(folder)
    report = folder / "report.jsonl"
    report.unlink(missing_ok=True)
    shim = folder / "shim"
    shim.mkdir(exist_ok=True)
    (shim / "sitecustomize.py").write_text(REPORTER)
    environment = {**os.environ, "SCALE_REPORT": str(report), "PYTHONPATH": str(shim)}
    with (folder / "snakemake.log").open("w") as log:
        subprocess.run(
            [
                *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "1"),
                *("--configfile", "experiment.yaml"),
            ],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
        )
    used = pd.DataFrame([json.loads(line) for line in report.read_text().splitlines()])
    with chdir(folder):
        opened = open_experiment(experiment, main=True)
    print(tabulate(table(opened, used), headers="keys", floatfmt=".1f", tablefmt="github"))
    print(tabulate(sizes(folder / "results", len(opened.cases)), headers="keys", floatfmt=".1f"))


def full_size(folder: Path) -> dict[str, Any]:
    """Four labelled CTs of 512×512×400 voxels and one without a label, with the shipped settings."""
    rows = ["case,group,image,label"]
    for number in range(1, 6):
        name = f"p{number:02d}"
        if not (folder / f"{name}.nii.gz").exists():
            phantom = make_phantom(name, (0.7, 0.7, 0.75))
            for suffix, volume in (("_l", phantom.label), ("", phantom.image)):
                write_volume(fitted(volume, (512, 512, 400)), folder / f"{name}{suffix}.nii.gz")
        rows.append(f"{name},{name},{name}.nii.gz,{f'{name}_l.nii.gz' if number < 5 else ''}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    values: dict[str, Any] = yaml.safe_load((ROOT / "experiments" / "lung.yaml").read_text())
    values["data"]["sheet"] = "cases.csv"
    values["split"] = {"folds": 2, "validation": 0.2}
    values["models"]["unet"]["network"]["features"] = [2, 2, 2, 2, 2, 2]
    values["models"]["unet"]["training"] = {"epochs": 1, "steps_per_epoch": 2, "batch": 2}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(values))
    return values


def fitted(volume: Volume, shape: tuple[int, int, int]) -> Volume:
    """A volume of this shape along RAS axes, cut or continued by its edge."""
    turned = volume.oriented("RAS")
    data = turned.data[tuple(slice(0, n) for n in shape)]
    edges = [(0, n - have) for n, have in zip(shape, data.shape, strict=True)]
    return Volume(np.pad(data, edges, mode="edge"), turned.affine)


def table(opened: Opened[Any, Any], used: pd.DataFrame) -> list[dict[str, Any]]:
    """For each rule: one case's needs, the work of a job of 1,000 cases, and what it requests."""
    jobs, times = at_scale(opened)
    held_out = (CASES - OTHERS) // FOLDS
    # Cases of a job of 1,000 cases, of those that were measured, and the name for its requests.
    part = ceil(CASES / PARTS)
    each = {
        "lung_mask": (1, 1, "c0"),
        "crop": (1, 1, "c0"),
        "cache": (1, 1, "c0"),
        "check": (CASES, 5, ""),
        "index": (CASES, 4, ""),
        "test": (held_out, 2, "unet"),
        # Of five models; two were measured.
        "ensemble": (OTHERS * FOLDS, 2, "unet"),
        "score": (SCORED, 2, ""),
        "metrics": (held_out, 2, ""),
        "export": (held_out, 2, ""),
        "report": (CASES, 5, ""),
    }
    rows = []
    for stage, (count, measured, which) in each.items():
        mine = used[used["stage"] == stage]
        minutes = mine["cpu"].max() / measured * count / 60
        asked = times.minutes(stage, which)
        rows.append(row(stage, mine, measured, minutes, asked, jobs.mib(stage, which)))
    whole = used[used["stage"].isin(opened.preparation.stages)].groupby("stage")["cpu"].max().sum()
    name = next(name for name in (f"training_{n}of{PARTS}" for n in range(PARTS)) if times._parts.cases(name))
    minutes = whole * part / PART_THREADS / 60
    largest = used[used["stage"].isin(opened.preparation.stages)]
    folder = Path(opened.preparation.caches).name
    asked = times.minutes("prepare_part", f"{folder}_{name}")
    rows.append(row("prepare_part", largest, 1, minutes, asked, jobs.part_mib(folder, name, 1)))
    return rows


def row(rule: str, used: pd.DataFrame, measured: int, minutes: float, asked: int, mib: int) -> dict[str, Any]:
    """A row of the table."""
    return {
        "rule": rule,
        "CPU s a case": used["cpu"].max() / measured,
        "job of 1,000 (min)": minutes,
        "requested (min)": asked,
        "share": minutes / asked,
        "peak (MiB)": used["mib"].max(),
        "requested (MiB)": mib,
    }


def at_scale(opened: Opened[Any, Any]) -> tuple[Jobs[Any, Any], Times[Any, Any]]:
    """Requests of an experiment with 1,000 such cases, without measurements of past jobs."""
    preparation = opened.system.preparation(opened.settings, opened.sheet)
    first = opened.training[0]
    names = [f"c{n}" for n in range(CASES)]
    preparation.cases = {
        name: replace(first, name=name, group=name, label=None if n < OTHERS else first.label)
        for n, name in enumerate(names)
    }
    settings = opened.settings.model_copy(
        update={"split": opened.settings.split.model_copy(update={"folds": FOLDS})}
    )
    size = Size((512, 512, 400), (0.7, 0.7, 0.75), 1, True)
    parts, checked = Parts(preparation, PARTS), Checked((), (), dict.fromkeys(names, size), {})
    jobs = Jobs(opened.system, settings, Path(opened.paths.counts), parts, checked)
    return jobs, Times(opened.system, settings, parts, jobs, Past([], Path("none")), lambda: 0)


def sizes(results: Path, cases: int) -> list[dict[str, Any]]:
    """MiB of each kind of file, for a case."""
    kinds: Counter[str] = Counter()
    for path in results.rglob("*"):
        if path.is_file():
            parts = path.relative_to(results).parts
            kind = parts[2] if parts[0] == "data" else "/".join(parts[1:-1])
            kinds[re.sub(r"-[0-9a-f]{4,}|fold\d+|/p\d\d", "", kind)] += path.stat().st_size
    return [{"kind": kind, "MiB a case": size / cases / 2**20} for kind, size in kinds.most_common()]


# Many small ones.


def cluster(folder: Path, count: int, kills: int, seed: int) -> None:
    """Run everything on a throwaway cluster, kill jobs on the way, and compare."""
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    import slurm_cluster

    values = small(folder, count)
    alone = folder / "alone"
    few = small(alone, min(50, count))
    with slurm_cluster.cluster(folder) as slurm:
        begun = time.monotonic()
        killed = disturbed(folder, slurm, kills, random.Random(seed))
        wall = time.monotonic() - begun
        fields = ["JobID", "State", "Comment", "ElapsedRaw", "CPUTimeRAW"]
        table = pd.DataFrame(slurm.sacct(fields))
        undisturbed = subprocess.run(call(), cwd=alone, env=slurm.env, capture_output=True, encoding="utf-8")
        if undisturbed.returncode:
            raise SystemExit(undisturbed.stderr[-3000:])
    table["rule"] = table["Comment"].str.extract(r"rule_(\w+?)(?:_wildcards|$)", expand=False)
    print(tabulate(by_rule(table), headers="keys", tablefmt="github"))
    print(f"{len(table)} jobs, {wall / 60:.1f} min, {killed} jobs and the main Snakemake killed once")
    print(f"cases of both runs whose caches differ: {apart(folder, alone, values, few)}")
    left = subprocess.run([*call(), "--dry-run"], cwd=folder, capture_output=True, encoding="utf-8")
    print(
        "nothing is left to do" if "Nothing to be done" in left.stdout + left.stderr else left.stdout[-2000:]
    )


def small(folder: Path, count: int) -> dict[str, Any]:
    """Small volumes with a ball each, every tenth without a label, and an experiment of five folds."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["case,group,image,label"]
    grid = np.indices((24, 24, 24))
    for number in range(count):
        source, name = np.random.default_rng(number), f"c{number:04d}"
        centre, radius = source.uniform(8, 16, 3), source.uniform(3, 5)
        ball = sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= radius**2
        image = source.normal(-800, 60, ball.shape)
        image[ball] += 800
        write_volume(Volume(image.astype(np.int16), np.eye(4)), folder / f"{name}.nii.gz")
        write_volume(Volume(ball.astype(np.uint8), np.eye(4)), folder / f"{name}_l.nii.gz")
        rows.append(f"{name},{name},{name}.nii.gz,{'' if number % 10 == 9 else f'{name}_l.nii.gz'}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    training = {"epochs": 2, "steps_per_epoch": 10, "batch": 2, "validate_every": 1}
    network = {"name": "UNet", "channels": [4, 8, 16], "strides": [2, 2]}
    values = {
        "experiment": "scale",
        "data": {"sheet": "cases.csv", "labels": {"ball": 1}},
        "split": {"folds": 5},
        "models": {"unet": {"network": network, "patch": [16, 16, 16], "training": training}},
        "evaluate": {"postprocess": "largest_component"},
    }
    (folder / "experiment.yaml").write_text(yaml.safe_dump(values))
    return values


def call() -> list[str]:
    """Snakemake with the shipped profile; jobs take seconds, so they are looked at more often."""
    return [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
        *("--profile", str(ROOT / "profiles" / "slurm"), "--configfile", "experiment.yaml"),
        *("--slurm-init-seconds-before-status-checks=6", "--max-status-checks-per-second=1"),
        *("--latency-wait", "10"),
    ]


def disturbed(folder: Path, slurm: Any, kills: int, chance: random.Random) -> int:
    """Call Snakemake until all is done; returns the number of jobs that were killed."""
    killed, main_killed, tries = 0, False, 0
    while tries < 5:
        tries += 1
        with (folder / "snakemake.log").open("a") as log:
            process = subprocess.Popen(
                call(),
                cwd=folder,
                env=slurm.env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while process.poll() is None:
            time.sleep(chance.uniform(10, 40))
            running = slurm.run("squeue", "--noheader", "--states=RUNNING", "--format=%i").split()
            if running and killed < kills:
                slurm.run("scancel", "--signal=KILL", "--full", chance.choice(running))
                killed += 1
            if not main_killed and killed >= kills // 2:
                os.killpg(process.pid, signal.SIGKILL)
                main_killed = True
                process.wait()
                unlock(folder, slurm)
        if process.returncode == 0:
            return killed
    raise SystemExit((folder / "snakemake.log").read_text()[-3000:])


def unlock(folder: Path, slurm: Any) -> None:
    """After the main Snakemake was killed, its jobs go on; the next call waits for them to end."""
    while slurm.run("squeue", "--noheader").strip():
        time.sleep(2)
    subprocess.run([*call(), "--unlock"], cwd=folder, env=slurm.env, capture_output=True, check=True)


def by_rule(jobs: pd.DataFrame) -> pd.DataFrame:
    """Jobs, those that did not complete, and their time, for each rule."""
    done = jobs["State"].eq("COMPLETED")
    seconds = jobs["ElapsedRaw"].astype(float)
    grouped = jobs.assign(failed=~done, minutes=seconds / 60).groupby("rule")
    return grouped.agg(jobs=("JobID", "size"), failed=("failed", "sum"), minutes=("minutes", "sum")).round(1)


def apart(folder: Path, other: Path, *both: dict[str, Any]) -> list[str]:
    """Cases of both runs whose caches differ in any array, or whose entries in the index do."""
    opened = []
    for place, values in zip((folder, other), both, strict=True):
        with chdir(place):
            opened.append(open_experiment(values, main=False))
    first, second = (
        Index.read(place / one.paths.index) for place, one in zip((folder, other), opened, strict=True)
    )
    names = [entry.case for entry in second.entries]
    found = []
    for case in names:
        caches = [
            place / one.preparation.cached.format(case=case)
            for place, one in zip((folder, other), opened, strict=True)
        ]
        same = contents(caches[0]) == contents(caches[1]) and first[case].facts == second[case].facts
        found += [] if same else [case]
    return found


def contents(path: Path) -> list[str]:
    """A hash of each array."""
    found: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found.append(short_hash([name, item[()].tobytes().hex()]))

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


if __name__ == "__main__":
    main()
