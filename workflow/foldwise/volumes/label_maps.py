"""Label maps in the source's grid, kept for the export: one for each choice of post-processing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from foldwise.scores import Chosen, open_scores, scores_in
from foldwise.volumes.geometry import Box, bounding_box, int3
from foldwise.volumes.volume import Volume

GROUP = "labels"


def labelled_box(*maps: np.ndarray) -> Box:
    """The box of the voxels that any of some label maps (x, y, z) labels, with one more voxel on each side.

    Outside it, nothing can be scored or post-processed; cc3d fails on some arrays that are one voxel thin.
    """
    labelled = maps[0] > 0
    for other in maps[1:]:
        labelled |= other > 0
    if not labelled.any():
        return Box((0, 0, 0), int3(min(1, n) for n in labelled.shape))
    return bounding_box(labelled, 1, (1.0, 1.0, 1.0))


def keep_label_maps(file: h5py.File, maps: Sequence[np.ndarray], box: Box, whole: Volume) -> None:
    """Keep label maps; equal ones, i.e. the same object, are stored once.

    Args:
        file: of the case's scores.
        maps: (x, y, z) within the box, one for each choice.
        box: their place in the source's grid.
        whole: a volume with the source's grid.
    """
    group = file.create_group(GROUP)
    group.attrs.update({"start": box.start, "shape": whole.data.shape, "affine": whole.affine})
    stored: dict[int, h5py.Dataset] = {}
    for number, labels in enumerate(maps):
        if id(labels) in stored:
            group[str(number)] = stored[id(labels)]  # a second name
        else:
            compression = hdf5plugin.Blosc2(cname="zstd", clevel=5, filters=hdf5plugin.Blosc2.BITSHUFFLE)
            stored[id(labels)] = group.create_dataset(
                str(number), data=labels, chunks=labels.shape, compression=compression
            )


def kept_label_map(path: Path, chosen: Chosen) -> Volume:
    """The label map of a case with a choice, in the source's grid.

    Raises:
        CaseError: the file is broken, or the choice was not among those that were scored.
    """
    number = scores_in(path).number(chosen)
    with open_scores(path) as file:
        group = file[GROUP]
        box = group[str(number)][()]
        full = np.zeros(group.attrs["shape"], box.dtype)
        full[Box(int3(group.attrs["start"]), int3(box.shape)).slices] = box
        return Volume(full, group.attrs["affine"])
