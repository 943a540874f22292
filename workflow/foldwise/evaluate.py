"""Trained models, and the predictions that are missing still."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn

from foldwise.files import CaseError, file_hash, short_hash
from foldwise.hdf5 import open_hdf5
from foldwise.index import Entry
from foldwise.networks import as_recorded
from foldwise.section import values_for
from foldwise.settings import validate
from foldwise.systems import system_of
from foldwise.training.learner import Learner
from foldwise.training.pretrained import refuse_not_finite

# Leading columns of metrics.csv; the metrics follow.
KEYS = ("case", "group", "fold", "class")


@dataclass(frozen=True)
class Trained:
    """A model of an experiment, trained on one or more folds.

    Attributes:
        learner: what predicts with it.
        networks: one per fold, on the device at hand, in evaluation mode.
        task: what is learnt.
        states: what the files hold.
    """

    learner: Learner[Any]
    networks: list[nn.Module]
    task: dict[str, Any]
    states: list[dict[str, Any]]


def read_model(path: Path) -> dict[str, Any]:
    """Read what the train stage wrote; nothing in the file is executed.

    Raises:
        CaseError: no such model, not one of ours, or its weights are not finite.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state["network"], state["settings"], state["task"], state["system"]
    except Exception as error:
        raise CaseError(f"{path}: not a model of Foldwise ({error}); train it again") from error
    try:
        system_of(state["system"])
    except CaseError as error:
        package = f", of the package {state['package']}" if "package" in state else ""
        raise CaseError(f"{path}: a model of the system {state['system']}{package}: {error}") from error
    refuse_not_finite(state["network"], path)
    return dict(state)


def read_trained(
    paths: Sequence[Path],
    evaluate: BaseModel | None = None,
    *,
    system: str | None = None,
    task: Mapping[str, Any] | None = None,
) -> Trained:
    """Rebuild the trained networks of one model.

    Args:
        paths: one per fold.
        evaluate: the experiment's section on scores, for systems whose predictions depend on it.
        system: name of the system that is asked for; None: any.
        task: what is to be predicted; None: whatever the models learnt.

    Raises:
        CaseError: a file is no model of Foldwise, or was trained for something else than is asked for or than
            the first of them was.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    states = [read_model(path) for path in paths]
    for path, state in zip(paths, states, strict=True):
        if system is not None and state["system"] != system:
            raise CaseError(
                f"{path}: a model of the system {state['system']}; --system {system} is asked for"
            )
        if task is not None and (apart := _difference(state["task"], task)):
            raise CaseError(f"{path}: was trained for other data than these ({apart}); give a model of them")
    _refuse_mixture(paths, states)
    name, task = states[0]["system"], states[0]["task"]
    given = as_recorded(states[0]["settings"])
    kind = system_of(name)
    settings = validate(kind.model, given, origin=str(paths[0]))
    learner = kind.learner(settings, task)
    learner.evaluate = evaluate
    made = []
    for path, state in zip(paths, states, strict=True):
        network = learner.network()
        try:
            network.load_state_dict(state["network"])
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise CaseError(f"{path}: its weights do not fit the network that it names ({reason})") from None
        made.append(network.to(device).eval())
    return Trained(learner, made, dict(task), states)


def _refuse_mixture(paths: Sequence[Path], states: Sequence[Mapping[str, Any]]) -> None:
    """Refuse to average what does not belong together."""
    seen: dict[str, Path] = {}
    first = _record(paths[0], states[0])
    for path, state in zip(paths, states, strict=True):
        if (other := seen.setdefault(file_hash(path), path)) is not path:
            raise CaseError(f"{other} and {path} are the same model; give each fold's model once")
        for what, value in _record(path, state).items():
            if apart := _difference(first[what], value):
                raise CaseError(
                    f"{paths[0]} and {path} are not models of one experiment: another {what} ({apart}); "
                    f"only such are averaged"
                )


def _record(path: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """What models that are averaged share, by its name in a message."""
    kind = system_of(state["system"]).model
    settings = values_for(validate(kind, as_recorded(state["settings"]), origin=str(path)), "predict")
    if settings.get("dimensions") == "slab":
        settings.pop("patch")  # as wide as the fold's own training cases
    return {
        "system": state["system"],
        "task": state["task"],
        "network or setting": settings,
        "preparation": state.get("prepared", {}),
    }


def _difference(first: Any, second: Any, name: str = "") -> str:
    """The first place at which two plain values differ, with both values; empty if there is none."""
    if isinstance(first, Mapping) and isinstance(second, Mapping) and sorted(first) == sorted(second):
        # Classes are numbered in their order.
        if list(first) != list(second):
            return f"{name}: {', '.join(first)}, and {', '.join(second)}"
        found = (_difference(first[key], second[key], f"{name}.{key}".strip(".")) for key in first)
        return next((apart for apart in found if apart), "")
    return "" if first == second else f"{name}: {first}, and {second}".removeprefix(": ")


def marks(entry: Entry, content: str) -> dict[str, str]:
    """By what a case is known again in a model that learnt from it: kind → hash, which tells no name.

    Args:
        entry: the case.
        content: hash of the file that was learnt from.
    """
    values = {"case": entry.case, "patient": entry.group, "content": content}
    return {kind: short_hash([kind, value], 16) for kind, value in values.items()}


def refuse_learnt(
    path: Path, state: Mapping[str, Any], entries: Iterable[Entry], contents: Mapping[str, str]
) -> None:
    """Refuse to score a model on cases from which it learnt, or by which its best epoch was chosen.

    Args:
        path: the model's file.
        state: what it holds.
        entries: the cases to be scored.
        contents: case → hash of its file.

    Raises:
        CaseError: there is such a case, or another one of its patient.
    """
    if "learnt" not in state:
        logging.warning("%s: made by an earlier version; it does not say on which cases it was trained", path)
        return
    known = set(state["learnt"])
    why = {
        "case": "that case",
        "patient": "another case of its patient",
        "content": "the same data under another name",
    }
    for entry in entries:
        for kind, mark in marks(entry, contents[entry.case]).items():
            if mark in known:
                raise CaseError(
                    f"{path}: cannot be tested on case {entry.case}: {why[kind]} was used to train it or to "
                    f"choose its epoch; give a model that never saw it"
                )


def unfinished(state: Path, *made_of: Any) -> Path:
    """A folder for unfinished work that no other model and no other data shares.

    Args:
        state: the folder of all of it.
        made_of: what the work depends on, as JSON values.
    """
    return state / short_hash(made_of, 16)


def clear(state: Path) -> None:
    """Remove unfinished work, what was left behind by other models included, and nothing else."""
    for folder in state.glob("[0-9a-f]" * 16):
        shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # not there, or not empty
        state.rmdir()


def predict_missing(trained: Trained, caches: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """Predict the cases whose prediction is not in `folder` yet, so that a killed job goes on.

    Args:
        trained: networks to average.
        caches: case → HDF5 file.
        folder: gets <case>.h5.
    """
    paths = {}
    for number, (case, cache) in enumerate(caches.items(), start=1):
        path = paths[case] = folder / f"{case}.h5"
        if not is_whole(path):
            trained.learner.predict(trained.networks, cache, path)
            logging.info("predicted %s (%d of %d)", case, number, len(caches))
    return paths


def is_whole(path: Path) -> bool:
    """Whether a prediction is there and can be read."""
    if not path.exists():
        return False
    try:
        open_hdf5(path).close()
    except CaseError:
        return False
    return True
