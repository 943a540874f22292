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
from foldwise.volumes.grids import voxel_ml_of
from foldwise.volumes.postprocess import processed
from foldwise.volumes.settings import Step
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
    # Imported only here, since it takes seconds to import.
    import torch

    from foldwise.volumes.probabilities import quantise

    refuse_not_finite(case, probabilities)
    steps = quantise(torch.from_numpy(probabilities * 255), together=not targets.regions).numpy()
    write_steps(case, steps, targets.decode(steps), lineage, targets, path)


def write_steps(
    case: str, steps: np.ndarray, labels: np.ndarray, lineage: Lineage, targets: Targets, path: Path
) -> None:
    """Write probabilities that are in 255 steps already.

    Args:
        case: its name.
        steps: (names, x, y, z), integers.
        labels: (x, y, z), class numbers.
        lineage: the grid's lineage.
        targets: the predicted targets.
        path: HDF5 file.
    """
    compression = hdf5plugin.Blosc2(cname="zstd", clevel=5, filters=hdf5plugin.Blosc2.BITSHUFFLE)
    chunks = (1, *(min(64, n) for n in labels.shape))
    with atomic_path(path) as temporary, create_hdf5(temporary) as file:
        stored = file.create_dataset("probability", steps.shape, np.uint8, chunks=chunks, **compression)
        for row, part in enumerate(steps):
            stored[row] = part.astype(np.uint8, copy=False)
        file.create_dataset("label", data=labels, chunks=chunks[1:], compression=compression)
        file.attrs.update(
            {
                "format": FORMAT,
                "case": case,
                "targets": as_json(targets.as_dict()),
                "lineage": as_json(lineage.as_dict()),
            }
        )


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


def label_map(path: Path, postprocess: Sequence[Step] = ()) -> Volume:
    """The predicted label map in the source's grid, with the label files' values.

    Probabilities are interpolated linearly to the source's voxels before labels are reconstructed from them,
    so borders are finer than those of an interpolated label map.

    Args:
        path: a file from `write_prediction`.
        postprocess: steps, as in the settings.
    """
    with open_prediction(path) as file:
        lineage, targets = lineage_of(file), _targets_of(file)
        # One class after another: all of them would not fit into memory on the source's grid.
        found = targets.decode(lineage.to_box(p.astype(np.float32)) for p in file["probability"])
    values = np.array([0, *targets.classes.values()])
    labels = values.astype(label_type(values.max()))[found]
    for step in postprocess:
        labels = processed(labels, targets, step, voxel_ml_of(lineage.affine))
    return lineage.to_source(labels)


def probability_maps(path: Path) -> dict[str, Volume]:
    """Each class's or region's probability, 0 to 1 float32, in the source's grid."""
    with open_prediction(path) as file:
        lineage, names = lineage_of(file), _targets_of(file).names
        return {
            name: lineage.to_source(lineage.to_box(p.astype(np.float32)) / np.float32(255))
            for name, p in zip(names, file["probability"], strict=True)
        }


def targets_of(path: Path) -> Targets:
    """Classes and regions of a prediction."""
    with open_prediction(path) as file:
        return _targets_of(file)


def _targets_of(file: h5py.File) -> Targets:
    return Targets.from_dict(json.loads(file.attrs["targets"]))
