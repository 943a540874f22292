"""Trained models, and the predictions that are missing still."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn

from foldwise.files import CaseError
from foldwise.hdf5 import open_hdf5
from foldwise.settings import validate
from foldwise.systems import NAMES, System, load, part

# Leading columns of metrics.csv; the metrics follow.
KEYS = ("case", "group", "fold", "class")


@dataclass(frozen=True)
class Trained:
    """A model of an experiment, trained on one or more folds.

    Attributes:
        name: of its system.
        system: the system.
        networks: one per fold, on the device at hand, in evaluation mode.
        task: what is learnt.
    """

    name: str
    system: System
    networks: list[nn.Module]
    task: dict[str, Any]


def read_model(path: Path) -> dict[str, Any]:
    """Read what the train stage wrote; nothing in the file is executed.

    Raises:
        CaseError: no such model, or not one of ours.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state["network"], state["settings"], state["task"]
        assert state["system"] in NAMES
    except Exception as error:
        raise CaseError(f"{path}: not a model of Foldwise ({error}); train it again") from error
    return dict(state)


def read_trained(paths: Sequence[Path], evaluate: BaseModel | None = None) -> Trained:
    """Rebuild the trained networks of one model.

    Args:
        paths: one per fold.
        evaluate: the experiment's section on scores, for systems whose predictions depend on it.

    Raises:
        CaseError: a file is no model of Foldwise.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    states = [read_model(path) for path in paths]
    name, task = states[0]["system"], states[0]["task"]
    settings = validate(part(name, "settings").Model, states[0]["settings"], origin=str(paths[0]))
    system: System = load(name, settings, task)
    system.evaluate = evaluate
    made = []
    for state in states:
        network = system.network()
        network.load_state_dict(state["network"])
        made.append(network.to(device).eval())
    return Trained(name, system, made, task)


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
            trained.system.predict(trained.networks, cache, path)
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
