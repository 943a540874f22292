"""A video's prediction: probabilities of phases and tools for every frame of its cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from foldwise.files import atomic_path
from foldwise.hdf5 import create_hdf5, open_hdf5, refuse_not_finite
from foldwise.systems.surgical.rates import Rate
from foldwise.video.store import open_video

FORMAT = "foldwise-surgical-prediction-2"

Mode = Literal["online", "offline"]

# Rows of all phases, and of all tools.
ALL_PHASES, ALL_TOOLS = "(phases)", "(tools)"


@dataclass(frozen=True)
class Prediction:
    """The prediction for a video of n frames.

    Attributes:
        case: its name.
        rows: (n,) int64, the frames in the annotation's numbering.
        times: (n,) times of the frames. s.
        run: (n,) int32, equal for frames without a gap between them.
        fps: frames per second.
        rate: by which the rows are numbered, per second; None: the video's own frames.
        damaged: number of frames that are left out as damaged.
        phases: names; () for a model without phases.
        tools: names; () for a model without tools.
        phase: (n, phases) probabilities that sum to 1.
        tool: (n, tools) probabilities, independent of each other.
        mode: online: each depends on earlier frames alone; offline: on the whole video.
    """

    case: str
    rows: np.ndarray
    times: np.ndarray
    run: np.ndarray
    fps: float
    rate: Rate
    damaged: int
    phases: tuple[str, ...]
    tools: tuple[str, ...]
    phase: np.ndarray
    tool: np.ndarray
    mode: Mode = "online"


def write_prediction(path: Path, prediction: Prediction) -> None:
    """Write a prediction atomically.

    Raises:
        CaseError: a probability is not finite.
    """
    for probabilities in (prediction.phase, prediction.tool):
        refuse_not_finite(prediction.case, probabilities)
    with atomic_path(path) as temporary, create_hdf5(temporary) as file:
        file["row"], file["time_s"], file["run"] = prediction.rows, prediction.times, prediction.run
        file["phase"] = prediction.phase.astype(np.float32)
        file["tool"] = prediction.tool.astype(np.float32)
        file.attrs.update({"format": FORMAT, "case": prediction.case, "fps": prediction.fps})
        file.attrs.update({"rate": prediction.rate or 0, "damaged": prediction.damaged})
        file.attrs["mode"] = prediction.mode
        file.attrs.update({"phases": list(prediction.phases), "tools": list(prediction.tools)})


def read_prediction(path: Path) -> Prediction:
    """Read a prediction.

    Raises:
        CaseError: not a prediction.
    """
    with open_hdf5(path, FORMAT) as file:
        return Prediction(
            case=str(file.attrs["case"]),
            rows=file["row"][()],
            times=file["time_s"][()],
            run=file["run"][()],
            fps=float(file.attrs["fps"]),
            rate=float(file.attrs["rate"]) or None,
            damaged=int(file.attrs["damaged"]),
            phases=_names(file.attrs["phases"]),
            tools=_names(file.attrs["tools"]),
            phase=file["phase"][()],
            tool=file["tool"][()],
            mode="offline" if file.attrs.get("mode") == "offline" else "online",
        )


def _names(values: Sequence[object]) -> tuple[str, ...]:
    return tuple(str(value) for value in values)


def truth_of(cache: str) -> tuple[np.ndarray, np.ndarray]:
    """Phases (n,) and tools (n, tools) of a cache or of features, -1 where unknown."""
    with open_video(cache) as file:
        return file["phase"][()], file["tool"][()]
