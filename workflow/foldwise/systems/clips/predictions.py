"""The prediction of a clip, an HDF5 file: probabilities of the classes, and of each view.

Layout: probabilities (classes,) float64; views (views, classes) float32. Attributes: format, case, classes,
and source, the frame cache or file of regions that the network saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from foldwise.files import atomic_path
from foldwise.hdf5 import create_hdf5, open_hdf5, refuse_not_finite

FORMAT = "foldwise-clip-1"


def write_prediction(path: Path, case: str, classes: Sequence[str], views: np.ndarray, source: str) -> None:
    """Write a case's probabilities (views, classes) and their mean, atomically.

    Raises:
        CaseError: a probability is not finite.
    """
    refuse_not_finite(case, views)
    with atomic_path(path) as temporary, create_hdf5(temporary) as file:
        file["probabilities"] = views.mean(axis=0)
        file["views"] = views.astype(np.float32)
        file.attrs.update({"format": FORMAT, "case": case, "classes": list(classes), "source": source})


def read_prediction(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (classes,) and those of each view (views, classes).

    Raises:
        CaseError: the file is missing, truncated, or not such a prediction.
    """
    with open_hdf5(path, FORMAT) as file:
        return file["probabilities"][()], file["views"][()]


def read_classes(path: Path) -> list[str]:
    """Names of the classes of a prediction."""
    with open_hdf5(path, FORMAT) as file:
        return [str(name) for name in file.attrs["classes"]]


def read_source(path: Path) -> Path:
    """The frame cache or file of regions that the network saw."""
    with open_hdf5(path, FORMAT) as file:
        return Path(str(file.attrs["source"]))
