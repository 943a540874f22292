"""The progress of an experiment: its cases and folds, read from its jobs' files.

Nothing is computed and nothing is changed.
"""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from foldwise.experiment.configs import read_configs
from foldwise.experiment.open import Opened, open_experiment
from foldwise.experiment.paths import VALIDATION
from foldwise.experiment.preparation import per_case
from foldwise.experiment.stale import judge
from foldwise.files import read_json
from foldwise.looks import looking_once
from foldwise.processes import output_of
from foldwise.store import Memory, Store
from foldwise.told import Row, duration, rows_of, seconds_left, told_in

COLUMNS = ("model", "fold", "training", "epoch", "loss", "score", "validation", "left", "testing", "job")


@dataclass(frozen=True)
class Job:
    """A job in Slurm's queue.

    Attributes:
        number: its id.
        state: as squeue reports it, e.g. RUNNING.
        reason: why it waits, or the node it runs on.
    """

    number: str
    state: str
    reason: str


@dataclass(frozen=True)
class Status:
    """How far an experiment is.

    Attributes:
        text: in words, a row for each fold.
        done: whether there is nothing left to do.
    """

    text: str
    done: bool


def look(configfiles: Sequence[str | Path]) -> Status:
    """The state of an experiment now.

    Args:
        configfiles: its settings; later files add to earlier ones, as for Snakemake.

    Raises:
        CaseError: a file is missing, or its settings are wrong.
    """
    logging.getLogger().setLevel(logging.WARNING)
    with looking_once():
        opened = open_experiment(read_configs(map(Path, configfiles)), main=False)
        return status(opened, queue(Path(opened.paths.runs)))


def report(opened: Opened[Any, Any], jobs: Mapping[str, Job]) -> str:
    """The state of an experiment as text.

    Args:
        opened: the experiment.
        jobs: Slurm's queue, by id and by the rule and wildcards of each job.
    """
    return status(opened, jobs).text


def status(opened: Opened[Any, Any], jobs: Mapping[str, Job]) -> Status:
    """The state of an experiment, from its files and Slurm's queue, as for `report`."""
    name, cases = opened.settings.experiment, opened.sheet.cases
    cached = sum(Path(path).exists() for path in per_case(cases, opened.preparation.cached))
    splits = Path(opened.paths.experiment) / "splits.json"
    folds = read_json(splits)["folds"] if splits.exists() else [None] * len(opened.folds)
    rows = [
        _row(opened, model, fold, held, jobs)
        for model in opened.settings.models
        for fold, held in enumerate(folds)
    ]
    kept = [_kept(opened, model, fold) for model in opened.settings.models for fold in range(len(folds))]
    page, stale = Path(opened.paths.experiment) / "report.html", stale_lines(opened)
    lines = [
        f"{name}: {cached} of {len(cases)} cases prepared",
        tabulate(rows, headers="keys", tablefmt="plain", disable_numparse=True),
        *filter(None, kept),
        *stale,
        f"report: {page}" if page.exists() else "report: not yet",
    ]
    tested = all(row["training"] == row["testing"] == "done" for row in rows)
    return Status("\n".join(lines), tested and page.exists() and not stale)


def stale_lines(opened: Opened[Any, Any]) -> list[str]:
    """Outputs that the next call makes again, those with the same reason on one line."""
    levels = judge(opened, Memory(Path(opened.paths.known)))
    reasons: dict[tuple[str, str], list[str]] = {}
    for found in (one for level in levels for one in level if one.stale):
        why = "made from stale outputs" if found.derived else found.why
        reasons.setdefault((found.made.rule, why), []).append(found.made.path)
    return [
        f"stale ({rule}): {paths[0]}{f' and {len(paths) - 1} more' if paths[1:] else ''}: {why}"
        for (rule, why), paths in reasons.items()
    ]


def note_run(runs: Path, executor: Any) -> None:
    """Record which jobs belong to an experiment; Slurm itself knows their rules and wildcards only.

    Args:
        runs: file with the names that the experiment's calls give their jobs.
        executor: Snakemake's, in the user's own call; only that for Slurm names its jobs.
    """
    if (name := getattr(executor, "run_uuid", None)) is not None:
        runs.parent.mkdir(parents=True, exist_ok=True)
        with runs.open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")


def queue(runs: Path) -> dict[str, Job]:
    """The user's jobs in Slurm's queue by id, and those of an experiment by comment (rule and wildcards).

    Args:
        runs: as of `note_run`.

    Returns:
        Nothing without Slurm.
    """
    if shutil.which("squeue") is None:
        return {}
    command = ["squeue", "--me", "--noheader", "--format=%i|%T|%R|%j|%k"]
    try:
        text = output_of(command)
    except subprocess.SubprocessError:
        return {}
    mine = set(runs.read_text(encoding="utf-8").split()) if runs.exists() else set()
    jobs = {}
    for line in text.splitlines():
        number, state, reason, name, comment = line.split("|", 4)
        jobs[number] = Job(number, state, reason)
        if name in mine:
            jobs[comment] = jobs[number]
    return jobs


