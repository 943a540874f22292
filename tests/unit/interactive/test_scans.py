"""Scans for a session: types, channels, and the axis across the slices."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from foldwise.files import CaseError
from foldwise.systems.interactive.engines import Scan
from foldwise.systems.interactive.scans import modality, read_scan, thickest


def write(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine, dtype=data.dtype), path)
    return path


@pytest.mark.parametrize(
    ("stored", "kept"),
    [("int64", "int32"), (">i2", "int16"), ("uint32", "uint32"), ("float64", "float64"), ("uint8", "uint8")],
)
def test_values_keep_a_type_that_browsers_know(tmp_path: Path, stored: str, kept: str) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(stored)
    scan = read_scan([write(tmp_path / "a.nii", values)])
    assert scan.image.dtype == np.dtype(kept)
    assert np.array_equal(scan.image[0], np.arange(24).reshape(2, 3, 4))


def test_values_beyond_32_bits_are_floats(tmp_path: Path) -> None:
    values = np.array([[[0, 2**40]]])
    scan = read_scan([write(tmp_path / "a.nii", values)])
    assert scan.image.dtype == np.float64
    assert scan.image.max() == 2**40


def test_channels_share_a_grid_and_a_type(tmp_path: Path) -> None:
    first = write(tmp_path / "a.nii", np.full((2, 3, 4), -5, np.int16))
    second = write(tmp_path / "b.nii", np.full((2, 3, 4, 2), 0.5, np.float32))
    scan = read_scan([first, second])
    assert scan.image.shape == (3, 2, 3, 4)
    assert scan.image[:, 0, 0, 0].tolist() == [-5, 0.5, 0.5]
    with pytest.raises(CaseError, match=r"c\.nii: its grid .* differs from that of"):
        read_scan([first, write(tmp_path / "c.nii", np.zeros((2, 3, 4)), np.diag([1.0, 1, 2, 1]))])


def test_the_axis_across_the_slices() -> None:
    """That of the thickest slices; of equal ones, the one along the patient."""
    image = np.zeros((1, 4, 4, 4))
    assert thickest(Scan(image, np.diag([1.0, 3, 1, 1]))) == 1
    assert thickest(Scan(image, np.eye(4))) == 2
    turned = np.array([[0, 1.0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    assert thickest(Scan(image, turned)) == 0


def test_only_ct_holds_air() -> None:
    assert modality(Scan(np.array([[[[-1000, 40]]]]), np.eye(4))) == "CT"
    assert modality(Scan(np.array([[[[0, 40]]]]), np.eye(4))) == ""
