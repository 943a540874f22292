"""Every system fulfils its contract with the workflow: ours, and one of another package."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import interactive_scans
import surgical_data
import ultrasound
from experiments import EXPERIMENT, ROOT, add_case
from warm import python

EXAMPLE = ROOT / "tests" / "example"


@pytest.fixture
def installed(tmp_path: Path) -> str:
    """PYTHONPATH under which the example package is found as after an installation."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    site = tmp_path / "site"
    about = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir(parents=True)
    (site / "example_signals").symlink_to(EXAMPLE / "example_signals")
    text = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (about / "METADATA").write_text(text, encoding="utf-8")
    points = project["entry-points"]["foldwise.systems"]
    lines = ["[foldwise.systems]", *(f"{name} = {value}" for name, value in points.items())]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return os.pathsep.join([str(ROOT / "workflow"), str(site)])


def signals(folder: Path) -> dict[str, Any]:
    """Slow and fast waves of different lengths, and an experiment on them."""
    random = np.random.default_rng(0)
    rows = ["case,signal,label"]
    for number in range(8):
        label = "" if number == 7 else ("slow", "fast")[number % 2]
        times = np.linspace(0, 1, 50 + 7 * number)
        wave = np.sin(2 * np.pi * (2, 9)[number % 2] * times + random.uniform(0, 6))
        np.save(folder / f"s{number}.npy", wave + random.normal(0, 0.1, len(times)))
        rows.append(f"s{number},s{number}.npy,{label}")
    (folder / "signals.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return {
        "experiment": "waves",
        "system": "signals",
        "data": {"sheet": "signals.csv", "classes": ["slow", "fast"]},
        "split": {"folds": 2, "validation": 0.5},
    }


def segmentation(folder: Path) -> dict[str, Any]:
    for number in range(5):
        add_case(folder, number, label=number < 4)
    return {"system": "segmentation", **EXPERIMENT}


def interactive(folder: Path) -> dict[str, Any]:
    segmentation(folder)
    return {
        **interactive_scans.EXPERIMENT,
        "evaluate": {"rounds": 1, "hints": ["extreme"], "export": "extreme"},
    }


def surgical(folder: Path) -> dict[str, Any]:
    sheet = surgical_data.write_operations(folder, 5, seconds=12)
    _without_last(sheet, "op4-phase.txt,op4-tool.txt", ",")
    return surgical_data.settings_of(sheet)


def clips(folder: Path) -> dict[str, Any]:
    sheet = ultrasound.write_clips(folder, cases=5)
    _without_last(sheet, "k4_0.avi,high", "k4_0.avi,")
    return ultrasound.settings_of(sheet)


def _without_last(sheet: Path, label: str, none: str) -> None:
    text = sheet.read_text(encoding="utf-8")
    assert label in text
    sheet.write_text(text.replace(label, none), encoding="utf-8")


def check(experiment: dict[str, Any], folder: Path, path: str = "") -> None:
    done = subprocess.run(
        [python(), "-m", "check_one_system", json.dumps(experiment), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": path or os.environ.get("PYTHONPATH", "")},
    )
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.slow
@pytest.mark.parametrize("data", [segmentation, interactive, surgical, clips])
def test_our_systems(data: Callable[[Path], dict[str, Any]], tmp_path: Path) -> None:
    check(data(tmp_path), tmp_path)


@pytest.mark.slow
def test_a_system_of_another_package(tmp_path: Path, installed: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    check(signals(folder), folder, installed)
