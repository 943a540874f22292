"""Figures as SVG or WebP text, embedded in the page."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

# Okabe and Ito's palette, distinguishable for colour-blind readers; without black and yellow, which
# each vanish on one of the page's two backgrounds.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
# Column of the Dice of validation patches, in logs of segmentation.
PATCHES = "patch_dice"


def curves(
    model: str, logs: Mapping[int, pd.DataFrame], best: Mapping[int, int | None], score: str, title: str
) -> str:
    """Losses, validation score and learning rate over epochs, a line per fold, as SVG.

    The loss of validation samples is dashed. The Dice of patches has a panel of its own: it is not that of
    whole volumes.

    Args:
        model: its name, from which the drawing's identifiers are derived.
        logs: fold → a row per epoch.
        best: fold → epoch whose weights are used; marked in the score's panel.
        score: column of the validation score; without values the panel is left out.
        title: title of the score's panel.
    """
    validated = any(score in log and log[score].notna().any() for log in logs.values())
    sampled = {name: any(name in log for log in logs.values()) for name in ("val_loss", PATCHES)}
    panels = {
        "loss": "loss (dashed: validation samples)" if sampled["val_loss"] else "training loss",
        **({score: title} if validated else {}),
        **({PATCHES: "Dice of patches (curve only)"} if sampled[PATCHES] else {}),
        "lr": "learning rate",
    }
    figure = Figure(figsize=(3.4 * len(panels), 2.7), layout="constrained")
    for axes, (column, name) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for (fold, log), colour in zip(sorted(logs.items()), PALETTE * len(logs), strict=False):
            if column in log:
                seen = log[log[column].notna()]
                # A dot for folds with a single epoch, which have no line.
                axes.plot(seen["epoch"], seen[column], color=colour, lw=1.4, label=f"fold {fold}",
                          marker="." if len(seen) == 1 else None)  # fmt: skip
            if column == "loss" and "val_loss" in log:
                axes.plot(log["epoch"], log["val_loss"], color=colour, lw=1.1, ls="--")
            if column == score and column in log:
                chosen = log[log["epoch"] == best.get(fold)]
                axes.plot(chosen["epoch"], chosen[column], "o", color=colour, ms=6)
        _tidy(axes, name)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center",
                  ncols=10, fontsize=8, frameon=False)  # fmt: skip
    return _svg(figure, model)


def picture(figure: Figure) -> str:
    """A figure as a data address, in lossless WebP: a scan takes half the size of a PNG."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    Image.open(drawn).convert("RGB").save(small, format="webp", lossless=True)
    return "data:image/webp;base64," + base64.b64encode(small.getvalue()).decode()


def _tidy(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("epoch", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if title == "learning rate":
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))


def _svg(figure: Figure, salt: str) -> str:
    text = io.StringIO()
    # Text stays text (small, searchable); identifiers are the same in each run but differ between figures.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    drawing = text.getvalue()[text.getvalue().index("<svg") :]
    # Groups of all figures have the same names; a page must contain each only once.
    return re.sub(r'<g id="[^"]*"', "<g", drawing)
