"""A video's prediction: probabilities of phases and tools for every frame of its cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foldwise.files import atomic_path
from foldwise.hdf5 import create_hdf5, open_hdf5, refuse_not_finite

FORMAT = "foldwise-surgical-prediction-1"


@dataclass(frozen=True)
class Prediction:
    """What was predicted of a video of n frames.

    Attributes:
        case: its name.
        rows: (n,) int64, the frames in the annotation's numbering.
        times: (n,) of the frames. s.
        fps: frames per second.
        phases: names; () of a model without phases.
        tools: names; () of a model without tools.
        phase: (n, phases) probabilities that sum to 1.
        tool: (n, tools) probabilities, each for itself.
    """

    case: str
    rows: np.ndarray
    times: np.ndarray
    fps: float
    phases: tuple[str, ...]
    tools: tuple[str, ...]
    phase: np.ndarray
    tool: np.ndarray


def write_prediction(path: Path, made: Prediction) -> None:
    """Write a prediction atomically.

    Raises:
        CaseError: a probability is not finite.
    """
    for probabilities in (made.phase, made.tool):
        refuse_not_finite(made.case, probabilities)
    with atomic_path(path) as temporary, create_hdf5(temporary) as file:
        file["row"], file["time_s"] = made.rows, made.times
        file["phase"] = made.phase.astype(np.float32)
        file["tool"] = made.tool.astype(np.float32)
        file.attrs.update({"format": FORMAT, "case": made.case, "fps": made.fps})
        file.attrs.update({"phases": list(made.phases), "tools": list(made.tools)})


def read_prediction(path: Path) -> Prediction:
    """Read a prediction.

    Raises:
        CaseError: not one.
    """
    with open_hdf5(path, FORMAT) as file:
        return Prediction(
            case=str(file.attrs["case"]),
            rows=file["row"][()],
            times=file["time_s"][()],
            fps=float(file.attrs["fps"]),
            phases=_names(file.attrs["phases"]),
            tools=_names(file.attrs["tools"]),
            phase=file["phase"][()],
            tool=file["tool"][()],
        )


def _names(values: Sequence[object]) -> tuple[str, ...]:
    return tuple(str(value) for value in values)
