"""Measurements against values worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foldwise.volumes.measure import measure
from foldwise.volumes.volume import Volume, write_volume


def test_a_box_and_a_far_voxel(tmp_path: Path) -> None:
    """Axes are stored as (S, R, A), so that slices lie across the first one."""
    affine = np.array([[0, 2.0, 0, 10], [0, 0, 0.5, 20], [3.0, 0, 0, 30], [0, 0, 0, 1]])
    labels = np.zeros((9, 20, 30), np.uint8)
    labels[2:5, 3:13, 4:8] = 1
    labels[8, 19, 29] = 1
    labels[0, 0, 0] = 2
    image = np.zeros(labels.shape, np.float32)
    image[2:5, 3:13, 4:8] = 7
    image[8, 19, 29] = 7 + 121
    write_volume(Volume(image, affine), tmp_path / "a.nii.gz")
    write_volume(Volume(-image, affine), tmp_path / "b.nii.gz")
    values = {"all": (1, 2), "tumour": (1,), "none": (9,)}
    whole, tumour, none = measure(
        Volume(labels, affine), values, [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"]
    )
    # 3 · 10 · 4 voxels and one more, of 2 · 0.5 · 3 mm.
    assert tumour["volume_ml"] == pytest.approx(121 * 0.003)
    assert whole["volume_ml"] == pytest.approx(122 * 0.003)
    assert (whole["lesions"], tumour["lesions"], none["lesions"]) == (3, 2, 0)
    # 10 voxels of 2 mm, and 4 of 0.5 mm between the middles of the first and last.
    assert tumour["longest_axial_mm"] == pytest.approx(np.hypot(20, 1.5))
    voxel = (120 * np.array([3, 7.5, 5.5]) + [8, 19, 29]) / 121
    expected = affine[:3, :3] @ voxel + affine[:3, 3]
    assert [tumour[f"centroid_{axis}"] for axis in "xyz"] == pytest.approx(expected)
    assert tumour["mean"] == pytest.approx(8)
    assert tumour["sd"] == pytest.approx(np.sqrt((120 * 1 + 120**2) / 121))
    assert [tumour[name] for name in ("minimum", "p5", "p50", "maximum")] == [7, 7, 7, 128]
    assert (tumour["mean_1"], tumour["minimum_1"], tumour["p95_1"]) == (pytest.approx(-8), -128, -7)
    assert none["volume_ml"] == 0
    assert np.isnan([none["mean"], none["longest_axial_mm"], none["centroid_x"], none["mean_1"]]).all()


def test_an_empty_map(tmp_path: Path) -> None:
    write_volume(Volume(np.ones((4, 5, 6), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    labels = Volume(np.zeros((4, 5, 6), np.uint8), np.eye(4))
    (row,) = measure(labels, {"tumour": (1,)}, [tmp_path / "a.nii.gz"])
    assert (row["volume_ml"], row["lesions"]) == (0, 0)
