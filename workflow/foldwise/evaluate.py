"""Trained models, and files that are made from cases, of which a stopped job may have left some."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel
from torch import nn

from foldwise.device import chosen_device, log_device
from foldwise.files import CaseError, file_hash, refuse_failed, short_hash
from foldwise.hdf5 import Identity, content_in, edit_hdf5, identity_of, open_hdf5
from foldwise.index import Entry
from foldwise.networks import as_recorded
from foldwise.overlap import Unwritten, overlapped
from foldwise.section import values_for
from foldwise.settings import validate
from foldwise.store import Store
from foldwise.systems import system_of
from foldwise.training.learner import Learner, Staged, precision_of
from foldwise.training.model_file import ModelFile, read_model

# Leading columns of metrics.csv; the metrics follow them.
KEYS = ("case", "group", "fold", "class")


@dataclass(frozen=True)
class Trained:
    """A model of an experiment, trained on one or more folds.

    Attributes:
        learner: predicts with the networks.
        networks: one per fold, on the available device, in evaluation mode.
        task: what the networks predict.
        states: contents of the files.
    """

    learner: Learner[Any]
    networks: list[nn.Module]
    task: dict[str, Any]
    states: list[ModelFile]

    @property
    def steps(self) -> Steps:
        """How predictions are made."""
        if isinstance(self.learner, Staged):
            return Steps(self.learner.read, partial(self.learner.infer, self.networks))
        return Steps.of(partial(self.learner.predict, self.networks))


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
        evaluate: the experiment's section on scores, for systems in which predictions depend on it.
        system: name of the required system; None: any.
        task: what is to be predicted; None: what the models were trained for.

    Raises:
        CaseError: a file is not a model of Foldwise, or its system or task differs from the required one or
            from the first file's.
    """
    device = chosen_device()
    states = [read_model(path) for path in paths]
    for path, state in zip(paths, states, strict=True):
        try:
            system_of(state["system"])
        except CaseError as error:
            package = f", of the package {state['package']}" if "package" in state else ""
            raise CaseError(f"{path}: a model of the system {state['system']}{package}: {error}") from error
        if system is not None and state["system"] != system:
            raise CaseError(f"{path}: a model of the system {state['system']}; --system {system} was given")
        if task is not None and (apart := _difference(state["task"], task)):
            raise CaseError(f"{path}: was trained on different data ({apart}); give a model for these data")
    _refuse_mixture(paths, states)
    name, task = states[0]["system"], states[0]["task"]
    given = as_recorded(states[0]["settings"])
    kind = system_of(name)
    settings = validate(kind.model, given, origin=str(paths[0]))
    learner = kind.learner(settings, task)
    learner.evaluate = evaluate
    log_device(device, precision_of(settings.training.amp, gpu=device.type == "cuda"))
    networks = []
    for path, state in zip(paths, states, strict=True):
        network = learner.network()
        try:
            network.load_state_dict(state["network"])
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise CaseError(f"{path}: its weights do not fit its network ({reason})") from None
        networks.append(network.to(device).eval())
    return Trained(learner, networks, dict(task), states)


def _refuse_mixture(paths: Sequence[Path], states: Sequence[Mapping[str, Any]]) -> None:
    """Refuse to average models that do not belong together."""
    seen: dict[str, Path] = {}
    first = _record(paths[0], states[0])
    for path, state in zip(paths, states, strict=True):
        if (other := seen.setdefault(file_hash(path), path)) is not path:
            raise CaseError(f"{other} and {path} are the same model; give each fold's model once")
        for what, value in _record(path, state).items():
            if apart := _difference(first[what], value):
                raise CaseError(
                    f"{paths[0]} and {path} are not models of one experiment: different {what} ({apart}); "
                    f"only models of one experiment can be averaged"
                )


