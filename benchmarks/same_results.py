"""Whether two commits produce the same jobs, weights (bit for bit), caches, predictions, scores and exports.

    .venv/bin/python benchmarks/same_results.py <commit> <commit> [--only demo clips] [--keep folder]

Both commits are checked out and run the demo and one tiny experiment per system on the same data; then both
plan again with a changed setting. Every difference is printed, and the exit code is 1 if there
is any. Hashes in names of folders may differ. Run times, logs and provenance are not compared.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  registers the filters of the files
import numpy as np
import pandas as pd
import torch
import yaml

ROOT = Path(__file__).parents[1]
TIMES = {"seconds", "validation_seconds", "data_wait", "peak_mib", "peak_gpu_mib", "processor_s"}
COMPARED = {".pt", ".csv", ".h5", ".gz", ".txt", ".png", ".yaml", ".json", ".dcm"}
# Provenance and run times, or names of folders.
LEFT_OUT = re.compile(
    r"(^|/)(logs|benchmarks|state|parts|\.foldwise)/|provenance\.json$|(predictions|validation|ensemble)\.json$"
    r"|\.made_of\.json$|summary\.json$|lungs/[^/]*\.json$|\.snakemake_timestamp$|\.foldwise$"
)
HASH = re.compile(r"(?<=[a-z])[-=][0-9a-f]{4,16}(?=[/_.,\"]|$)")
# Changes after a finished run; the jobs that follow are compared.
CHANGES: dict[str, dict[str, Any]] = {
    "seed": {"seed": 1},
    "folds": {"split": {"folds": 2, "seed": 1}},
    "learning rate": {"models": {None: {"optimiser": {"name": "SGD", "lr": 0.01}}}},
}
TINY_LOOP = {"epochs": 2, "steps_per_epoch": 2, "batch": 2, "validate_every": 1}


def main() -> int:
    """Read the command line."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("before", help="a commit")
    arguments.add_argument("after", help="another commit; `.` for the working tree")
    arguments.add_argument("--only", nargs="+", choices=sorted(EXPERIMENTS), default=list(EXPERIMENTS))
    arguments.add_argument("--keep", type=Path, help="working folder, which is kept")
    args = arguments.parse_args()
    folder = args.keep or Path(tempfile.mkdtemp(prefix="same-results-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        sides = [_checkout(commit, folder / side) for commit, side in ((args.before, "a"), (args.after, "b"))]
        apart = 0
        for name in args.only:
            for line in _compare(name, folder, sides):
                apart += 1
                print(line, flush=True)
    finally:
        for side in ("a", "b"):
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", folder / side], check=False)
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{apart} differences" if apart else "nothing differs")
    return bool(apart)


def _checkout(commit: str, folder: Path) -> Path:
    if commit == ".":
        return ROOT
    subprocess.run(["git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", folder, commit], check=True)
    return folder


def _compare(name: str, folder: Path, sides: list[Path]) -> Iterator[str]:
    data = folder / f"{name}-data"
    if not data.exists():
        data.mkdir()
        settings = EXPERIMENTS[name](data)
        (data / "experiment.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    works = []
    for letter, checkout in zip("ab", sides, strict=True):
        work = folder / f"{name}-{letter}"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(data, work)
        works.append(work)
        print(f"{name}: {checkout}", flush=True)
    plans: list[list[Counter[str]]] = []
    for work, checkout in zip(works, sides, strict=True):
        fresh = _planned(work, checkout)
        _snakemake(work, checkout)
        plans.append([fresh, *(_planned(work, checkout, change) for change in CHANGES.values())])
    for what, first, second in zip(("", *CHANGES), *plans, strict=True):
        yield from (f"{name}: {what}: only before: {n} × {job}" for job, n in (first - second).items())
        yield from (f"{name}: {what}: only after: {n} × {job}" for job, n in (second - first).items())
    trees = [{HASH.sub("-#", path): work / path for path in _files(work)} for work in works]
    for path in sorted(trees[0].keys() ^ trees[1].keys()):
        yield f"{name}: {path}: only {'before' if path in trees[0] else 'after'}"
    compared = sorted(trees[0].keys() & trees[1].keys())
    for path in compared:
        if apart := _difference(trees[0][path], trees[1][path]):
            yield f"{name}: {path}: {apart}"
    print(f"{name}: {sum(plans[0][0].values())} jobs, {len(compared)} files compared", flush=True)


def _snakemake(work: Path, checkout: Path, *more: str, config: str = "experiment.yaml") -> str:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(checkout / "Snakefile"), *more),
            *("--profile", str(checkout / "profiles" / "local"), "--cores", "2", "--configfile", config),
        ],
        cwd=work,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout / "workflow")},
    )
    if done.returncode:
        raise SystemExit(f"{checkout}: {work.name}: exit {done.returncode}\n{done.stdout[-5000:]}")
    return done.stdout


