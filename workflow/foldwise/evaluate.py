"""Testing: cases predicted by models that never saw them, and scored on their source grid."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from foldwise.files import CaseError
from foldwise.settings import Evaluate, Model, validate
from foldwise.systems import System, load
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
        state["network"], state["settings"], state["classes"]
    except Exception as error:
        raise CaseError(f"{path}: not a model of Foldwise ({error}); train it again") from error
    return dict(state)


def networks(paths: Sequence[Path]) -> tuple[System, list[nn.Module], dict[str, int]]:
    """Rebuild trained networks of one model on the device at hand.

    Returns:
        The system, its networks in evaluation mode, and the classes.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    states = [read_model(path) for path in paths]
    first = states[0]
    settings = validate(Model, first["settings"], origin=str(paths[0]))
    system: System = load(first["system"], settings, first["classes"], first["channels"])
    made = []
    for state in states:
        network = system.network()
        network.load_state_dict(state["network"])
        made.append(network.to(device).eval())
    return system, made, first["classes"]


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
    predictions: dict[str, Path], labels: dict[str, Path], classes: dict[str, int], wanted: str
) -> tuple[str, list[dict[str, Any]]]:
    """Keep a post-processing step only if it raises the mean Dice of these cases.

    Returns:
        The step to apply ("none" if it does not help), and each case's Dice before and after.
    """
    if wanted == "none" or not predictions:
        return "none", []
    rows: list[dict[str, Any]] = []
    for case, path in predictions.items():
        truth = read_labels(labels[case], classes)
        plain = _dice(label_map(path, classes), truth, classes)
        changed = _dice(label_map(path, classes, wanted), truth, classes)
        for name in classes:
            rows.append({"case": case, "class": name, "before": plain[name], "after": changed[name]})
    better = helps([row["before"] for row in rows], [row["after"] for row in rows])
    return (wanted if better else "none"), rows


def metrics_table(
    predictions: dict[str, Path],
    labels: dict[str, Path],
    groups: dict[str, str],
    fold: int | str,
    classes: dict[str, int],
    settings: Evaluate,
    postprocess: str,
) -> pd.DataFrame:
    """Scores of the predictions against the source label files: a row per case and class."""
    rows = []
    for case, path in predictions.items():
        found = label_map(path, classes, postprocess)
        truth = read_labels(labels[case], classes)
        scored = score(found.data, truth.data, truth.spacing, classes, tolerance_mm=settings.tolerance_mm)
        rows += [{"case": case, "group": groups[case], "fold": fold, **row} for row in scored]
    return pd.DataFrame(rows)


def _dice(found: Volume, truth: Volume, classes: dict[str, int]) -> dict[str, float]:
    made = {}
    for name, value in classes.items():
        a, b = found.data == value, truth.data == value
        size = int(a.sum() + b.sum())
        made[name] = 2 * int((a & b).sum()) / size if size else float("nan")
    return made


def _whole(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        open_prediction(path).close()
    except CaseError:
        return False
    return True
