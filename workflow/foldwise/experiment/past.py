"""How long past jobs of an experiment took, compared with what was expected of them."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

# Jobs of a rule that are looked at, evenly spread: each is a file.
LOOKED_AT = 20
# Limits of the ratio: a job that continued another one took little time, and one may have waited for a disk.
LEAST, MOST = 0.3, 30.0


class Past:
    """Snakemake's benchmarks and the logs of trainings, as ratios to the expected times."""

    def __init__(self, folders: Sequence[Path], models: Path) -> None:
        """Name the places.

        Args:
            folders: of benchmarks; each holds a folder with a table per job for each rule.
            models: holds a folder for each model, with its folds.
        """
        self._folders, self._models = folders, models
        self._ratios: dict[str, float | None] = {}  # thousands of jobs ask

    def ratio(self, rule: str, expected: Callable[[str], float | None]) -> float | None:
        """The largest ratio of a job's time to the expected one; None without any past job.

        Args:
            rule: name of the rule.
            expected: function from the name of a job's table to the expected time, in s; None: not known.
        """
        if rule not in self._ratios:
            found = []
            for path in self._tables(rule):
                seconds, wanted = _seconds(path), expected(path.stem)
                if seconds is not None and wanted:
                    found.append(seconds / wanted)
            self._ratios[rule] = min(MOST, max(LEAST, *found)) if found else None
        return self._ratios[rule]

    def step_seconds(self, model: str) -> float | None:
        """The longest mean time of a training step in any fold of a model, in s; None before training."""
        found = []
        for path in sorted(self._models.glob(f"{model}/fold*/log.csv")):
            with suppress(OSError, ValueError, KeyError), path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
                found.append(sum(float(row["seconds"]) for row in rows) / float(rows[-1]["step"]))
        return max(found, default=None)

    def _tables(self, rule: str) -> list[Path]:
        paths: list[Path] = []
        for folder in self._folders:
            with suppress(OSError), os.scandir(folder / rule) as entries:
                paths += sorted(Path(entry.path) for entry in entries if entry.name.endswith(".tsv"))
        return paths[:: max(1, len(paths) // LOOKED_AT)]


def _seconds(path: Path) -> float | None:
    with (
        suppress(OSError, ValueError, KeyError, StopIteration),
        path.open(encoding="utf-8", newline="") as file,
    ):
        return float(next(csv.DictReader(file, delimiter="\t"))["s"])
    return None
