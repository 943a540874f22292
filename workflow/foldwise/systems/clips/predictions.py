"""The prediction of a clip, an HDF5 file: probabilities of the classes, and of each view.

Layout: probabilities (classes,) float64; views (views, classes) float32; of a network that learnt attention,
bag (networks, 1 + classes) float64 (see patients.py), all views as one. Attributes: format, case, classes,
source, the frame cache or file of regions that the network saw, and facts about it (JSON; see `facts_of`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from foldwise.files import atomic_path
from foldwise.hdf5 import create_hdf5, open_hdf5, refuse_not_finite

FORMAT = "foldwise-clip-2"
# The attribute with facts about a clip, in predictions and stored features.
FACTS = "facts"


def facts_of(file: h5py.File) -> dict[str, Any]:
    """Facts about a clip for tables, from its frame cache, file of regions, or stored features.

    Returns:
        `frames`; `seconds`; `fps`, the mean rate; `damaged`, the number of frames left out; with regions also
        `region`, their box "x0 y0 x1 y1" in pixels of the video, or "" if none is found; `region_share`, the
        mean share of the frame; and `review`, why a person should check the region.
    """
    attrs = file.attrs
    if FACTS in attrs:
        return dict(json.loads(attrs[FACTS]))
    frames, fps = int(attrs["frames"]), float(attrs["fps"])
    seconds = frames / fps if fps else 0.0
    facts: dict[str, Any] = {"frames": frames, "seconds": round(seconds, 3), "fps": round(fps, 4)}
    facts["damaged"] = int(attrs["damaged"])
    if "provenance" in attrs:
        region = json.loads(attrs["provenance"])
        scale = [attrs[f"source_{side}"] / attrs[side] for side in ("width", "height")] * 2
        box = [str(round(edge * by)) for edge, by in zip(attrs["region_box"], scale, strict=True)]
        facts["region"] = " ".join(box) if attrs["region_found"] else ""
        facts |= {"region_share": round(region["share"], 4), "review": region["review"]}
    return facts


def write_prediction(
    path: Path,
    case: str,
    classes: Sequence[str],
    views: np.ndarray,
    source: str,
    facts: Mapping[str, Any],
    bag: np.ndarray | None = None,
) -> None:
    """Write a case's probabilities (views, classes) and their mean, and its part of a bag, atomically.

    Raises:
        CaseError: a probability, or an attention, is not finite.
    """
    refuse_not_finite(case, views)
    if bag is not None:
        refuse_not_finite(case, bag)
    with atomic_path(path) as temporary, create_hdf5(temporary) as file:
        file["probabilities"] = views.mean(axis=0)
        file["views"] = views.astype(np.float32)
        if bag is not None:
            file["bag"] = bag
        file.attrs.update({"format": FORMAT, "case": case, "classes": list(classes), "source": source})
        file.attrs[FACTS] = json.dumps(dict(facts))


def read_prediction(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (classes,) and those of each view (views, classes).

    Raises:
        CaseError: the file is missing, truncated, or not such a prediction.
    """
    with open_hdf5(path, FORMAT) as file:
        return file["probabilities"][()], file["views"][()]


def read_bag(path: Path) -> np.ndarray | None:
    """The case's part of a bag (networks, 1 + classes), see patients.py; None without learned attention."""
    with open_hdf5(path, FORMAT) as file:
        return file["bag"][()] if "bag" in file else None


def read_classes(path: Path) -> list[str]:
    """Names of the classes of a prediction."""
    with open_hdf5(path, FORMAT) as file:
        return [str(name) for name in file.attrs["classes"]]


def read_facts(path: Path) -> dict[str, Any]:
    """Facts about the clip; see `facts_of`."""
    with open_hdf5(path, FORMAT) as file:
        return facts_of(file)


def read_source(path: Path) -> Path:
    """The frame cache or file of regions that the network saw."""
    with open_hdf5(path, FORMAT) as file:
        return Path(str(file.attrs["source"]))
