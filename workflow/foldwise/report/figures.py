"""Figures as SVG or PNG text that stands in the page itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foldwise.cache import open_case
from foldwise.volumes.predictions import open_prediction

# Okabe and Ito's palette: told apart by colour-blind readers, on grey scans too.
TRUTH, PREDICTION = "#56B4E9", "#E69F00"
# A chest CT as radiologists look at lungs.
WINDOW_HU = (-1250, 250)


def curves(logs: Mapping[int, pd.DataFrame]) -> str:
    """Loss, validation Dice (the chosen epoch marked) and learning rate over epochs, a line per fold."""
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    axes = figure.subplots(1, 3)
    for fold, log in sorted(logs.items()):
        axes[0].plot(log["epoch"], log["loss"], label=f"fold {fold}")
        if "val_dice" in log and log["val_dice"].notna().any():
            seen = log[log["val_dice"].notna()]
            (line,) = axes[1].plot(seen["epoch"], seen["val_dice"])
            best = int(seen["val_dice"].to_numpy().argmax())
            chosen = seen["epoch"].iloc[best], seen["val_dice"].iloc[best]
            axes[1].plot(*chosen, "o", color=line.get_color())
        axes[2].plot(log["epoch"], log["lr"])
    for axis, title in zip(axes, ("training loss", "validation Dice", "learning rate"), strict=True):
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("epoch", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=7, frameon=False)
    return _svg(figure)


def overlay(cache: Path, prediction: Path) -> str:
    """Three planes through a case with truth and prediction drawn, as a PNG data address.

    The planes cross where the truth, or for an empty truth the prediction, is largest. Only the drawn slices
    of the image are read.
    """
    with open_case(cache) as file, open_prediction(prediction) as predicted:
        found = predicted["label"][()] > 0
        truth = file["label"][()] > 0 if "label" in file else np.zeros_like(found)
        spacing = file.attrs["spacing"]
        shown = truth if truth.any() else found
        centre = [
            int(shown.sum(axis=tuple(a for a in range(3) if a != axis)).argmax())
            if shown.any()
            else shown.shape[axis] // 2
            for axis in range(3)
        ]
        figure = Figure(figsize=(9, 3.2), layout="constrained", facecolor="black")
        for axes, axis, name in zip(
            figure.subplots(1, 3), (2, 1, 0), ("axial", "coronal", "sagittal"), strict=True
        ):
            place = tuple(centre[a] if a == axis else slice(None) for a in range(3))
            step = [spacing[a] for a in range(3) if a != axis]
            image = file["image"][(0, *place)]
            _plane(axes, image, truth[place], found[place], step[1] / step[0])
            axes.set_title(name, fontsize=8, color="white")
    return _png(figure)


def _plane(axes: Axes, image: np.ndarray, truth: np.ndarray, found: np.ndarray, aspect: float) -> None:
    low, high = WINDOW_HU if image.min() < -200 else np.percentile(image, [1, 99])
    axes.imshow(image.T, cmap="gray", vmin=low, vmax=high, origin="lower", aspect=aspect)
    for mask, colour in ((truth, TRUTH), (found, PREDICTION)):
        if mask.any() and not mask.all():
            axes.contour(mask.T.astype(float), [0.5], colors=colour, linewidths=1.2)
    axes.set_axis_off()


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _png(figure: Figure) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=90)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