def _planned(work: Path, checkout: Path, change: dict[str, Any] | None = None) -> Counter[str]:
    """Rule and wildcards of each job that would run."""
    settings = yaml.safe_load((work / "experiment.yaml").read_text(encoding="utf-8"))
    for section, value in (change or {}).items():
        if section == "models":
            for model in settings["models"].values():
                model |= value[None]
        else:
            settings[section] = value
    (work / "changed.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    text = _snakemake(work, checkout, "--dry-run", config="changed.yaml")
    jobs: Counter[str] = Counter()
    for block in re.split(r"\n(?=(?:local)?rule )", text)[1:]:
        wildcards = re.search(r"^    wildcards: (.*)$", block, re.MULTILINE)
        rule = block.split(":")[0].removeprefix("local")
        jobs[f"{rule} {HASH.sub('-#', wildcards[1]) if wildcards else ''}".strip()] += 1
    return jobs


def _files(work: Path) -> list[str]:
    paths = (path for path in (work / "results").rglob("*") if path.is_file() and path.suffix in COMPARED)
    names = [path.relative_to(work).as_posix() for path in paths]
    return [name for name in names if not LEFT_OUT.search(name)]


def _difference(first: Path, second: Path) -> str:
    """The difference between two files; empty if they are equal."""
    kind = first.suffix
    if kind == ".pt":
        one, two = (torch.load(path, weights_only=True)["network"] for path in (first, second))
        if one.keys() != two.keys():
            return f"other tensors: {sorted(one.keys() ^ two.keys())[:3]}"
        apart = [key for key in one if not torch.equal(one[key], two[key])]
        return f"{len(apart)} of {len(one)} tensors differ, e.g. {apart[0]}" if apart else ""
    if kind == ".h5":
        return next(iter(_hdf5_differences(first, second)), "")
    if kind == ".csv":
        tables = [pd.read_csv(path, dtype=str, keep_default_na=False) for path in (first, second)]
        tables = [table[~table.isin(TIMES).any(axis=1)].reset_index(drop=True) for table in tables]
        one, two = (table.drop(columns=[c for c in table if _left_out(str(c))]) for table in tables)
        if list(one) != list(two):
            return f"other columns: {sorted(map(str, set(one) ^ set(two)))}"
        return "" if one.equals(two) else "other values"
    texts = [path.read_bytes() for path in (first, second)]
    if kind == ".gz":
        texts = [gzip.decompress(text) for text in texts]
    if kind == ".json":
        values = [json.loads(HASH.sub("-#", text.decode()), object_hook=_compared) for text in texts]
        return "" if values[0] == values[1] else "other values"
    if kind == ".dcm":  # new identifiers each time
        return ""
    return "" if texts[0] == texts[1] else "other bytes"


def _left_out(name: str) -> bool:
    """Whether a column or key is a time, or the record of what a file was made from."""
    return name in TIMES or name.partition(":")[0] == "made_of"


def _compared(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not _left_out(name)}


def _hdf5_differences(first: Path, second: Path) -> Iterator[str]:
    with h5py.File(first, "r") as one, h5py.File(second, "r") as two:
        names: list[list[str]] = [[], []]
        for file, found in zip((one, two), names, strict=True):
            file.visit(found.append)
        if names[0] != names[1]:
            yield f"other datasets: {sorted(set(names[0]) ^ set(names[1]))[:3]}"
            return
        for name in names[0]:
            a, b = one[name], two[name]
            if isinstance(a, h5py.Dataset) and name.rsplit("/")[-1] not in TIMES:
                same = a.dtype == b.dtype and a.shape == b.shape
                if not same or np.asarray(a[()]).tobytes() != np.asarray(b[()]).tobytes():
                    yield f"dataset {name} differs"


def _demo(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    (folder / "experiments").mkdir()
    shutil.copy(ROOT / "experiments" / "phantom.csv", folder / "experiments")
    return settings


def _volumes(folder: Path, cases: int) -> None:
    from foldwise.volumes.volume import Volume, write_volume
    from synthetic import scan

    rows = ["case,group,image,label,split"]
    for number in range(cases):
        image, ball = scan(number, (24, 22, 20))
        affine = np.diag([-2.0, 2.0, 3.0, 1.0])
        write_volume(Volume(image, affine), folder / f"c{number}.nii.gz")
        write_volume(Volume(ball * np.uint8(5), affine), folder / f"c{number}_label.nii.gz")
        label = "" if number == cases - 1 else f"c{number}_label.nii.gz"
        split = "test" if number == cases - 2 else ""
        rows.append(f"c{number},c{number},c{number}.nii.gz,{label},{split}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _segmentation(folder: Path) -> dict[str, Any]:
    _volumes(folder, 6)
    network = {"name": "BasicUNet", "features": [4, 4, 8, 8, 8, 4]}
    return {
        "experiment": "tiny",
        "data": {"sheet": "cases.csv", "labels": {"ball": 5}},
        "split": {"folds": 2},
        "models": {
            "unet": {"network": network, "patch": [32, 32, 32], "training": TINY_LOOP},
            "flat": {"dimensions": "2.5d", "network": network, "patch": [32, 32, 32], "training": TINY_LOOP},
        },
        "evaluate": {"postprocess": "largest_component"},
        "export": {"probabilities": True},
    }


def _interactive(folder: Path) -> dict[str, Any]:
    _volumes(folder, 6)
    model = {
        "trunk": {"name": "resnet18", "keys": 4, "values": 8, "width": 4, "hint_width": 8},
        "size": 32,
        "intensity": {"clip": "percentiles", "scale": "zscore"},
        "training": TINY_LOOP,
        "validation_rounds": 1,
    }
    return {
        "experiment": "tiny",
        "system": "interactive",
        "data": {"sheet": "cases.csv", "labels": {"ball": 5}},
        "split": {"folds": 2},
        "models": {"vmn": model},
        "evaluate": {"rounds": 2, "hints": ["extreme", "scribble"], "export": "scribble"},
    }


def _surgical(folder: Path) -> dict[str, Any]:
    from surgical_data import data_settings, write_operations

    sheet = write_operations(folder, 5, seconds=12)
    sheet.write_text(sheet.read_text().replace("op4-phase.txt,op4-tool.txt", ","))
    network = {
        "backbone": {"name": "shufflenet_v2_x0_5"},
        "window": 3,
        "crop": [28, 36],
        "hidden": 8,
        "training": {"epochs": 3, "steps_per_epoch": 2, "batch": 2},
    }
    return {
        "experiment": "tiny",
        "system": "surgical",
        "data": {**data_settings(sheet), "sheet": sheet.name},
        "cache": {"size": [32, 40]},
        "split": {"folds": 2},
        "models": {
            "cl": {**network, "kind": "mtrcnet_cl"},
            "tecno": {"kind": "temporal", "features": "cl", "training": {"epochs": 2}},
        },
    }


def _clips(folder: Path) -> dict[str, Any]:
    from tiny_clip import save_clip
    from ultrasound import SMALL, settings_of, write_clips

    sheet = write_clips(folder, cases=6)
    lines = sheet.read_text(encoding="utf-8").split()
    unlabelled = lines[6].removesuffix("low") + ","
    lines = [lines[0] + ",split", *(f"{line}," for line in lines[1:5]), f"{lines[5]},test", unlabelled]
    sheet.write_text("\n".join(lines) + "\n", encoding="utf-8")
    save_clip(folder / "clip")
    evl = {
        **SMALL,
        "network": {"name": "EVL", "weights": "clip", "blocks": 2},
        "input": "crop",
        "features": {"views": 2},
    }
    base = settings_of(Path(sheet.name), prepare={"regions": {"method": "fan"}})
    return {**base, "models": {"small": SMALL, "evl": evl}}


EXPERIMENTS = {
    "segmentation": _segmentation,
    "interactive": _interactive,
    "surgical": _surgical,
    "clips": _clips,
    "demo": _demo,
}

if __name__ == "__main__":
    # The data come from the helpers of the tests.
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    sys.exit(main())
