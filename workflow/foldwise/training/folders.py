"""The trainings of a fold: each combination of settings and data has a folder of its own.

So none overwrites another, and settings that are changed back find their training again. Only the process
that holds the claim on the fold calls these functions, before it starts others.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from foldwise.files import atomic_path
from foldwise.training import checkpoint
from foldwise.training.checkpoint import CHECKPOINT, MODEL, PREVIOUS
from foldwise.training.loop import Run

BELONGINGS = ("models", "examples")
# A name that no training has, while its folder is being deleted.
DELETED = ".deleted-"


def link(source: Path, target: Path) -> None:
    """Give a file a second name, or a copy where that is impossible, e.g. on another disk."""
    with atomic_path(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def adopt_old_layout(state: Path) -> None:
    """Move checkpoints that lie where earlier versions wrote them: in `state` itself, and in `others`.

    Args:
        state: folder of the fold's trainings.
    """
    for aside in (state / "others").glob("*"):
        _move(aside, state / aside.name, [path.name for path in aside.iterdir()])
        shutil.rmtree(aside)
    shutil.rmtree(state / "others", ignore_errors=True)
    last, previous = (checkpoint.read(state / name, mmap=True) for name in (CHECKPOINT, PREVIOUS))
    if previous is not None:
        # Of another training, it is the newest of that one.
        same = last is not None and last["fingerprint"] == previous["fingerprint"]
        own = state / previous["fingerprint"]
        own.mkdir(exist_ok=True)
        (state / PREVIOUS).replace(own / (PREVIOUS if same else CHECKPOINT))
    if owner := last or previous:
        own = state / owner["fingerprint"]
        _move(state, own, [*BELONGINGS, "log.csv"])
        if last is not None:
            (state / CHECKPOINT).replace(own / CHECKPOINT)


def begin(run: Run) -> None:
    """Give a training without a checkpoint that of another one which it would pass through, if there is any.

    That of the most steps is copied, but never of more than this training takes, nor one before which this
    training would have ended, after too many validations without improvement.
    """
    if checkpoint.load(run.folder, run.fingerprint, mmap=True) is not None:
        return
    training = run.model.training
    assert training.steps_per_epoch is not None, "the learner sets the steps of an epoch"
    total = training.epochs * training.steps_per_epoch

    def passes(state: dict[str, Any]) -> bool:
        patience = training.patience
        return state["step"] <= total and (patience is None or state["longest"] < patience)

    others: list[tuple[Path, dict[str, Any]]] = []
    bare: list[Path] = []
    for folder in _trainings(run.folder.parent):
        if folder != run.folder:
            states = (checkpoint.read(folder / name, mmap=True) for name in (CHECKPOINT, PREVIOUS))
            if state := next(filter(None, states), None):
                others.append((folder, _without_end(state)))
            else:
                bare.append(folder)
    same, similar = (
        [(folder, state) for folder, state in others if course in state["courses"] and passes(state)]
        for course in (run.courses[0], run.courses[-1])
    )
    if same:
        folder, state = max(same, key=lambda one: one[1]["step"])
        for name in BELONGINGS:
            for path in (folder / name).glob("*"):
                link(path, run.folder / name / path.name)
        own = {"fingerprint": run.fingerprint, "courses": list(run.courses)}
        checkpoint.save(run.folder, state | own | ({"scheduler": None} if run.follow else {}))
        logging.info("goes on from epoch %d of the training in %s", len(state["rows"]), folder)
    elif similar:
        folder, state = max(similar, key=lambda one: one[1]["step"])
        logging.warning(
            "training starts from the beginning: the one in %s, of %d epochs, had another learning rate, "
            "which depends on the number of epochs with %s. It is kept. To go on from it, and follow the new "
            "schedule from there on, set training.extend: follow",
            *(folder, len(state["rows"]), run.model.scheduler.name if run.model.scheduler else None),
        )
    elif bare or others:
        last = max([*bare, *(one[0] for one in others)], key=lambda one: one.stat().st_mtime)
        state = dict(others).get(last, {})
        gpus = state.get("gpus", training.gpus)
        devices = "" if gpus == training.gpus else f" (training.gpus: {gpus}, now {training.gpus})"
        without = "; it kept no state to go on from (training.keep_state)" if last in bare else ""
        logging.warning(
            "training starts from the beginning: the last one here used other settings or data%s%s; it is "
            "kept in %s, and is found again if they are restored",
            *(devices, without, last),
        )


def thin(own: Path, kept: int) -> None:
    """Delete all trainings but this one, the newest finished ones, and the newest unfinished one.

    Args:
        own: folder of this training.
        kept: number of finished ones to keep.
    """
    # Its time is that of its last use.
    own.mkdir(parents=True, exist_ok=True)
    os.utime(own)
    others = [folder for folder in _trainings(own.parent) if folder != own]
    others.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
    finished = [folder for folder in others if _finished(folder)]
    unfinished = [folder for folder in others if folder not in finished]
    for left in own.parent.glob(f"{DELETED}*"):
        shutil.rmtree(left)
    for folder in [*finished[kept:], *unfinished[1:]]:
        logging.info("deleting the training in %s: training.kept is %d", folder, kept)
        shutil.rmtree(folder.rename(folder.with_name(DELETED + folder.name)))


def _trainings(state: Path) -> list[Path]:
    names = (CHECKPOINT, PREVIOUS, MODEL)
    return [folder for folder in sorted(state.glob("[!.]*")) if any((folder / n).exists() for n in names)]


def _finished(folder: Path) -> bool:
    if (folder / MODEL).exists():
        return True
    state = checkpoint.read(folder / CHECKPOINT, mmap=True)
    return state is not None and state["finished"]


def _without_end(state: dict[str, Any]) -> dict[str, Any]:
    """A state as before the end of its training."""
    return {**state, **(state["before_end"] or {}), "finished": False, "before_end": None}


def _move(source: Path, target: Path, names: list[str]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        # What exists there is newer: it comes from a move that was killed.
        if (source / name).exists() and not (target / name).exists():
            (source / name).replace(target / name)
