"""Crops and resampling keep every voxel's position in space."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk

from foldwise.volumes.geometry import (
    Box,
    Lineage,
    bounding_box,
    crop,
    resample,
    resample_labels,
)
from foldwise.volumes.volume import Volume

SHAPE = (9, 10, 11)


def whole(volume: Volume) -> Box:
    """The box of all voxels."""
    return Box((0, 0, 0), volume.data.shape)


def oriented_affines() -> list[np.ndarray]:
    """All 48 axis orientations, each with its own spacing, shift, and a 10° rotation for every other one."""
    affines = []
    for number, (axes, signs) in enumerate(
        itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))
    ):
        affine = np.eye(4)
        affine[:3, :3] = 0
        for column, (row, sign) in enumerate(zip(axes, signs, strict=True)):
            affine[row, column] = sign * (0.7, 1.3, 2.9)[column]
        if number % 2:
            turn = np.deg2rad(10)
            rotation = np.array(
                [[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]]
            )
            affine[:3, :3] = rotation @ affine[:3, :3]
        affine[:3, 3] = (-31.5, 12.25, 100 + number)
        affines.append(affine)
    return affines


@pytest.mark.parametrize("affine", oriented_affines())
def test_crop_cache_and_back_is_exact_for_every_orientation(affine: np.ndarray) -> None:
    source = Volume(np.random.default_rng(0).integers(0, 1000, SHAPE), affine)
    box = Box((1, 2, 3), (5, 6, 7))
    cut = crop(source, box)
    turned = cut.oriented()
    lineage = Lineage.of(SHAPE, affine, box)

    # The same point in space has the same value in the source, the crop and the cached grid.
    for index in ((0, 0, 0), (4, 5, 6), (2, 0, 3)):
        point = cut.affine @ [*index, 1]
        in_source = np.rint(np.linalg.solve(affine, point))[:3].astype(int)
        in_cache = np.rint(np.linalg.solve(lineage.cached_affine, point))[:3].astype(int)
        assert source.data[tuple(in_source)] == cut.data[index] == turned.data[tuple(in_cache)]

    pasted = lineage.to_source(lineage.to_box(turned.data), fill=-1)
    assert pasted.affine.tobytes() == affine.tobytes()
    assert (pasted.data[box.slices] == source.data[box.slices]).all()
    assert (pasted.data != -1).sum() == np.prod(box.shape)


def test_bounding_box_by_hand() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[5:8, 10, 2:4] = True
    # A margin of 4 mm is 2 voxels of 2 mm, 4 of 1 mm, and 1 of 5 mm (rounded up); z is clipped at 0.
    assert bounding_box(mask, 4, (2.0, 1.0, 5.0)) == Box((3, 6, 1), (7, 9, 4))
    assert bounding_box(mask, 30, (2.0, 10.0, 10.0)) == Box((0, 7, 0), (20, 7, 7))
    with pytest.raises(ValueError, match="empty"):
        bounding_box(mask & False, 4, (1.0, 1.0, 1.0))


def test_resampling_agrees_with_simpleitk_in_place_and_value() -> None:
    """A smooth image resampled to a finer grid, against SimpleITK on the grid that we state."""
    x, y, z = np.indices((12, 14, 16)).astype(np.float32)
    data = np.sin(x / 4) + np.cos(y / 5) + z / 8
    volume = Volume(data.astype(np.float32), np.diag([2.0, 3.0, 4.0, 1.0]))
    lineage = Lineage.of(volume.data.shape, volume.affine, whole(volume)).resized(None, (1.5, 1.5, 1.5))
    ours = Volume(lineage.to_cache(volume.data), lineage.cached_affine)
    image = sitk.GetImageFromArray(volume.data.transpose())
    image.SetSpacing(volume.spacing)
    image.SetOrigin(volume.affine[:3, 3].tolist())
    theirs = sitk.Resample(
        image,
        ours.data.shape,
        sitk.Transform(),
        sitk.sitkLinear,
        ours.affine[:3, 3].tolist(),
        ours.spacing,
        image.GetDirection(),
        float("nan"),
    )
    expected = sitk.GetArrayFromImage(theirs).transpose()
    inside = np.isfinite(expected)
    assert inside.mean() > 0.7
    assert np.abs(ours.data - expected)[inside].max() < 1e-4


def test_resampling_keeps_extent_and_mean() -> None:
    volume = Volume(np.random.default_rng(1).random((30, 20, 10)), np.diag([1.0, 1.0, 3.0, 1.0]))
    lineage = Lineage.of(volume.data.shape, volume.affine, whole(volume)).resized(None, (2.0, 2.0, 2.0))
    coarse = Volume(lineage.to_cache(volume.data), lineage.cached_affine)
    assert coarse.data.shape == (15, 10, 15)
    assert np.allclose(np.array(coarse.data.shape) * coarse.spacing, [30, 20, 30])
    assert coarse.data.mean() == pytest.approx(volume.data.mean(), abs=0.02)
    # Borders, not centres, coincide: the first centre moves by half a new minus half an old voxel.
    assert np.allclose(coarse.affine[:3, 3], [0.5, 0.5, -0.5])


def test_resampled_labels_keep_their_values_and_volume() -> None:
    labels = np.zeros((24, 24, 12), np.uint8)
    labels[4:12, 4:12, 2:8] = 1
    labels[14:20, 10:20, 4:10] = 4
    resampled = resample_labels(labels, (36, 36, 36))
    assert set(np.unique(resampled)) == {0, 1, 4}
    for value in (1, 4):
        expected = (labels == value).sum() * 1.5 * 1.5 * 3
        assert (resampled == value).sum() == pytest.approx(expected, rel=0.1)
    assert resample_labels(labels, labels.shape) is labels


def test_nothing_is_interpolated_on_the_same_grid() -> None:
    data = np.random.default_rng(2).random((4, 5, 6))
    assert resample(data, (4, 5, 6)) is data
    lineage = Lineage.of((4, 5, 6), np.eye(4), Box((0, 0, 0), (4, 5, 6)))
    assert lineage.resized(None, None).shape == (4, 5, 6)
    assert lineage.resized(None, (100.0, 1.0, 2.0)).shape == (1, 5, 3)
    assert lineage.resized((7, 8, 9), None).shape == (7, 8, 9)


def test_lineage_survives_json() -> None:
    affine = oriented_affines()[7]
    lineage = Lineage.of(SHAPE, affine, Box((1, 2, 3), (4, 5, 6)))
    assert Lineage.from_dict(lineage.as_dict()) == lineage
