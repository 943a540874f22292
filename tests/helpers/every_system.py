"""Tiny data and settings of every system: ours, and that of tests/example as if it was installed."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import interactive_scans
import surgical_data
import ultrasound
from experiments import EXPERIMENT, ROOT, add_case
from foldwise import systems

EXAMPLE = ROOT / "tests" / "example"
CLASSES = ("slow", "fast")


def installed(site: Path) -> str:
    """PYTHONPATH under which the example package is found; `site` is the folder to install it into."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    about = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir(parents=True)
    (site / "example_signals").symlink_to(EXAMPLE / "example_signals")
    text = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (about / "METADATA").write_text(text, encoding="utf-8")
    points = project["entry-points"]["foldwise.systems"]
    lines = ["[foldwise.systems]", *(f"{name} = {value}" for name, value in points.items())]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return os.pathsep.join([str(ROOT / "workflow"), str(site)])


@contextmanager
def installed_here(site: Path) -> Iterator[None]:
    """The same for this process, too, and those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", installed(site))
        patch.syspath_prepend(site)
        _forget_systems()
        yield
    _forget_systems()


def _forget_systems() -> None:
    systems._found.cache_clear()
    systems.system_of.cache_clear()


def write_wave(path: Path, number: int) -> None:
    """A noisy wave: slow if its number is even, fast if it is odd; all have different lengths and phases."""
    random = np.random.default_rng(number)
    times = np.linspace(0, 1, 50 + 7 * number)
    wave = np.sin(2 * np.pi * (2, 9)[number % 2] * times + random.uniform(0, 6))
    np.save(path, wave + random.normal(0, 0.1, len(times)))


def signals(folder: Path, cases: int = 8) -> dict[str, Any]:
    """Waves s0, s1, …, the last one without a class, and an experiment on them."""
    rows = ["case,group,signal,label"]
    for number in range(cases):
        write_wave(folder / f"s{number}.npy", number)
        label = "" if number == cases - 1 else CLASSES[number % 2]
        rows.append(f"s{number},s{number},s{number}.npy,{label}")
    (folder / "signals.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return {
        "experiment": "waves",
        "system": "signals",
        "data": {"sheet": "signals.csv", "classes": list(CLASSES)},
        "split": {"folds": 2, "validation": 0.5},
    }


def segmentation(folder: Path) -> dict[str, Any]:
    """Scans with balls, the last one without a label."""
    for number in range(5):
        add_case(folder, number, label=number < 4)
    return {"system": "segmentation", **EXPERIMENT}


def interactive(folder: Path) -> dict[str, Any]:
    """The same scans."""
    segmentation(folder)
    return {
        **interactive_scans.EXPERIMENT,
        "evaluate": {"rounds": 1, "hints": ["extreme"], "export": "extreme"},
    }


def surgical(folder: Path) -> dict[str, Any]:
    """Operations, the last one without annotation."""
    sheet = surgical_data.write_operations(folder, 5, seconds=12)
    _without_last(sheet, "op4-phase.txt,op4-tool.txt", ",")
    return surgical_data.settings_of(sheet)


def clips(folder: Path) -> dict[str, Any]:
    """Clips, the last one without a class."""
    sheet = ultrasound.write_clips(folder, cases=5)
    _without_last(sheet, "k4_0.avi,high", "k4_0.avi,")
    return ultrasound.settings_of(sheet)


def _without_last(sheet: Path, label: str, none: str) -> None:
    text = sheet.read_text(encoding="utf-8")
    assert label in text
    sheet.write_text(text.replace(label, none), encoding="utf-8")
