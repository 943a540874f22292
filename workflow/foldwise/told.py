"""What the files of a running training tell: the rows of its log, and where it is within an epoch.

Neither torch nor pandas is imported: Snakemake's own process reads this, too.
"""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foldwise.experiment.paths import PULSE
from foldwise.training.attempts import Attempts

# The last epochs are the best estimate of how long the next ones will take.
RECENT = 5
Row = Mapping[str, float]


@dataclass(frozen=True)
class Told:
    """A fold's training, as its files tell.

    Attributes:
        folder: of the training with the present settings; it may be missing.
        history: rows of its attempts.
        rows: of its log, one an epoch; undefined values are left out.
        pulse: `what` (steps, or cases of a validation) is `done` of how many in which `epoch`; empty if
            that epoch is over.
    """

    folder: Path
    history: Sequence[Mapping[str, Any]]
    rows: Sequence[Row]
    pulse: Mapping[str, Any]


def told_in(state: Path) -> Told:
    """What the last training in a fold's folder of trainings tells."""
    history = Attempts(state / "attempts.jsonl", 1).rows()
    folder = state / history[-1].get("fingerprint", "") if history else state
    rows, pulse = rows_of(folder / "log.csv"), {}
    with suppress(OSError, ValueError):
        found = json.loads((folder / PULSE).read_text(encoding="utf-8"))
        if isinstance(found, dict) and found.get("epoch") == len(rows) + 1:
            pulse = found
    return Told(folder, history, rows, pulse)


def rows_of(path: Path) -> list[Row]:
    """The rows of a training's log; none if there is none."""
    with suppress(OSError, ValueError), path.open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    return []


def seconds_left(told: Told, epochs: int) -> float | None:
    """How long the rest of a training is expected to take, in s; None: not known yet.

    Args:
        told: of the training.
        epochs: of the whole training.
    """
    rows, pulse = told.rows, told.pulse
    within = pulse.get("done", 0) / pulse["of"] if pulse.get("what") == "steps" else float(bool(pulse))
    if not rows:
        each = pulse.get("step_seconds")
        return None if each is None else each * pulse["of"] * (epochs - within)
    steps = statistics.median([row["seconds"] for row in rows][-RECENT:])
    # Only some epochs validate whole cases.
    validation = statistics.fmean(row.get("validation_seconds", 0.0) for row in rows)
    return (steps + validation) * (epochs - len(rows)) - steps * within


def duration(seconds: float) -> str:
    """Seconds, minutes, or hours, in words."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def sentence(told: Told, epochs: int) -> str | None:
    """How far a training is, in a line; None: it has told nothing yet."""
    pulse, parts = told.pulse, []
    if pulse:
        what = "step" if pulse["what"] == "steps" else "validated cases"
        parts += [f"epoch {pulse['epoch']} of {epochs}", f"{what} {pulse['done']} of {pulse['of']}"]
        parts += [f"loss {pulse['loss']:.4g}"] if "loss" in pulse else []
    elif told.rows:
        parts += [f"epoch {len(told.rows)} of {epochs}", *scores(told.rows[-1])]
    else:
        return None
    left = seconds_left(told, epochs)
    return ", ".join(
        parts if left is None or len(told.rows) == epochs else [*parts, f"{duration(left)} left"]
    )


def scores(row: Row) -> list[str]:
    """The loss, and the best known score of an epoch, in words."""
    found = [f"loss {row['loss']:.4g}"]
    whole = [name for name in row if name.startswith("val_") and name != "val_loss"]
    name = next((name for name in (*whole, "patch_dice", "val_loss") if name in row), None)
    if name is not None:
        words = name.replace("val_", "validation ").replace("_", " ").replace("dice", "Dice")
        found.append(f"{words} {row[name]:.4g}")
    return found
