"""Forecast disk space of a finished experiment beside that of its files, by stage.

    python benchmarks/disk.py experiment.yaml

in the folder where Snakemake was called. Trainings count the models with all that lies in their folders in
state/, each file once, whatever its names. What is needed only while jobs run is not compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from foldwise.disk import of_cases, of_model
from foldwise.experiment.jobs import Jobs
from foldwise.experiment.open import open_experiment
from foldwise.experiment.outputs import all_outputs
from foldwise.settings import parse_values
from foldwise.store import Memory


def mib(paths: Iterable[Path]) -> float:
    """Space of files and of those in folders in MiB; files with several names count once."""
    sizes: dict[tuple[int, int], int] = {}
    for path in paths:
        for file in path.rglob("*") if path.is_dir() else [path]:
            if file.is_file():
                facts = file.stat()
                sizes[facts.st_dev, facts.st_ino] = facts.st_size
    return sum(sizes.values()) / 2**20


def compare(experiment: Path) -> list[tuple[str, float, float]]:
    """(stage, forecast, found), in MiB."""
    config: dict[str, Any] = parse_values(str(experiment))
    opened = open_experiment(config, main=False)
    system, settings = opened.system, opened.settings
    checked = system.check(settings, opened.sheet, deep=True, memory=Memory(None))
    jobs = Jobs(system, settings, Path(opened.paths.counts), opened.parts, checked)
    forecast = {
        stage: space.left for stage, space in of_cases(system.footprint, settings, checked.sizes).items()
    }
    for name in settings.models:
        step = jobs.step(name)
        spaces = of_model(system.footprint, settings, name, opened.sheet.cases, checked.sizes, step)
        for stage, space in spaces.items():
            forecast[stage] = forecast.get(stage, 0.0) + space.left
    paths: dict[str, list[Path]] = {}
    for made in (one for level in all_outputs(opened) for one in level):
        paths.setdefault(made.rule, []).extend(map(Path, made.paths))
    state = Path(opened.paths.experiment) / "state"
    paths.setdefault("train", []).extend(path for path in state.iterdir() if path.is_dir())
    return [(stage, expected, mib(paths.get(stage, []))) for stage, expected in forecast.items()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", type=Path, help="of a finished run")
    rows = compare(parser.parse_args().experiment)
    print("| stage | forecast (MiB) | found (MiB) | forecast / found |")
    print("|---|---|---|---|")
    total = ("total", sum(row[1] for row in rows), sum(row[2] for row in rows))
    for stage, expected, found in [*rows, total]:
        ratio = f"{expected / found:.2f}" if found else "–"
        print(f"| {stage} | {expected:.3f} | {found:.3f} | {ratio} |")


if __name__ == "__main__":
    main()
