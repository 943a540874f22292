"""DICOM series voxel by voxel beside dcm2niix, a converter with another reader and another order of rows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset
from scipy.ndimage import map_coordinates

from dicom_files import Grid, grids, write_enhanced, write_series
from foldwise.volumes.volume import Volume, read_volume

SHAPE = (20, 24, 6)
STORED = np.random.default_rng(9).integers(-300, 700, SHAPE)
Edit = Callable[[int, Dataset], None]


def converted(folder: Path, out: Path) -> dict[str, nib.Nifti1Image]:
    """dcm2niix's files by name."""
    out.mkdir()
    command = [sys.executable, "-m", "dcm2niix", "-z", "n", "-b", "n", "-f", "scan", "-o"]
    subprocess.run([*command, str(out), str(folder)], check=True, capture_output=True)
    return {path.stem: nib.load(path) for path in out.glob("*.nii")}


def places_of(volume: Volume) -> np.ndarray:
    """Homogeneous places of all voxels, (n, 4)."""
    index = np.stack(np.meshgrid(*map(np.arange, volume.data.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    places: np.ndarray = np.c_[index, np.ones(len(index))] @ volume.affine.T
    return places


def slopes(z: int, one: Dataset) -> None:
    one.RescaleSlope, one.RescaleIntercept = (1, 0) if z == 0 else (0.5 * z, -3)


def unsigned(z: int, one: Dataset) -> None:
    one.PixelRepresentation, one.BitsStored, one.HighBit, one.RescaleIntercept = 0, 12, 11, -1024
    one.PixelData = (np.frombuffer(one.PixelData, np.int16) + 300).astype(np.uint16).tobytes()


def monochrome1(z: int, one: Dataset) -> None:
    one.PhotometricInterpretation = "MONOCHROME1"


STRAIGHT = {name: grid for name, grid in grids(SHAPE).items() if not any(grid.shift)}


@pytest.mark.parametrize(
    ("grid", "edit"),
    [
        *(pytest.param(grid, None, id=name) for name, grid in STRAIGHT.items()),
        *(pytest.param(Grid(SHAPE), edit, id=edit.__name__) for edit in (slopes, unsigned, monochrome1)),
        pytest.param(Grid(SHAPE), "enhanced", id="enhanced"),
    ],
)
def test_values_and_places_are_dcm2niix_s(tmp_path: Path, grid: Grid, edit: Edit | str | None) -> None:
    if isinstance(edit, str):
        write_enhanced(tmp_path / "scan" / "one.dcm", grid, stored=STORED)
    else:
        write_series(tmp_path / "scan", grid, stored=STORED, edit=edit)
    volume = read_volume(tmp_path / "scan")
    (other,) = converted(tmp_path / "scan", tmp_path / "out").values()
    index = (places_of(volume) @ np.linalg.inv(other.affine).T)[:, :3]
    assert np.abs(index - np.round(index)).max() < 1e-3
    assert sorted(other.shape) == sorted(volume.data.shape)
    found = np.asarray(other.dataobj)[tuple(np.round(index).astype(int).T)]
    assert np.array_equal(found, volume.data.ravel())


@pytest.mark.parametrize("degrees", [-20, -8, 15])
def test_a_tilted_stack_is_where_dcm2niix_puts_it_when_straightened(tmp_path: Path, degrees: int) -> None:
    """A ramp in mm: interpolation keeps it, and any other place of a voxel gives another value.

    Where the rows have to move up, dcm2niix pads by whole rows and moves the stack by the remainder.
    """
    grid = replace(Grid(SHAPE), shift=(0, 2.5 * np.tan(np.deg2rad(degrees))))
    ramp = np.round(20 * (grid.mm(grid.centres()) @ [1, 2, 3]))
    write_series(tmp_path / "scan", grid, stored=ramp)
    volume = read_volume(tmp_path / "scan")
    found = converted(tmp_path / "scan", tmp_path / "out")
    (straight,) = (image for name, image in found.items() if "Tilt" in name)
    other = Volume(np.asarray(straight.dataobj), straight.affine)
    index = (places_of(other) @ np.linalg.inv(volume.affine).T)[:, :3]
    margin = np.array([0, 1, 0]) + 0.01
    inside = ((index > margin) & (index < np.array(SHAPE) - 1 - margin)).all(axis=1)
    assert inside.sum() > 800
    ours = map_coordinates(volume.data.astype(float), index[inside].T, order=1)
    apart = ours - other.data.ravel()[inside]
    whole = 0 if degrees < 0 else np.median(apart)
    assert abs(whole) < 20 * 2 * grid.spacing[1]  # less than a row
    assert np.abs(apart - whole).max() < 1.01  # two roundings
