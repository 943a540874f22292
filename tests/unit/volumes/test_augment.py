"""Augmentation: invariants hold, and image and label move together."""

import math

import numpy as np
import pytest
import torch

from foldwise.volumes.augment import augment, rotation, warp
from foldwise.volumes.settings import Augmentation
from synthetic import ball

OFF = {
    "flip": False,
    "affine_probability": 0,
    "intensity_probability": 0,
}


def batch(size: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(0)
    label = torch.from_numpy(ball((20, 22, 24), (7, 12, 10), 5).astype(np.uint8)).repeat(size, 1, 1, 1)
    image = label[:, None].float() * 2 - 1 + torch.from_numpy(random.normal(0, 0.01, (size, 1, 20, 22, 24)))
    return image.float(), label, torch.tensor([[1.0, 1.0, 2.0]]).repeat(size, 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_everything_off_is_the_identity() -> None:
    image, label, spacing = batch()
    made_image, made_label = augment(image, label, spacing, Augmentation(**OFF), generator())
    assert torch.allclose(made_image, image, atol=1e-6)
    assert torch.equal(made_label, label)


def test_same_generator_same_result_and_inputs_untouched() -> None:
    image, label, spacing = batch()
    before = image.clone(), label.clone()
    first = augment(image, label, spacing, Augmentation(affine_probability=1), generator(3))
    second = augment(image, label, spacing, Augmentation(affine_probability=1), generator(3))
    other = augment(image, label, spacing, Augmentation(affine_probability=1), generator(4))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(image, before[0])
    assert torch.equal(label, before[1])


@pytest.mark.parametrize(
    "settings",
    [
        {"flip": True, "affine_probability": 0},
        {"flip": False, "affine_probability": 1, "rotate_deg": 30, "scale": 0.2},
        {"flip": True, "affine_probability": 0.5},
    ],
)
def test_image_and_label_move_together(settings: dict[str, float]) -> None:
    image, label, spacing = batch()
    made_image, made_label = augment(
        image,
        label,
        spacing,
        Augmentation(**{**settings, "intensity_probability": 0}),
        generator(1),
    )
    assert set(made_label.unique().tolist()) <= {0, 1}
    found, moved = made_image[:, 0] > 0, made_label > 0
    for i in range(len(image)):
        overlap = 2 * (found[i] & moved[i]).sum() / (found[i].sum() + moved[i].sum())
        assert overlap > 0.95


def test_flips_are_mirrors_along_whole_axes() -> None:
    image, label, spacing = batch(8)
    _, mirrored = augment(image, label, spacing, Augmentation(**{**OFF, "flip": True}), generator(2))
    mirrors = [label[0].flip(axes) for axes in ([], [0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2])]
    hits = [sum(torch.equal(sample, mirror) for mirror in mirrors) for sample in mirrored]
    assert min(hits) >= 1
    assert any(not torch.equal(sample, label[0]) for sample in mirrored)


def test_rotations_are_proper_and_known() -> None:
    matrices = rotation(torch.rand(10, 3, generator=generator()) * 6)
    eye = torch.eye(3).expand(10, 3, 3)
    assert torch.allclose(matrices @ matrices.transpose(1, 2), eye, atol=1e-5)
    assert torch.allclose(torch.linalg.det(matrices), torch.ones(10), atol=1e-5)
    quarter = rotation(torch.tensor([[0.0, 0.0, math.pi / 2]]))[0]
    assert torch.allclose(quarter @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]), atol=1e-6)


def test_a_rotation_is_rigid_in_millimetres() -> None:
    """A ball in mm stays a ball when rotated, although voxels are twice as long along z."""
    shape, spacing = (40, 40, 20), torch.tensor([[1.0, 1.0, 2.0]])
    x, y, z = np.indices(shape)
    inside = ((x - 25) ** 2 + (y - 19.5) ** 2 + (2 * (z - 9.5)) ** 2) <= 64
    label = torch.from_numpy(inside.astype(np.uint8))[None]
    turn = rotation(torch.tensor([[0.0, math.pi / 2, 0.0]]))
    _, turned = warp(label[:, None].float(), label, spacing, turn)
    points = turned[0].nonzero().float() * spacing
    assert turned.sum().item() == pytest.approx(label.sum().item(), rel=0.05)
    assert torch.allclose(points.std(0), points.std(0).mean().expand(3), rtol=0.05)
    # The ball was 5.5 mm from the centre along x; a quarter turn about y moves it along z.
    centre = points.mean(0) - (torch.tensor(shape) - 1) / 2 * spacing[0]
    assert abs(centre[0]) < 1
    assert abs(abs(centre[2]) - 5.5) < 1  # half a voxel


def test_zoom_changes_the_volume_as_its_cube() -> None:
    label = torch.from_numpy(ball((40, 40, 40), (19.5, 19.5, 19.5), 10).astype(np.uint8))[None]
    matrix = torch.eye(3)[None] * 0.8
    _, zoomed = warp(label[:, None].float(), label, torch.ones(1, 3), matrix)
    assert zoomed.sum().item() == pytest.approx(label.sum().item() / 0.8**3, rel=0.03)


def test_intensity_changes_leave_the_label_alone() -> None:
    image, label, spacing = batch()
    settings = Augmentation(**{**OFF, "intensity_probability": 1})
    made_image, made_label = augment(image, label, spacing, settings, generator(5))
    assert torch.equal(made_label, label)
    assert torch.isfinite(made_image).all()
    assert (made_image - image).abs().amax((1, 2, 3, 4)).min() > 0.01
