"""Curves of training: which values share an axis."""

import re

import numpy as np
import pandas as pd

from foldwise.report.figures import curves

LOG = pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0], "lr": [0.1, 0.05], "val_dice": [np.nan, 0.6]})
TITLES = ("loss", "validation Dice", "Dice of patches", "learning rate")


def panels(log: pd.DataFrame) -> tuple[list[str], int]:
    """Titles of the panels, and the number of dashed lines."""
    text = curves("unet", {0: log}, {0: 2}, "val_dice", "validation Dice")
    words = re.findall(r">([^<>]+)</text>", text)
    return [word for word in words if any(title in word for title in TITLES)], text.count("stroke-dasharray")


def test_the_dice_of_patches_never_shares_an_axis_with_that_of_volumes() -> None:
    titles, dashed = panels(LOG.assign(val_loss=[1.5, 1.2], patch_dice=[0.3, 0.4]))
    assert titles == [
        "loss (dashed: validation samples)",
        "validation Dice",
        "Dice of patches (curve only)",
        "learning rate",
    ]
    assert dashed == 1


def test_without_samples_nothing_is_said_of_them() -> None:
    assert panels(LOG) == (["training loss", "validation Dice", "learning rate"], 0)
