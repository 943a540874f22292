"""How far an experiment is: its cases and folds, read from what its jobs left behind.

    python -m foldwise.status experiments/lung.yaml

Nothing is computed and nothing is changed; call it as often as you like, from where Snakemake was called.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from snakemake.utils import update_config

from foldwise.command import run
from foldwise.files import CaseError, read_json
from foldwise.layout import Layout
from foldwise.processes import output_of
from foldwise.settings import parse_values
from foldwise.systems import part, system_of
from foldwise.training.attempts import Attempts

COLUMNS = ("model", "fold", "training", "epoch", "loss", "score", "left", "testing", "job")
# The last epochs tell best how long the next ones will take.
RECENT = 5


@dataclass(frozen=True)
class Job:
    """A job in Slurm's queue.

    Attributes:
        number: its id.
        state: as squeue says it, e.g. RUNNING.
        reason: why it waits, or the node it runs on.
    """

    number: str
    state: str
    reason: str


def main() -> None:
    """Read the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "configfiles", nargs="*", default=["config.yaml"], help="the experiment, as for --configfile"
    )
    args = made.parse_args()
    logging.getLogger().setLevel(logging.WARNING)
    config: dict[str, Any] = {}
    for path in args.configfiles:
        if not Path(path).is_file():
            raise CaseError(f"{path}: no such experiment; call this from where Snakemake was called")
        update_config(config, parse_values(path))
    layout = part(system_of(config), "layout").open_experiment(config, False)
    print(report(layout, queue()))


def report(layout: Layout[Any, Any], jobs: Mapping[str, Job]) -> str:
    """The state of an experiment as text.

    Args:
        layout: of the experiment.
        jobs: Slurm's queue, by id and by the rule and wildcards of each job.
    """
    name, cases = layout.settings.experiment, layout.sheet.cases
    cached = sum(Path(path).exists() for path in layout.per_case(cases, layout.cached))
    splits = Path(layout.experiment) / "splits.json"
    folds = read_json(splits)["folds"] if splits.exists() else [None] * len(layout.folds)
    rows = [dict(zip(COLUMNS, COLUMNS, strict=True))]
    for model in layout.models:
        rows += [_row(layout, model, fold, held, jobs) for fold, held in enumerate(folds)]
    widths = {column: max(len(row[column]) for row in rows) for column in COLUMNS}
    page = Path(layout.experiment) / "report.html"
    return "\n".join(
        [
            f"{name}: {cached} of {len(cases)} cases prepared",
            *("  ".join(row[column].ljust(widths[column]) for column in COLUMNS).rstrip() for row in rows),
            f"report: {page}" if page.exists() else "report: not yet",
        ]
    )


def queue() -> dict[str, Job]:
    """The user's jobs in Slurm's queue by id, and by comment (rule and wildcards); empty without Slurm."""
    if shutil.which("squeue") is None:
        return {}
    command = ["squeue", "--me", "--noheader", "--format=%i|%T|%R|%k"]
    try:
        text = output_of(command)
    except subprocess.SubprocessError:
        return {}
    jobs = {}
    for line in text.splitlines():
        number, state, reason, comment = line.split("|", 3)
        jobs[number] = jobs[comment] = Job(number, state, reason)
    return jobs


def _row(
    layout: Layout[Any, Any], model: str, fold: int, held: Mapping[str, Any] | None, jobs: Mapping[str, Job]
) -> dict[str, str]:
    place = Path(layout.fold.format(model=model, fold=fold))
    state = Path(layout.state.format(model=model)) / f"fold{fold}"
    training = layout.settings.models[model].training
    trained = (place / "model.pt").exists()
    log = _log(place / "log.csv" if trained else state / "train" / "log.csv")
    rows = Attempts(state / "train" / "attempts.jsonl", 1).rows()
    names = [str(row.get("slurm_job_id")) for row in rows[-1:]]
    names += [f"rule_{rule}_wildcards_{model}_{fold}" for rule in ("train", "test")]
    job = next((jobs[name] for name in names if name in jobs), None)
    row = dict.fromkeys(COLUMNS, "–") | {"model": model, "fold": str(fold)}
    row["training"] = "done" if trained else _state(rows, job)
    if len(log):
        row["epoch"] = f"{len(log)}/{training.epochs}"
        row["loss"] = f"{log['loss'].iloc[-1]:.4f}"
        scores = log.filter(regex="^val_").dropna(how="all")
        if len(scores) and len(scores.columns):
            row["score"] = f"{scores.iloc[-1].iloc[0]:.4f}"
        if not trained:
            row["left"] = _duration(_left(log["seconds"].tolist(), training.epochs))
    if (place / "metrics.csv").exists():
        row["testing"] = "done"
    elif trained:
        made = len(list((state / "test").rglob("test/*.h5")))
        row["testing"] = f"{made} of {len(held['test'])}" if held else "waiting"
    if job is not None and row["testing"] != "done":
        row["job"] = f"{job.number} {job.state} {job.reason}"
    return row


def _state(rows: Sequence[Mapping[str, Any]], job: Job | None) -> str:
    """What the last line of a training's history says."""
    if not rows:
        return "queued" if job else "waiting"
    last = rows[-1]
    if last["event"] == "start":
        # Killed, it could not say so; without Slurm's word, the time of the start must do.
        return "running" if job and job.state == "RUNNING" else f"started {last['time']}"
    return {"stopped": "to go on", "error": "failed", "finished": "finished"}[last["event"]]


def _left(seconds: Sequence[float], epochs: int) -> float:
    return statistics.median(seconds[-RECENT:]) * (epochs - len(seconds))


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def _log(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (OSError, ValueError):
        return pd.DataFrame()


if __name__ == "__main__":
    run(main)
