"""The report of segmentations: metrics, pictures of cases, and cases to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foldwise.report.figures import picture
from foldwise.report.results import Experiment, ModelResults, Remark
from foldwise.report.tables import Column, number
from foldwise.report.view import Picture, View
from foldwise.volumes.cache import gone, lost_of, open_case
from foldwise.volumes.postprocess import text
from foldwise.volumes.predictions import open_prediction
from foldwise.volumes.remarks import lung_remarks

# The first one ranks cases and appears at the top of the page.
METRICS = (
    Column("dice", "Dice", 3),
    Column("jaccard", "Jaccard", 3),
    Column("hd95_mm", "HD95 (mm)", 1),
    Column("assd_mm", "ASSD (mm)", 2),
    Column("surface_dice", "surface Dice", 3),
    Column("volume_error_ml", "volume error (ml)", 2),
    Column("lesion_recall", "lesion recall", 2),
    Column("false_lesions", "false lesions", 2),
)
# For a single case, counts are more informative than ratios.
CASE_METRICS = (
    Column("dice", "Dice", 3),
    Column("hd95_mm", "HD95 (mm)", 1),
    Column("surface_dice", "surface Dice", 3),
    Column("truth_ml", "truth (ml)", 2),
    Column("volume_ml", "found (ml)", 2),
    Column("volume_error_ml", "error (ml)", 2),
    Column("lesions", "lesions"),
    Column("lesions_found", "found"),
    Column("false_lesions", "false"),
)
EXCLUDED = (
    "Left out and counted: for overlaps and distances, the cases in which truth and prediction are empty; "
    "for lesion recall, those without a true lesion. If only one of the two is empty, HD95 is the scan's "
    "diagonal."
)

# Of Okabe and Ito's palette: distinguishable for colour-blind readers, and bright on a grey scan.
COLOURS = {"truth": "#56B4E9", "prediction": "#E69F00"}
# The lung window of radiology: centre −500 HU, width 1500 HU.
LUNG_WINDOW_HU = (-1250.0, 250.0)
# Slices of the first axis counted at once.
SLAB = 64


def pictures(experiment: Experiment, model: ModelResults) -> list[Picture]:
    """The best, the median and the worst case, in three planes."""
    shown = []
    for which, case, dice in three_cases(model.metrics):
        image = overlay(experiment.caches / f"{case}.h5", model.predictions[case])
        alternative = f"{which} case, {case}: three planes with outlines of truth and prediction"
        shown.append(Picture(image, f"{which.capitalize()}: {case}, Dice {number(dice, 3)}", alternative))
    return shown


def chosen(choice: Mapping[str, Any]) -> str:
    """The chosen post-processing."""
    return ", ".join(map(text, choice["postprocess"]))


def remarks(cases: Mapping[str, Any], data: Path, caches: Path) -> list[Remark]:
    """Remarks on lungs and regions, and lost instances."""
    return _lost(cases, caches) + lung_remarks(cases, data)


def _lost(cases: Mapping[str, Any], caches: Path) -> list[Remark]:
    """Cases whose caches lack instances of their labels, after a line with the sums."""
    listed, sums = [], dict[str, Counter[str]]()
    for case in cases:
        if not (path := caches / f"{case}.h5").exists():
            continue
        with open_case(path) as file:
            counts = lost_of(file)
        for name, count in counts.items():
            sums.setdefault(name, Counter()).update({**count, "cases": 1, "lacking": gone(count) > 0})
            if gone(count):
                listed.append(Remark(case, _lost_text(name, count)))
    everywhere = [
        Remark("all cases", f"{_lost_text(name, of)}, in {of['lacking']} of {of['cases']} cases")
        for name, of in sums.items()
        if gone(of)
    ]
    return everywhere + listed


def _lost_text(name: str, count: Mapping[str, int]) -> str:
    causes = {"cut_away": "outside the crop", "resampled": "smaller than voxels of the cache"}
    parts = ", ".join(f"{count[key]} {text}" for key, text in causes.items() if count[key])
    return f"{gone(count)} of {count['instances']} instances of {name} are lost: {parts}"


def three_cases(rows: pd.DataFrame) -> list[tuple[str, str, float]]:
    """The best, the median and the worst case by mean Dice over classes: (which, case, Dice).

    Of an even number the lower of both middle cases is the median. No case is given twice: of two cases, one
    is the best and one the worst.
    """
    ranked = rows.groupby("case")["dice"].mean().dropna().sort_values(ascending=False, kind="stable")
    places = {"best": 0, "median": len(ranked) // 2, "worst": len(ranked) - 1}
    # If two names share a place, the later name gets it.
    chosen = {place: which for which, place in places.items() if len(ranked)}
    return [(which, str(ranked.index[place]), float(ranked.iloc[place])) for place, which in chosen.items()]


def overlay(cache: Path, prediction: Path) -> str:
    """Three planes through a case with truth and prediction drawn, as a data address.

    Each plane shows the slice in which the truth, or for an empty truth the prediction, has its largest
    area. All are drawn to the same scale in mm, in radiological convention: the patient's right, and in the
    sagittal plane the front, on the left.

    Args:
        cache: HDF5 in RAS orientation: image (channels, x, y, z), label (x, y, z) if it exists.
        prediction: HDF5 with a label on the same grid.
    """
    with open_case(cache) as file, open_prediction(prediction) as predicted:
        spacing = [float(edge) for edge in file.attrs["spacing"]]
        labels = {
            name: f["label"] for name, f in (("truth", file), ("prediction", predicted)) if "label" in f
        }
        classes = len(file.attrs["classes"])
        centre = _centre([*labels.values()], classes)
        images, contours = {}, {}
        for axis in (2, 1, 0):
            place = tuple(centre[a] if a == axis else slice(None) for a in range(3))
            images[axis] = file["image"][(0, *place)]
            contours[axis] = {name: _of_classes(label[place], classes) for name, label in labels.items()}
    extents = {
        axis: tuple(n * spacing[a] for n, a in zip(image.shape, _others(axis), strict=True))
        for axis, image in images.items()
    }
    window = _window([*images.values()])
    width = sum(across for across, _ in extents.values())
    tallest = max(up for _, up in extents.values())
    figure = Figure(figsize=(9.6, 0.4 + 9.4 * tallest / width), facecolor="black")
    figure.set_layout_engine("constrained", h_pad=0.08)
    panels = figure.subplots(1, 3, width_ratios=[across for across, _ in extents.values()])
    names = {2: ("axial", "R"), 1: ("coronal", "R"), 0: ("sagittal", "A")}
    for axes, (axis, image) in zip(panels, images.items(), strict=True):
        _plane(axes, image, contours[axis], extents[axis], window)
        title, side = names[axis]
        axes.set_title(title, fontsize=8, color="white")
        axes.text(0.01, 0.5, side, transform=axes.transAxes, fontsize=9, color="white", va="center")
    return picture(figure)


def concerns(rows: pd.DataFrame) -> list[dict[str, str]]:
    """Cases that a reader should look at, with reasons: rows of case, class and text."""
    listed = []
    for row in rows.to_dict("records"):
        if text := _concern(row):
            listed.append({"case": str(row["case"]), "class": str(row["class"]), "text": text})
    return listed


def _concern(row: Mapping[Any, Any]) -> str | None:
    if row["empty"]:
        return "truth and prediction are empty; left out of the means"
    if row["volume_ml"] == 0:
        return f"nothing predicted; the truth has {row['truth_ml']:.2f} ml"
    if row["truth_ml"] == 0:
        return f"{row['volume_ml']:.2f} ml predicted; the truth is empty"
    if row["dice"] == 0:
        return f"{row['volume_ml']:.2f} ml predicted, none of it in the truth ({row['truth_ml']:.2f} ml)"
    return None


def _others(axis: int) -> tuple[int, int]:
    """The axes of a plane, across and up."""
    across, up = (a for a in range(3) if a != axis)
    return across, up


def _of_classes(label: np.ndarray, classes: int) -> np.ndarray:
    """A label without the voxels to ignore, whose number comes after those of the classes."""
    return np.where(label > classes, 0, label)


def _centre(labels: list[h5py.Dataset], classes: int) -> list[int]:
    """For each axis, the slice with the largest area of the first non-empty label, else the middle."""
    for label in labels:
        areas = _areas(label, classes)
        if areas[0].any():
            return [int(area.argmax()) for area in areas]
    return [n // 2 for n in labels[0].shape]


def _areas(label: h5py.Dataset, classes: int) -> list[np.ndarray]:
    """Labelled voxels of each slice along each axis, read in slabs, since a whole scan may be large."""
    areas = [np.zeros(n, np.int64) for n in label.shape]
    for start in range(0, label.shape[0], SLAB):
        slab = _of_classes(label[start : start + SLAB], classes) > 0
        areas[0][start : start + SLAB] = slab.sum(axis=(1, 2))
        areas[1] += slab.sum(axis=(0, 2))
        areas[2] += slab.sum(axis=(0, 1))
    return areas


def _window(images: list[np.ndarray]) -> tuple[float, float]:
    """Darkest and brightest displayed value, the same for all planes: CT is int16 and holds air."""
    values = np.concatenate([image.ravel() for image in images])
    if values.dtype == np.int16 and values.min() < -500:
        return LUNG_WINDOW_HU
    low, high = np.percentile(values, [1, 99])
    return float(low), float(high)


def _plane(
    axes: Axes,
    image: np.ndarray,
    contours: Mapping[str, np.ndarray],
    extent: tuple[float, ...],
    window: tuple[float, float],
) -> None:
    """A plane (across, up) with the outline of every class, in mm."""
    edges = (0.0, extent[0], 0.0, extent[1])
    axes.imshow(image.T, cmap="gray", vmin=window[0], vmax=window[1], origin="lower", extent=edges)
    for name, label in contours.items():
        for value in np.unique(label[label > 0]):
            mask = np.pad((label == value).T.astype(float), 1)
            dx, dy = (e / n for e, n in zip(extent, label.shape, strict=True))
            outer = (-dx, extent[0] + dx, -dy, extent[1] + dy)
            axes.contour(mask, [0.5], colors=COLOURS[name], linewidths=1, origin="lower", extent=outer)
    # In RAS x grows to the patient's right and y to the front; readers expect both on the left.
    axes.set(xlim=(extent[0], 0), ylim=(0, extent[1]))
    axes.set_anchor("N")
    axes.set_axis_off()


VIEW = View(
    metrics=METRICS,
    case_metrics=CASE_METRICS,
    score=("val_dice", "validation Dice"),
    about="Scores are computed on the grid of the source files.",
    excluded=EXCLUDED,
    pictures_title="Best, median and worst case",
    pictures_note="R: the patient's right, A: front. Drawn before post-processing.",
    pictures=pictures,
    colours=COLOURS,
    chosen=chosen,
    concerns=concerns,
    remarks=remarks,
)
