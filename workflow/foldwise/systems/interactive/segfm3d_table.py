"""The report's table of the challenge's protocol."""

from __future__ import annotations

import pandas as pd

from foldwise.report.tables import Column, Table
from foldwise.systems.interactive.segfm3d import CLICKS, MOST_SECONDS

SCORES = (
    Column("dice", "Dice, final", 3),
    Column("nsd", "NSD, final", 3),
    Column("dice_auc", "Dice, area (0–4)", 3),
    Column("nsd_auc", "NSD, area (0–4)", 3),
    Column("dice_box", "Dice, box", 3),
    Column("nsd_box", "NSD, box", 3),
    Column("seconds_per_class", "s per class", 1),
)
COLUMNS = (
    Column("class", "object", text=True),
    Column("cases", "cases"),
    *SCORES,
    Column("late", f"beyond {MOST_SECONDS:.0f} s"),
)
CAPTION = (
    "Rules of the CVPR 2025 challenge on interactive 3-D segmentation (segfm3d): a box on the middle slice "
    f"with first and last slice, then {CLICKS} clicks, each at the deepest voxel of the largest wrong part. "
    "Final: after the last click. Area: under the curve over the clicks, by the trapezoid rule. NSD: surface "
    "Dice at 2 mm, 0 in cases whose mean Dice is at most 0.2. Seconds per class: all rounds of a case, "
    f"divided by its number of objects. A case beyond {MOST_SECONDS:.0f} s counts with 0 in every score. All "
    "objects: mean over cases of the mean over a case's objects. Published figures are of the "
    "challenge's own images."
)


def protocol_table(rows: pd.DataFrame) -> Table:
    """A row for each object, and one for all.

    Args:
        rows: columns case, class, and the attributes of `segfm3d.Outcome`; a row for each case and object.
    """
    names = [column.key for column in SCORES]
    values = rows.astype(dict.fromkeys(names, float))
    listed: list[dict[str, str | float]] = []
    for name, group in values.groupby("class", sort=False):
        counts = {"cases": len(group), "late": int(group["late"].sum())}
        listed.append({"class": str(name), **_means(group[names].mean()), **counts})
    cases = values.groupby("case")
    whole = {"cases": len(cases), "late": int(cases["late"].any().sum())}
    listed.append({"class": "all objects", **_means(cases[names].mean().mean()), **whole})
    return Table(CAPTION, COLUMNS, listed)


def _means(values: pd.Series) -> dict[str, float]:
    return {str(name): float(value) for name, value in values.items()}
