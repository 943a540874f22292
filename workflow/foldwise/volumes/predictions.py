"""A case's prediction as HDF5, and the way back to a label map in the source's own grid."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from foldwise.cache import lineage_of
from foldwise.files import CaseError, atomic_path
from foldwise.volumes.postprocess import POSTPROCESSES
from foldwise.volumes.volume import Volume

FORMAT = "foldwise-prediction-1"


def write_prediction(
    path: Path,
    case: str,
    probabilities: np.ndarray,
    lineage: object,
    classes: tuple[str, ...],
) -> None:
    """Write class probabilities and their label map on the cached grid.

    Args:
        path: HDF5 file.
        case: its name.
        probabilities: (classes, x, y, z), 0 to 1, background left out; stored in 255 steps.
        lineage: the grid's lineage.
        classes: names, in the order of the first axis.
    """
    quantised = np.rint(probabilities * 255).astype(np.uint8)
    compression = hdf5plugin.Blosc2(cname="zstd", clevel=5, filters=hdf5plugin.Blosc2.BITSHUFFLE)
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        chunks = (1, *(min(64, n) for n in quantised.shape[1:]))
        file.create_dataset("probability", data=quantised, chunks=chunks, compression=compression)
        file.create_dataset("label", data=_largest(quantised), chunks=chunks[1:], compression=compression)
        file.attrs.update(
            {
                "format": FORMAT,
                "case": case,
                "classes": list(classes),
                "lineage": json.dumps(lineage.as_dict()),  # type: ignore[attr-defined]
            }
        )


def open_prediction(path: Path) -> h5py.File:
    """Open a prediction read-only.

    Raises:
        CaseError: the file is missing, truncated, or no prediction.
    """
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise CaseError(f"{path}: not a readable HDF5 file ({error}); delete it and test again") from error
    if file.attrs.get("format") != FORMAT:
        file.close()
        raise CaseError(f"{path}: not a prediction of this version of Foldwise; test again")
    return file


def label_map(path: Path, classes: dict[str, int], postprocess: str = "none") -> Volume:
    """The predicted label map in the source's grid, with the label files' own values.

    Probabilities are interpolated linearly to the source's voxels and the largest wins, so borders are
    finer than those of an interpolated label map.

    Args:
        path: what `write_prediction` wrote.
        classes: class name → voxel value.
        postprocess: a key of `POSTPROCESSES`.
    """
    with open_prediction(path) as file:
        lineage = lineage_of(file)
        box = np.stack([lineage.to_box(p.astype(np.float32)) for p in file["probability"]])
        names = [str(name) for name in file.attrs["classes"]]
    values = np.array([0, *(classes[name] for name in names)])
    made = values.astype(np.uint8 if values.max() < 256 else np.uint16)[_largest(box)]
    return lineage.to_source(POSTPROCESSES[postprocess](made, classes))


def probability_maps(path: Path) -> dict[str, Volume]:
    """Each class's probability, 0 to 1 float32, in the source's grid."""
    with open_prediction(path) as file:
        lineage = lineage_of(file)
        names = [str(name) for name in file.attrs["classes"]]
        return {
            name: lineage.to_source(lineage.to_box(p.astype(np.float32)) / np.float32(255))
            for name, p in zip(names, file["probability"], strict=True)
        }


def _largest(probabilities: np.ndarray) -> np.ndarray:
    """Number of the most probable class, 0 for background, from (classes, x, y, z) in 0…255."""
    background = 255 - probabilities.sum(0, dtype=np.float32)
    best = probabilities.max(0)
    return np.where(best > background, 1 + probabilities.argmax(0), 0).astype(np.uint8)
