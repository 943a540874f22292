"""Testing: cases predicted by models that never saw them, and scored on their source grid."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from foldwise.files import CaseError
from foldwise.settings import Evaluate, Model, validate
from foldwise.systems import System, load
from foldwise.targets import Targets
from foldwise.volumes.metrics import score
from foldwise.volumes.postprocess import helps
from foldwise.volumes.predictions import label_map, open_prediction
from foldwise.volumes.prepare import read_labels
from foldwise.volumes.volume import Volume

# Leading columns of metrics.csv; the metrics follow.
KEYS = ("case", "group", "fold")


def read_model(path: Path) -> dict[str, Any]:
    """Read what the train stage wrote; nothing in the file is executed.

    Raises:
        CaseError: no such model, or not one of ours.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state["network"], state["settings"], state["targets"]
    except Exception as error:
        raise CaseError(f"{path}: not a model of Foldwise ({error}); train it again") from error
    return dict(state)


def networks(paths: Sequence[Path]) -> tuple[System, list[nn.Module], Targets]:
    """Rebuild trained networks of one model on the device at hand.

    Returns:
        The system, its networks in evaluation mode, and what they predict.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    states = [read_model(path) for path in paths]
    first = states[0]
    settings = validate(Model, first["settings"], origin=str(paths[0]))
    targets = Targets.from_dict(first["targets"])
    system: System = load(first["system"], settings, targets, first["channels"])
    made = []
    for state in states:
        network = system.network()
        network.load_state_dict(state["network"])
        made.append(network.to(device).eval())
    return system, made, targets


def predict_missing(
    system: System, made: Sequence[nn.Module], caches: dict[str, str], folder: Path
) -> dict[str, Path]:
    """Predict the cases whose prediction is not in `folder` yet, so that a killed job goes on.

    Args:
        system: the family.
        made: networks to average.
        caches: case → cache.
        folder: gets <case>.h5.
    """
    paths = {}
    for number, (case, cache) in enumerate(caches.items(), start=1):
        path = paths[case] = folder / f"{case}.h5"
        if not _whole(path):
            system.predict(made, cache, path)
            logging.info("predicted %s (%d of %d)", case, number, len(caches))
    return paths


def choose_postprocess(
    predictions: dict[str, Path], labels: dict[str, Path], targets: Targets, wanted: Sequence[str]
) -> list[str]:
    """Keep, of the steps in their order, those that raise the mean Dice of these cases.

    Args:
        predictions: case → prediction.
        labels: case → label file.
        targets: what was predicted.
        wanted: steps, keys of `POSTPROCESSES`.
    """
    kept: list[str] = []

    def dice(steps: list[str]) -> list[float]:
        made: list[float] = []
        for case, path in predictions.items():
            truth = read_labels(labels[case], targets.classes)
            made += _dice(label_map(path, steps), truth, targets)
        return made

    before = dice(kept) if wanted and predictions else []
    for step in wanted if before else ():
        after = dice([*kept, step])
        if helps(before, after):
            kept, before = [*kept, step], after
    return kept


def metrics_table(
    predictions: dict[str, Path],
    labels: dict[str, Path],
    groups: dict[str, str],
    fold: int | str,
    targets: Targets,
    settings: Evaluate,
    postprocess: Sequence[str],
) -> pd.DataFrame:
    """Scores of the predictions against the source label files: a row per case and class or region."""
    rows = []
    for case, path in predictions.items():
        found = label_map(path, postprocess)
        truth = read_labels(labels[case], targets.classes)
        scored = score(
            found.data,
            truth.data,
            truth.spacing,
            targets.values,
            tolerance_mm=settings.tolerance_mm,
            brats=settings.empty == "brats",
        )
        rows += [{"case": case, "group": groups[case], "fold": fold, **row} for row in scored]
    return pd.DataFrame(rows)


def _dice(found: Volume, truth: Volume, targets: Targets) -> list[float]:
    made = []
    for values in targets.values.values():
        a, b = np.isin(found.data, values), np.isin(truth.data, values)
        size = int(a.sum() + b.sum())
        made.append(2 * int((a & b).sum()) / size if size else float("nan"))
    return made


def _whole(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        open_prediction(path).close()
    except CaseError:
        return False
    return True
