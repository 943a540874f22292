"""How robust a model is: its held-out clips predicted again with their frames changed (video/perturb.py).

A case's file (HDF5): probabilities (conditions, classes) float64, in the order of `conditions`, each the mean
over views. Attributes: format, case.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from foldwise.files import atomic_path
from foldwise.hdf5 import create_hdf5, open_hdf5, refuse_not_finite
from foldwise.index import Entry
from foldwise.systems.clips.items import Change
from foldwise.systems.clips.learner import ClipsLearner
from foldwise.systems.clips.metrics import CLEAN
from foldwise.systems.clips.patients import PROBABILITY
from foldwise.systems.clips.regions import fan_of
from foldwise.systems.clips.robustness import Perturb
from foldwise.video import perturb as changes
from foldwise.video.perturb import Area

FORMAT = "foldwise-clip-perturbed-1"


def conditions(perturb: Perturb) -> list[tuple[str, float]]:
    """Kind and strength of each change; the first one is none."""
    kinds = ("attenuation", "shadow", "speckle", "gain")
    return [(CLEAN, 0.0), *((kind, strength) for kind in kinds for strength in getattr(perturb, kind))]


def write_perturbed(
    learner: ClipsLearner, network: nn.Module, perturb: Perturb, cache: str, path: Path
) -> None:
    """Predict a case under each condition.

    Args:
        learner: of the model.
        network: trained without the case.
        perturb: the conditions.
        cache: the frame cache, or the file of regions, that the model's clips are from.
        path: HDF5 file to write.

    Raises:
        CaseError: a probability is not finite.
    """
    with open_hdf5(cache) as file:
        case = str(file.attrs["case"])
        area = changes.area_of(fan_of(file))
        found = [
            learner.probabilities(network, file, change_of(*condition, perturb, area, case))
            for condition in conditions(perturb)
        ]
    refuse_not_finite(case, np.array(found))
    with atomic_path(path) as temporary, create_hdf5(temporary) as stored:
        stored["probabilities"] = np.array(found)
        stored.attrs.update({"format": FORMAT, "case": case})


def change_of(kind: str, strength: float, perturb: Perturb, area: Area, case: str) -> Change | None:
    """What is done to frames (n, height, width, 3) uint8 with these numbers; None: nothing.

    Draws depend on the seed and the case's name, not on the model, the fold or the strength.
    """
    seed = [perturb.seed, zlib.crc32(case.encode())]
    level = perturb.dynamic_range
    every: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        "gain": lambda frames, numbers: changes.gain(frames, area, strength, level),
        "attenuation": lambda frames, numbers: changes.attenuation(frames, area, strength, level),
        "shadow": lambda frames, numbers: changes.shadow(frames, area, strength, level, seed),
        "speckle": lambda frames, numbers: changes.speckle(
            frames, area, strength, level, seed, numbers.tolist(), perturb.grain
        ),
    }
    return every.get(kind)


def table_of(
    paths: dict[str, Path], entries: Sequence[Entry], classes: Sequence[str], perturb: Perturb, fold: int
) -> pd.DataFrame:
    """A row for each case and condition: case, group, fold, class, perturbation, strength, probabilities."""
    rows = []
    for entry in entries:
        with open_hdf5(paths[entry.case], FORMAT) as file:
            found = file["probabilities"][()]
        facts = {"case": entry.case, "group": entry.group, "fold": fold, "class": entry.facts["label"]}
        for (kind, strength), values in zip(conditions(perturb), found, strict=True):
            own = {f"{PROBABILITY}{name}": float(v) for name, v in zip(classes, values, strict=True)}
            rows.append({**facts, "perturbation": kind, "strength": strength, **own})
    return pd.DataFrame(rows)