def _record(path: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """What averaged models must share, by its name in messages."""
    kind = system_of(state["system"]).model
    settings = values_for(validate(kind, as_recorded(state["settings"]), origin=str(path)), "predict")
    if settings.get("dimensions") == "slab":
        settings.pop("patch")  # depends on the fold's training cases
    return {
        "system": state["system"],
        "task": state["task"],
        "network or setting": settings,
        "preparation": state.get("prepared", {}),
    }


def _difference(first: Any, second: Any, name: str = "") -> str:
    """The first place at which two plain values differ, with both values; empty if they are equal."""
    if isinstance(first, Mapping) and isinstance(second, Mapping) and sorted(first) == sorted(second):
        # The order of classes is their numbering.
        if list(first) != list(second):
            return f"{name}: {', '.join(first)}, and {', '.join(second)}"
        found = (_difference(first[key], second[key], f"{name}.{key}".strip(".")) for key in first)
        return next((apart for apart in found if apart), "")
    return "" if first == second else f"{name}: {first}, and {second}".removeprefix(": ")


def marks(entry: Entry, identity: Identity | None = None) -> dict[str, str]:
    """What identifies a case in a model trained on it: kind → hash, which reveals no name.

    Args:
        entry: the case.
        identity: of the file used for training, if that matters.
    """
    values = {"case": entry.case, "patient": entry.group}
    values |= {} if identity is None else identity._asdict()
    return {kind: short_hash([kind, value], 16) for kind, value in values.items() if value}


def refuse_other_fold(path: Path, state: Mapping[str, Any], fold: int) -> None:
    """Refuse a model that was trained in another fold.

    Args:
        path: the model's file.
        state: its contents.
        fold: the one that is asked for.

    Raises:
        CaseError: its file names another fold.
    """
    if (own := state.get("fold", fold)) != fold:
        raise CaseError(f"{path}: the model of fold {own}; --fold {fold} was given")


def refuse_learnt(
    path: Path, state: Mapping[str, Any], entries: Iterable[Entry], identities: Mapping[str, Identity]
) -> None:
    """Refuse to score a model on cases used to train it or to choose its best epoch.

    Args:
        path: the model's file.
        state: contents of the file.
        entries: the cases to score.
        identities: case → that of its file.

    Raises:
        CaseError: such a case, or another case of its patient, is among them.
    """
    if "learnt" not in state:
        logging.warning("%s: written by an earlier version, which did not record its training cases", path)
        return
    known = set(state["learnt"])
    why = {
        "case": "that case",
        "patient": "another case of its patient",
        "content": "the same data under another name",
        "recording": "the same recording under another name",
    }
    for entry in entries:
        for kind, mark in marks(entry, identities[entry.case]).items():
            if mark in known:
                raise CaseError(
                    f"{path}: cannot be tested on case {entry.case}: {why[kind]} was used to train it or to "
                    f"choose its epoch; give a model that never saw it"
                )


def warn_of_learnt(entry: Entry, cache: Path, states: Sequence[ModelFile]) -> None:
    """Warn of a new case whose recording a model has learnt from: its prediction is no test of the model."""
    mark = marks(entry, identity_of(cache)).get("recording")
    learnt = [number for number, state in enumerate(states) if mark in state.get("learnt", ())]
    if learnt:
        others = len(states) - len(learnt)
        logging.warning(
            "case %s: %d of the %d models learnt from this recording%s; do not score this prediction",
            *(entry.case, len(learnt), len(states)),
            f", {others} held it out" if others else "",
        )


@dataclass(frozen=True)
class Steps:
    """How files are made from cases, in steps that may overlap with those of other cases.

    Attributes:
        read: reads a cache.
        infer: makes what is to be written from what was read.
    """

    read: Callable[[str], Any]
    infer: Callable[[Any], Unwritten]

    @classmethod
    def of(cls, write: Callable[[str, Path], object]) -> Self:
        """A single step: nothing overlaps."""
        return cls(str, lambda cache: Unwritten(partial(write, cache), math.inf))


def made_from(
    caches: Mapping[str, str], write: Steps | Callable[[str, Path], object], store: Store, *made_of: Any
) -> dict[str, Path]:
    """A file for each case: the one that a stopped job left in the store, or else one that is made now.

    Args:
        caches: case → HDF5 file.
        write: writes a case's file, from (cache, path), or in steps: the next case is then read and the last
            one written while one is predicted.
        store: keeps every file until it is cleared.
        made_of: what the files depend on apart from the caches, as JSON values.

    Raises:
        CaseError: files of some cases could not be made; those of all others are in the store.
    """
    steps = write if isinstance(write, Steps) else Steps.of(write)
    places = {case: number for number, case in enumerate(caches, start=1)}
    paths: dict[str, Path] = {}
    failed: dict[str, str] = {}

    def read(case: str) -> tuple[Sequence[Any], Any]:
        key = (*made_of, _identity(caches[case]))
        if (found := store.get(case, *key)) is None:
            return key, steps.read(caches[case])
        paths[case] = found
        return key, None

    def work(case: str, known: tuple[Sequence[Any], Any]) -> Unwritten | None:
        if case in paths:
            return None
        key, made = known[0], steps.infer(known[1])

        def put() -> None:
            paths[case] = store.put(partial(with_fingerprint, made.write, key), case, *key)
            logging.info("case %s: done (%d of %d)", case, places[case], len(caches))

        return Unwritten(put, made.nbytes)

    overlapped(list(caches), read, work, failed)
    refuse_failed(failed, list(caches))
    return {case: paths[case] for case in caches}


def with_fingerprint(
    write: Callable[[Path], object], made_of: Sequence[Any], path: Path, remarks: Sequence[str] = ()
) -> None:
    """Write an HDF5 file, and into its attribute `fingerprint` a hash of what it is made from.

    Args:
        write: writes the file.
        made_of: what it is made from.
        path: the file.
        remarks: on the case, for the attribute `remarks`.
    """
    write(path)
    with edit_hdf5(path) as file:
        file.attrs["fingerprint"] = short_hash(made_of, 16)
        file.attrs["remarks"] = list(remarks)


def remarks_of(path: Path) -> list[str]:
    """Remarks stored with a prediction."""
    with open_hdf5(path) as file:
        return [str(remark) for remark in file.attrs.get("remarks", [])]


def _identity(cache: str) -> list[str]:
    """The content of a cache, and where it is from: equal crops may belong to different scans."""
    with open_hdf5(cache) as file:
        return [content_in(file), str(file.attrs.get("lineage"))]
