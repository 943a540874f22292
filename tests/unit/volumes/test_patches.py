"""Samplers: patch centres, contents at the border, and equal draws for equal numbers."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch.utils.data import default_collate

from foldwise.files import CaseError
from foldwise.volumes.augment import augment
from foldwise.volumes.cache import Contents, open_case, write_case
from foldwise.volumes.geometry import Box, Lineage
from foldwise.volumes.patches import Patches, draw_centre, normalise, place_patch, read_patch, scaling
from foldwise.volumes.settings import Augmentation, Intensity, Sampling

SHAPE = (10, 9, 8)


def case(
    path: Path,
    label: np.ndarray,
    weight: np.ndarray | None = None,
    classes: tuple[str, ...] = ("a",),
) -> h5py.File:
    image = np.arange(np.prod(SHAPE)).reshape(1, *SHAPE).astype(np.int16)
    lineage = Lineage.of(SHAPE, np.eye(4), Box((0, 0, 0), SHAPE))
    write_case(path, "c", Contents(image, label, weight, lineage, classes), (4, 4, 4), 10000)
    return open_case(path)


def draws(file: h5py.File, sampling: Sampling, count: int = 4000) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.array([draw_centre(file, sampling, random) for _ in range(count)])


def counts(centres: np.ndarray) -> np.ndarray:
    counted = np.zeros(SHAPE)
    np.add.at(counted, tuple(centres.T), 1)
    return counted


@pytest.mark.slow
def test_mixture_keeps_its_fractions(tmp_path: Path) -> None:
    label = np.zeros(SHAPE, np.uint8)
    label[9, 8, 7] = 1  # a corner voxel: it must be a possible centre too
    with case(tmp_path / "c.h5", label) as file:
        seen = counts(draws(file, Sampling()))
    # 0.8 by the label sampler, and its share of the 0.2 drawn anywhere.
    assert seen[9, 8, 7] / seen.sum() == pytest.approx(0.8 + 0.2 / np.prod(SHAPE), abs=0.02)
    assert (seen > 0).mean() > 0.5


@pytest.mark.slow
def test_uniform_reaches_every_voxel_evenly(tmp_path: Path) -> None:
    with case(tmp_path / "c.h5", np.zeros(SHAPE, np.uint8)) as file:
        seen = counts(draws(file, Sampling(label=0, uniform=1), 20000))
    assert (seen > 0).all()
    assert chisquare(seen.ravel()).pvalue > 1e-3


@pytest.mark.slow
def test_weighted_draws_in_proportion(tmp_path: Path) -> None:
    weight = np.zeros(SHAPE, np.float32)
    weight[0, 0, 0], weight[9, 8, 7], weight[3, 4, 5] = 1, 2, 5
    with case(tmp_path / "c.h5", np.zeros(SHAPE, np.uint8), weight) as file:
        seen = counts(draws(file, Sampling(label=0, uniform=0, weighted=1), 8000))
    assert seen[weight == 0].sum() == 0
    assert chisquare(seen[weight > 0], 8000 * weight[weight > 0] / 8).pvalue > 1e-3


@pytest.mark.slow
def test_label_sampler_weighs_present_classes_only(tmp_path: Path) -> None:
    label = np.zeros(SHAPE, np.uint8)
    label[:5, 0, 0], label[2, 2, 2] = 1, 3
    sampling = Sampling(label=1, uniform=0, label_weights={"a": 1, "b": 7, "c": 3})
    with case(tmp_path / "c.h5", label, classes=("a", "b", "c")) as file:
        seen = counts(draws(file, sampling))
    # b is absent from the case: a and c share 1 : 3.
    assert seen[2, 2, 2] / seen.sum() == pytest.approx(0.75, abs=0.03)
    assert seen[label == 1].sum() + seen[label == 3].sum() == seen.sum()


def test_every_lesion_is_drawn_equally_often(tmp_path: Path) -> None:
    """A lesion of one voxel as often as one of 60, and each by its centre; classes by their weights."""
    label = np.zeros(SHAPE, np.uint8)
    label[:5, :3, :4], label[9, 8, 7] = 1, 1
    label[7:, 0, 0], label[7:, 4, 0] = 2, 2
    # A bow: the mean of its voxels, (3, 7, 6), is none of them.
    label[2:5, 6, 6], label[2, 7:9, 6], label[4, 7:9, 6] = 1, 1, 1
    with case(tmp_path / "c.h5", label, classes=("a", "b")) as file:
        sampling = Sampling(label=0, uniform=0, centre=1, label_weights={"a": 3, "b": 2})
        seen = counts(draws(file, sampling, 4000))
        centres = {name: sorted(map(tuple, file["centre"][name][()].tolist())) for name in ("a", "b")}
    assert centres["b"] == [(8, 0, 0), (8, 4, 0)]
    assert len(centres["a"]) == 3
    assert all(label[place] == 1 for place in centres["a"])
    assert (9, 8, 7) in centres["a"]
    assert np.count_nonzero(seen) == 5
    assert chisquare(seen[seen > 0]).pvalue > 1e-3


def test_a_cache_without_centres_is_named(tmp_path: Path) -> None:
    label = np.ones(SHAPE, np.uint8)
    case(tmp_path / "c.h5", label).close()
    with h5py.File(tmp_path / "c.h5", "r+") as file:
        del file["centre"]
        with pytest.raises(CaseError, match=r"c\.h5: has no centres of lesions; delete it and run again"):
            draws(file, Sampling(label=0, uniform=0, centre=1), 1)
        assert draws(file, Sampling(), 1).shape == (1, 3)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(label=0, uniform=0, centre=1),
        Sampling(label=1, uniform=0),
        Sampling(label=0, uniform=0, weighted=1),
        Sampling(label=1, uniform=0, label_weights={"a": 0}),
    ],
)
def test_an_empty_case_is_drawn_from_everywhere(tmp_path: Path, sampling: Sampling) -> None:
    empty = np.zeros(SHAPE, np.uint8)
    with case(tmp_path / "c.h5", empty, empty) as file:
        assert (counts(draws(file, sampling)) > 0).mean() > 0.9


@pytest.mark.parametrize("centre", [(0, 0, 0), (9, 8, 7), (5, 4, 4), (0, 8, 3)])
@pytest.mark.parametrize("patch", [(4, 4, 4), (3, 5, 7), (16, 16, 16), (1, 9, 8)])
def test_patches_at_the_border_are_padded(
    tmp_path: Path, centre: tuple[int, int, int], patch: tuple[int, int, int]
) -> None:
    with case(tmp_path / "c.h5", np.zeros(SHAPE, np.uint8)) as file:
        image = file["image"][()]
        corner = place_patch(centre, patch, SHAPE, 0.5)
        patched = read_patch(file["image"], corner, patch, np.array([-7.0]))
    padded = np.pad(image, [(0, 0)] + [(20, 20)] * 3, constant_values=-7)
    # Around the centre; if the volume is no larger than the patch, the volume is centred in it.
    begin = [c - p // 2 if n > p else -((p - n) // 2) for c, p, n in zip(centre, patch, SHAPE, strict=True)]
    x, y, z = (slice(a + 20, a + 20 + n) for a, n in zip(begin, patch, strict=True))
    assert patched.dtype == np.int16
    assert (patched == padded[:, x, y, z]).all()
    inside = tuple(c - b for c, b in zip(centre, begin, strict=True))
    assert patched[(0, *inside)] == image[(0, *centre)]


def test_items_repeat_and_cases_take_turns(tmp_path: Path) -> None:
    paths = []
    for number in range(4):
        label = np.zeros(SHAPE, np.uint8)
        label[number, 0, 0] = 1
        path = tmp_path / f"{number}.h5"
        case(path, label).close()
        paths.append(str(path))
    items = Patches(paths, (4, 4, 4), Sampling(label=1, uniform=0), [Intensity()], (1, 2))
    again = Patches(paths, (4, 4, 4), Sampling(label=1, uniform=0), [Intensity()], (1, 2))
    backwards = {n: again[n] for n in reversed(range(8))}
    first = []
    for number in range(8):
        item = items[number]
        assert all(torch.equal(item[key], backwards[number][key]) for key in item)
        # Image values are flat indices: the patch's centre shows its case.
        first.append(int(item["image"][0, 2, 2, 2]) // 72)
    assert sorted(first[:4]) == sorted(first[4:]) == [0, 1, 2, 3]


def test_class_numbers_above_255_reach_the_loss(tmp_path: Path) -> None:
    """Through stacking, flips and rotations, which torch does not support for unsigned 16-bit numbers."""
    label = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE) % 300
    names = tuple(f"c{n}" for n in range(1, 300))
    case(tmp_path / "c.h5", label, classes=names).close()
    sampling = Sampling(label=0, uniform=1, overhang=0)
    items = Patches([str(tmp_path / "c.h5")], SHAPE, sampling, [Intensity()], [0])
    batch = default_collate([items[n] for n in range(4)])
    assert (batch["label"][2].numpy() == label).all()
    settings = Augmentation(affine_probability=1, rotate_deg=10, scale=0)
    image = batch["image"].float()
    _, augmented = augment(
        image, batch["label"], batch["spacing"], settings, torch.Generator().manual_seed(0)
    )
    assert set(augmented.unique().tolist()) <= set(range(300))
    assert augmented.max() == 299


def test_normalisation_by_hand(tmp_path: Path) -> None:
    with case(tmp_path / "c.h5", np.zeros(SHAPE, np.uint8)) as file:
        window = scaling(file, [Intensity(clip=(100, 300))])
        per_case = scaling(file, [Intensity(clip="percentiles", scale="zscore")])
        values = file["image"][()].astype(np.float64)
    image = torch.tensor([[[[0.0, 100, 200, 300, 5000]]]])
    assert normalise(image, window).flatten().tolist() == [-1, -1, 0, 1, 1]
    expected = (200 - values.mean()) / values.std()
    assert normalise(image, per_case).flatten()[2].item() == pytest.approx(expected, rel=1e-5)
    batch = torch.stack([image, image])
    both = normalise(batch, torch.stack([window, per_case]))
    assert torch.equal(both[0], normalise(image, window))
    assert torch.equal(both[1], normalise(image, per_case))


def test_other_scales_by_hand(tmp_path: Path) -> None:
    with case(tmp_path / "c.h5", np.zeros(SHAPE, np.uint8)) as file:
        values = file["image"][()].astype(np.float64)
        nonzero = scaling(file, [Intensity(clip=None, scale="zscore_nonzero")])
        given = scaling(file, [Intensity(clip=(100, 300), scale=(250, 50))])
    image = torch.tensor([[[[0.0, 100, 200, 300, 5000]]]])
    # 0 stays 0, whatever the mean is.
    filled = values[values != 0]
    expected = [0, *((np.array([100, 200, 300, 5000]) - filled.mean()) / filled.std())]
    assert normalise(image, nonzero).flatten().tolist() == pytest.approx(expected, rel=1e-4)
    assert normalise(image, given).flatten().tolist() == [-3, -3, -1, 1, 1]


@pytest.mark.parametrize(
    ("centre", "overhang", "corner"),
    [
        # A volume of 20 voxels and a patch of 8: around the centre, then limited at the borders.
        (10, 0.5, 6),
        (0, 0.5, -4),
        (0, 0.25, -2),
        (0, 0.0, 0),
        (19, 0.0, 12),
        (19, 0.25, 14),
        (19, 0.5, 15),
    ],
)
def test_patches_are_held_back_at_the_border(centre: int, overhang: float, corner: int) -> None:
    assert place_patch((centre,) * 3, (8,) * 3, (20,) * 3, overhang) == (corner,) * 3
    # A volume smaller than the patch is centred in it, wherever the patch centre is.
    assert place_patch((centre % 5,) * 3, (8,) * 3, (5,) * 3, overhang) == (-1,) * 3