def _row(
    opened: Opened[Any, Any], model: str, fold: int, held: Mapping[str, Any] | None, jobs: Mapping[str, Job]
) -> dict[str, str]:
    place = Path(opened.paths.fold.format(model=model, fold=fold))
    state = Path(opened.paths.work("train", model, str(fold)))
    training = opened.settings.models[model].training
    trained = (place / "model.pt").exists()
    told = told_in(state)
    log = rows_of(place / "log.csv") if trained else told.rows
    names = [str(row.get("slurm_job_id")) for row in told.history[-1:]]
    names += [
        f"rule_{rule}"
        for rule in (f"train_wildcards_{model}_{fold}", f"test_wildcards_{model}_{fold}_predictions")
    ]
    job = next((jobs[name] for name in names if name in jobs), None)
    row = dict.fromkeys(COLUMNS, "–") | {"model": model, "fold": str(fold)}
    row["training"] = "done" if trained else _state(told.history, job)
    if log:
        row["epoch"] = f"{len(log)}/{training.epochs}"
        row["loss"] = f"{log[-1]['loss']:.4f}"
        row["score"] = _score(log, training.validation.best)
        row["validation"] = _validation(log, told.folder)
    if not trained and told.pulse.get("what") == "steps":
        row["epoch"] = f"{len(log)}/{training.epochs} + {told.pulse['done']}/{told.pulse['of']}"
    if not trained and (left := seconds_left(told, training.epochs)) is not None:
        row["left"] = duration(left)
    if (place / "metrics.csv").exists():
        row["testing"] = "done"
    elif (place / "predictions.json").exists():
        row["testing"] = "scoring"
    elif trained:
        kept = Store(Path(opened.paths.work("predictions", model, str(fold))))
        row["testing"] = f"{sum(map(kept.has, held['test']))} of {len(held['test'])}" if held else "waiting"
    if job is not None and row["testing"] != "done":
        row["job"] = f"{job.number} {job.state} {job.reason}"
    return row


def _kept(opened: Opened[Any, Any], model: str, fold: int) -> str | None:
    """Where the last finished model of a fold is, if it is not, or no longer, among the outputs."""
    place = Path(opened.paths.fold.format(model=model, fold=fold))
    state = Path(opened.paths.work("train", model, str(fold)))
    found = [{**read_json(path), "folder": path.parent} for path in state.glob("[!.]*/provenance.json")]
    if not found or (place / "model.pt").exists():
        return None
    last = max(found, key=lambda one: one["time"])
    score = "" if last["score"] is None else f", score {last['score']:.4f}"
    return (
        f"{model}, fold {fold}: there is no model.pt, but the last finished one (epoch {last['best_epoch']} "
        f"of {last['epochs']}{score}, {last['time']}) is kept in {last['folder']}. To get it back, restore "
        f"the settings in the provenance.json there and run Snakemake again; or copy the file"
    )


def _state(rows: Sequence[Mapping[str, Any]], job: Job | None) -> str:
    """The state given by the last line of a training's history."""
    if not rows:
        return "queued" if job else "waiting"
    last = rows[-1]
    if last["event"] == "start":
        # A killed training leaves no event; without Slurm's report, give the time of its start.
        return "running" if job and job.state == "RUNNING" else f"started {last['time']}"
    return {"stopped": "to continue", "error": "failed", "finished": "finished"}[last["event"]]


def _score(log: Sequence[Row], best: str) -> str:
    """The last score that chooses the best epoch; with its name if it is not that of whole cases."""
    wanted = {"cases": "val_(?!loss$)", "samples": "(patch_dice|val_loss)$", "val_loss": "val_loss$"}[best]
    for row in reversed(log):
        if names := [name for name in row if re.match(wanted, name)]:
            name = "patch_dice" if "patch_dice" in names else names[0]
            return f"{'' if best == 'cases' else name + ' '}{row[name]:.4f}"
    return "–"


def _validation(log: Sequence[Row], folder: Path) -> str:
    """How many cases an unfinished validation has done, else the seconds of the last one of whole cases."""
    if (folder / VALIDATION).exists():
        from foldwise.training.validation import read_kept  # torch takes seconds to import

        kept = read_kept(folder / VALIDATION)
        if len(kept.get("cases", ())) < kept.get("of", 0):
            return f"{len(kept['cases'])} of {kept['of']} cases, {kept['seconds']:.0f} s"
    measured = [row for row in log if "validation_seconds" in row]
    whole = [row for row in measured if any(re.match("val_(?!loss$)", name) for name in row)]
    return f"{(whole or measured)[-1]['validation_seconds']:.0f} s" if measured else "–"
