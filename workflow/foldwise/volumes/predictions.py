"""A case's prediction as HDF5, and its conversion to a label map on the source's grid."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from foldwise.files import atomic_path
from foldwise.hdf5 import as_json, create_hdf5, open_hdf5, refuse_not_finite
from foldwise.volumes.cache import lineage_of
from foldwise.volumes.geometry import Lineage
from foldwise.volumes.postprocess import POSTPROCESSES
from foldwise.volumes.targets import Targets, label_type
from foldwise.volumes.volume import Volume

FORMAT = "foldwise-prediction-2"


def write_prediction(
    path: Path,
    case: str,
    probabilities: np.ndarray,
    lineage: Lineage,
    targets: Targets,
) -> None:
    """Write class probabilities and their label map on the cached grid.

    Args:
        path: HDF5 file.
        case: its name.
        probabilities: (names, x, y, z), 0 to 1, without background; stored in 255 steps.
        lineage: the grid's lineage.
        targets: the predicted targets; their names are the first axis.

    Raises:
        CaseError: a probability is not finite.
    """
    refuse_not_finite(case, probabilities)
    quantised = quantise(probabilities, together=not targets.regions)
    compression = hdf5plugin.Blosc2(cname="zstd", clevel=5, filters=hdf5plugin.Blosc2.BITSHUFFLE)
    with atomic_path(path) as temporary, create_hdf5(temporary) as file:
        chunks = (1, *(min(64, n) for n in quantised.shape[1:]))
        file.create_dataset("probability", data=quantised, chunks=chunks, compression=compression)
        file.create_dataset(
            "label", data=targets.decode(quantised), chunks=chunks[1:], compression=compression
        )
        file.attrs.update(
            {
                "format": FORMAT,
                "case": case,
                "targets": as_json(targets.as_dict()),
                "lineage": as_json(lineage.as_dict()),
            }
        )


def quantise(probabilities: np.ndarray, together: bool) -> np.ndarray:
    """Probabilities (names, x, y, z) in 255 steps, uint8.

    Args:
        probabilities: 0 to 1.
        together: whether they sum to 1 with the background's. Rounding errors of many classes can add up to
            more
                than a step, and the background is what the classes leave; there they are carried from class
                to class.
    """
    steps = probabilities * 255
    quantised = np.rint(steps).astype(np.uint8)
    if together:
        off = np.abs(quantised.sum(0, dtype=np.float32) - steps.sum(0)) > 1
        sums = np.rint(steps[:, off].cumsum(0))
        quantised[:, off] = np.diff(sums, axis=0, prepend=0)
    return quantised


def open_prediction(path: Path) -> h5py.File:
    """Open a prediction read-only.

    Raises:
        CaseError: the file is missing, truncated, or not a prediction.
    """
    return open_hdf5(path, FORMAT)


def classes_of(path: Path) -> dict[str, int]:
    """The classes of a prediction's label map and their voxel values."""
    with open_prediction(path) as file:
        return _targets_of(file).classes


def label_map(path: Path, postprocess: Sequence[str] = ()) -> Volume:
    """The predicted label map in the source's grid, with the label files' values.

    Probabilities are interpolated linearly to the source's voxels before labels are reconstructed from them,
    so borders are finer than those of an interpolated label map.

    Args:
        path: a file from `write_prediction`.
        postprocess: steps, keys of `POSTPROCESSES`.
    """
    with open_prediction(path) as file:
        lineage, targets = lineage_of(file), _targets_of(file)
        box = np.stack([lineage.to_box(p.astype(np.float32)) for p in file["probability"]])
    values = np.array([0, *targets.classes.values()])
    labels = values.astype(label_type(values.max()))[targets.decode(box)]
    for step in postprocess:
        labels = POSTPROCESSES[step](labels, targets)
    return lineage.to_source(labels)


def probability_maps(path: Path) -> dict[str, Volume]:
    """Each class's or region's probability, 0 to 1 float32, in the source's grid."""
    with open_prediction(path) as file:
        lineage, names = lineage_of(file), _targets_of(file).names
        return {
            name: lineage.to_source(lineage.to_box(p.astype(np.float32)) / np.float32(255))
            for name, p in zip(names, file["probability"], strict=True)
        }


def _targets_of(file: h5py.File) -> Targets:
    return Targets.from_dict(json.loads(file.attrs["targets"]))
