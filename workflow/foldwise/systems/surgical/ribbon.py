"""A video as ribbons over time: the true phases over the predicted ones, and the tools below."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from foldwise.systems.surgical.annotations import UNKNOWN
from foldwise.systems.surgical.predictions import Prediction
from foldwise.video.gaps import lasting

# Of Okabe and Ito's palette and of Tol's, distinguishable for colour-blind readers.
COLOURS = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442"),
    *("#332288", "#999933", "#882255", "#44AA99", "#117733"),
)
UNKNOWN_COLOUR = "#DDDDDD"
# Gaps are white, so a tool that is absent is not.
ABSENT_COLOUR = "#F0F0F0"


def ribbon(prediction: Prediction, truth: tuple[np.ndarray, np.ndarray] | None, threshold: float) -> Figure:
    """Draw the ribbons.

    Args:
        prediction: the video's prediction.
        truth: phases (n,) and tools (n, tools), -1 where unknown; or None.
        threshold: probability from which a tool counts as present.
    """
    phase, tool = truth if truth is not None else (None, None)
    bands: list[tuple[str, np.ndarray]] = []
    if prediction.phases:
        if phase is not None and (phase != UNKNOWN).any():
            bands.append(("true phase", phase))
        bands.append(("predicted", prediction.phase.argmax(1)))
    tools = tool if tool is not None and (tool != UNKNOWN).any() else None
    rows = len(bands) + len(prediction.tools)
    figure = Figure(
        figsize=(9.6, 0.9 + 0.32 * rows + (0.3 if prediction.phases else 0)), layout="constrained"
    )
    panels = figure.subplots(rows, 1, squeeze=False)[:, 0]
    edges, shown = cells(prediction.times, prediction.run)
    colours = ListedColormap(
        [UNKNOWN_COLOUR, *(COLOURS[n % len(COLOURS)] for n in range(len(prediction.phases)))]
    )
    for axes, (title, values) in zip(panels, bands, strict=False):
        _band(axes, edges, shown, values[None].astype(int) + 1, colours)
        axes.set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8)
    for number, axes in enumerate(panels[len(bands) :]):
        lines = [(prediction.tool[:, number] >= threshold).astype(int)]
        if tools is not None:
            lines.insert(0, (tools[:, number] == 1).astype(int))
        # The upper half is the truth, the lower half the prediction.
        marks = ListedColormap([ABSENT_COLOUR, "#333333"])
        _band(axes, edges, shown, np.stack(lines[::-1]), marks)
        axes.set_ylabel(prediction.tools[number], rotation=0, ha="right", va="center", fontsize=8)
    for axes in panels:
        axes.set_yticks([])
        axes.tick_params(labelbottom=axes is panels[-1], labelsize=8)
    panels[-1].set_xlabel("time (min)", fontsize=8)
    if prediction.phases:
        patches = [
            Patch(color=COLOURS[n % len(COLOURS)], label=name) for n, name in enumerate(prediction.phases)
        ]
        figure.legend(handles=patches, loc="outside upper center", ncols=4, fontsize=7, frameon=False)
    return figure


def cells(times: np.ndarray, run: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The stretches of time that frames take on a ribbon, and what they show.

    Args:
        times: (n,) increasing. s.
        run: (n,) of each frame.

    Returns:
        (m + 1,) their edges in minutes, and (m,) the frame of each, -1 in a gap.
    """
    gaps = np.diff(run, append=run[-1]) > 0
    # Frames that are all alone are half as wide as the shortest gap, so that both are seen.
    alone = float(np.diff(times).min()) / 2 if len(times) > 1 else 1.0
    edges, shown = [float(times[0])], list[int]()
    for place, end in enumerate(times + lasting(times, run, alone)):
        edges.append(float(end))
        shown.append(place)
        if gaps[place] and times[place + 1] > end:
            edges.append(float(times[place + 1]))
            shown.append(-1)
    return np.array(edges) / 60, np.array(shown)


def _band(
    axes: Axes, edges: np.ndarray, shown: np.ndarray, values: np.ndarray, colours: ListedColormap
) -> None:
    """Draw rows of values (rows, n), the lowest first, with nothing in gaps."""
    cells = np.ma.array(values[:, shown], mask=np.broadcast_to(shown < 0, (len(values), len(shown))))
    rows = np.arange(len(values) + 1)
    axes.pcolormesh(edges, rows, cells, cmap=colours, vmin=0, vmax=colours.N - 1, rasterized=True)


def write_ribbon(
    prediction: Prediction, truth: tuple[np.ndarray, np.ndarray] | None, threshold: float, path: Path
) -> None:
    """Write the picture as PNG."""
    ribbon(prediction, truth, threshold).savefig(path, format="png", dpi=100)
