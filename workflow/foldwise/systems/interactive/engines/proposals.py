"""What programs write that segment by themselves: a label map, or a folder with a mask for each structure."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nibabel as nib
import numpy as np

from foldwise.files import CaseError, read_json
from foldwise.systems.interactive.engines import Scan
from foldwise.volumes.suffixes import is_nifti, stem_of, suffix_of
from foldwise.volumes.targets import label_type
from foldwise.volumes.volume import Header, Volume, read_volume, same_grid

# Names of labels in the header, as Connectome Workbench writes them, and TotalSegmentator (with the code 0).
CARET = b"<CaretExtension>"


def read_label_map(path: Path, scan: Scan) -> tuple[np.ndarray, dict[int, str]]:
    """The values (x, y, z) of a label map on the scan's grid, and the names that the file knows of them.

    Names are those of a table in its header, or of a dataset.json beside it, as nnU-Net writes it.

    Raises:
        CaseError: it cannot be read, has another grid, or values that are not whole numbers from 0.
    """
    values = _on_grid(path, scan)
    whole = np.rint(values)
    if not np.array_equal(whole, values) or values.min() < 0 or values.max() > np.iinfo(np.int32).max:
        raise CaseError(f"{path}: expected a label map: whole numbers from 0, background 0")
    labels = whole.astype(label_type(int(whole.max())))
    return labels, {**_names_beside(path), **_names_in_header(path)}


def read_masks(folder: Path, scan: Scan) -> tuple[np.ndarray, dict[int, str]]:
    """Masks in a folder, one for each structure, as a label map, and the files' names by its values.

    A voxel of several structures is given to the smallest of them, which else could vanish.

    Raises:
        CaseError: there are none, or one cannot be read, has another grid, or several values beside 0.
    """
    files = sorted(path for path in folder.iterdir() if suffix_of(path.name))
    if not files:
        raise CaseError(f"{folder}: expected a label map or a mask for each structure; found no volumes")
    masks: dict[int, np.ndarray] = {}
    for number, path in enumerate(files, start=1):
        values = _on_grid(path, scan)
        if len(set(np.unique(values).tolist()) - {0}) > 1:
            raise CaseError(f"{path}: expected a mask: 0, and one other value")
        masks[number] = np.packbits(values != 0)
    size = int(np.prod(scan.shape))
    labels = np.zeros(size, label_type(len(files)))
    sizes = {number: int(np.bitwise_count(mask).sum()) for number, mask in masks.items()}
    for number in sorted(masks, key=lambda number: -sizes[number]):
        labels[np.unpackbits(masks[number], count=size).view(bool)] = number
    if shared := sum(sizes.values()) - np.count_nonzero(labels):
        logging.warning(
            "%s: %d voxels are in several structures; each went to its smallest one", folder, shared
        )
    return labels.reshape(scan.shape), {n: stem_of(path.name) for n, path in enumerate(files, start=1)}


def _on_grid(path: Path, scan: Scan) -> np.ndarray:
    """The voxels of a file on the scan's grid; its axes may be turned, but not its voxels moved."""
    volume = read_volume(path)
    grid = Header(scan.shape, scan.affine, volume.data.dtype)
    if not same_grid(volume, grid):
        turned = volume.oriented("".join(nib.aff2axcodes(scan.affine)))
        if not same_grid(turned, grid):
            raise CaseError(
                f"{path}: its grid (shape {volume.data.shape}, spacing {_spacing(volume)}) is not the scan's "
                f"(shape {scan.shape}, spacing {_spacing(scan)}); the program must write its result on the "
                f"scan's own grid"
            )
        volume = turned
    return volume.data


def _spacing(volume: Volume | Scan) -> str:
    return " × ".join(f"{edge:.3g}" for edge in volume.spacing) + " mm"


def _names_in_header(path: Path) -> dict[int, str]:
    if not is_nifti(path):
        return {}
    header: Any = nib.load(path).header
    for extension in getattr(header, "extensions", []):
        content = bytes(extension.content).strip(b"\0 \n")
        if CARET in content:
            table = ElementTree.fromstring(content).iter("Label")
            return {int(entry.attrib["Key"]): (entry.text or "").strip() for entry in table}
    return {}


def _names_beside(path: Path) -> Mapping[int, str]:
    about = path.with_name("dataset.json")
    labels = read_json(about).get("labels", {}) if about.is_file() else {}
    # Of regions, nnU-Net lists several values.
    return {value: name for name, value in labels.items() if isinstance(value, int) and value > 0}
