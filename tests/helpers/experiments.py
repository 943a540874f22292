"""Tiny experiments on volumes, and Snakemake calls on them: whole runs, and dry runs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from foldwise.experiment.open import Opened
from foldwise.experiment.parts import Parts
from foldwise.experiment.paths import Paths
from foldwise.settings import validate
from foldwise.sheet import Sheet
from foldwise.store import Memory
from foldwise.systems import system_of
from foldwise.volumes.volume import Volume, write_volume
from synthetic import scan
from warm import python

ROOT = Path(__file__).parents[2]
# A file's name with everything that has a meaning for shells or Snakemake.
NAME = """ü's "q" [1] (2) & ; #%*?~ $(touch X) `touch X` '$(touch X)'"""
TINY = {
    "network": {"name": "BasicUNet", "features": [4, 4, 8, 8, 8, 4]},
    "patch": [32, 32, 32],
    "training": {
        "epochs": 1,
        "steps_per_epoch": 2,
        "batch": 1,
        "validate_every": 1,
        "validation": {"samples": 2},
    },
}
EXPERIMENT: dict[str, Any] = {
    "experiment": "tiny",
    "data": {"sheet": "cases.csv", "labels": {"ball": 5}},
    "split": {"folds": 2},
    "models": {"unet": TINY},
    "evaluate": {"postprocess": "largest_component"},
    "export": {"probabilities": True},
}


def add_case(folder: Path, number: int, label: bool = True, split: str = "") -> None:
    image, ball = scan(number, (24, 22, 20))
    affine = np.diag([-2.0, 2.0, 3.0, 1.0])  # stored leftwards
    write_volume(Volume(image, affine), folder / f"c{number}.nii.gz")
    write_volume(Volume(ball * np.uint8(5), affine), folder / f"c{number}_label.nii.gz")
    sheet = folder / "cases.csv"
    rows = sheet.read_text(encoding="utf-8") if sheet.exists() else "case,group,image,label,split\n"
    name = f"c{number}"
    rows += f"{name},{name},{name}.nii.gz,{f'{name}_label.nii.gz' if label else ''},{split}\n"
    sheet.write_text(rows)


def command(folder: Path, experiment: dict[str, Any], *more: str) -> list[str]:
    """Write the experiment, and return the call of Snakemake, to be run in the folder."""
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    return [
        *(python(), "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
        # Targets first: --configfile takes all names that follow it.
        *more,
        *("--profile", str(ROOT / "profiles" / "local"), "--cores", "1"),
        *("--configfile", "experiment.yaml"),
    ]


def snakemake(folder: Path, experiment: dict[str, Any], *more: str, check: bool = True) -> str:
    call = command(folder, experiment, *more)
    done = subprocess.run(call, cwd=folder, capture_output=True, encoding="utf-8")
    text = done.stdout + done.stderr
    assert not check or done.returncode == 0, text[-5000:]
    return text


def planned(folder: Path, experiment: dict[str, Any], *more: str) -> dict[str, int]:
    """Rule → number of jobs in a dry run."""
    table = re.findall(r"^(\w+) +(\d+)$", snakemake(folder, experiment, "--dry-run", *more), re.MULTILINE)
    return {rule: int(count) for rule, count in table if rule not in ("total", "all")}


def unread(**sections: object) -> Opened[Any, Any]:
    """An experiment whose sheet and files are not read; of the system segmentation by default."""
    values = {"experiment": "x", "data": {"sheet": "cases.csv"}, **sections}
    system = system_of(str(values.get("system", "segmentation")))
    settings, sheet = validate(system.settings, values), Sheet[Any]((), ())
    preparation = system.preparation(settings, sheet)
    parts = Parts(preparation)
    return Opened(
        system, settings, settings, sheet, None, Paths.of(settings), preparation, parts, Memory(None)
    )
