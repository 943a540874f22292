"""Voxels to ignore: in no loss, no patch centre, no validation, no choice and no score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import default_collate

from foldwise.files import CaseError
from foldwise.index import Entry
from foldwise.scores import scores_in
from foldwise.settings import validate
from foldwise.systems.segmentation.learner import SegmentationLearner
from foldwise.systems.segmentation.results import SegmentationResults
from foldwise.systems.segmentation.settings import Model
from foldwise.volumes.cache import Contents, open_case, write_case
from foldwise.volumes.geometry import Box, Lineage
from foldwise.volumes.patches import draw_centre
from foldwise.volumes.predictions import write_prediction
from foldwise.volumes.settings import Evaluate, Sampling
from foldwise.volumes.targets import Targets
from foldwise.volumes.volume import Volume, write_volume
from synthetic import task
from untrained import Fixed

TWO = Targets.of({"a": 1, "b": 2, "ignore": 255})
NESTED = Targets.of({"a": 1, "b": 2, "ignore": 9}, {"outer": ["a", "b"], "inner": ["b"]})
IGNORED = 3
SOFTMAX: list[Any] = [
    None,
    {"name": "CrossEntropyLoss"},
    {"name": "CrossEntropyLoss", "weight": [1, 5, 2], "reduction": "sum"},
    {"name": "DiceLoss"},
    {"name": "DiceLoss", "batch": True, "include_background": False},
    {"name": "DiceCELoss", "lambda_ce": 0.5, "weight": [1, 3, 1]},
    {"name": "DiceFocalLoss"},
    {"name": "FocalLoss", "use_softmax": True},
    {"name": "GeneralizedDiceLoss"},
    {"name": "TverskyLoss"},
    [{"name": "DiceLoss"}, {"name": "MSELoss"}],
]
REGIONS: list[Any] = [
    None,
    {"name": "BCEWithLogitsLoss"},
    {"name": "DiceFocalLoss"},
    {"name": "TverskyLoss", "alpha": 0.3, "beta": 0.7},
]


def learner(targets: Targets, **more: Any) -> SegmentationLearner:
    values = {
        "network": {"name": "BasicUNet", "features": [4, 4, 8, 8, 8, 4]},
        "patch": [16, 16, 8],
        "intensity": {"clip": None, "scale": "zscore"},
        "augmentation": None,
        **{key: value for key, value in more.items() if value is not None},
    }
    return SegmentationLearner(validate(Model, values), task(targets))


def loss_of(targets: Targets, label: torch.Tensor, *outputs: torch.Tensor, **more: Any) -> torch.Tensor:
    batch = {
        "image": torch.zeros(len(label), 1, *label.shape[1:]),
        "label": label.to(torch.uint8),
        "spacing": torch.ones(len(label), 3),
        "scaling": torch.tensor([[[-9.0, 9.0, 0.0, 1.0, 0.0]]]).expand(len(label), 1, 5),
    }
    return learner(targets, **more).loss(Fixed(*outputs), batch, torch.Generator())["loss"]


def random_case(outputs: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels (2, 6, 5, 4) of 0 to 2, and outputs."""
    random = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 3, (2, 6, 5, 4), generator=random)
    return label, torch.randn(2, outputs, 6, 5, 4, generator=random)


@pytest.mark.parametrize(
    ("targets", "loss"), [*((TWO, one) for one in SOFTMAX), *((NESTED, one) for one in REGIONS)]
)
def test_a_loss_is_that_of_the_other_voxels(targets: Targets, loss: Any) -> None:
    """The first two planes are ignored: the loss is that of the patch without them, for any outputs there."""
    label, outputs = random_case(2 if targets.regions else 3)
    outputs.requires_grad_()
    partly = label.clone()
    partly[:, :2] = IGNORED
    found = loss_of(targets, partly, outputs, loss=loss)
    plain = Targets(targets.classes, targets.regions)
    expected = loss_of(plain, label[:, 2:], outputs[:, :, 2:].detach(), loss=loss)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(found, outputs)
    assert (gradient[:, :, :2] == 0).all()
    assert (gradient[:, :, 2:] != 0).any()
    elsewhere = outputs.detach().clone()
    elsewhere[:, :, :2] = 50 * torch.randn(elsewhere[:, :, :2].shape)
    assert float(loss_of(targets, partly, elsewhere, loss=loss)) == found.item()
    # Nothing to learn from: neither a loss nor a gradient, and no NaN.
    nothing = loss_of(targets, torch.full_like(label, IGNORED), outputs, loss=loss)
    assert nothing.item() == 0
    assert (torch.autograd.grad(nothing, outputs)[0] == 0).all()


def test_different_voxels_in_each_sample() -> None:
    """Dice by its definition with masked sums; cross entropy with torch's own `ignore_index`."""
    label, outputs = random_case(3)
    label[torch.rand(label.shape, generator=torch.Generator().manual_seed(5)) < 0.3] = IGNORED
    label[1, :4] = IGNORED
    counted = (label != IGNORED).double()[:, None]
    soft = outputs.softmax(1).double() * counted
    hot = torch.stack([label == number for number in range(3)], 1).double()

    def dice(*axes: int) -> float:
        both, either = (soft * hot).sum(axes), (soft + hot).sum(axes)
        return float((1 - (2 * both + 1e-5) / (either + 1e-5)).mean())

    assert float(loss_of(TWO, label, outputs, loss={"name": "DiceLoss"})) == pytest.approx(dice(2, 3, 4))
    together = loss_of(TWO, label, outputs, loss={"name": "DiceLoss", "batch": True})
    assert float(together) == pytest.approx(dice(0, 2, 3, 4))
    weights = torch.tensor([1.0, 4.0, 2.0])
    entropy = nn.functional.cross_entropy(outputs, label, weight=weights, ignore_index=IGNORED)
    found = loss_of(TWO, label, outputs, loss={"name": "CrossEntropyLoss", "weight": [1, 4, 2]})
    assert float(found) == pytest.approx(float(entropy))
    # Each part of a loss in its own way, as in nnU-Net.
    plain = nn.functional.cross_entropy(outputs, label, ignore_index=IGNORED)
    assert float(loss_of(TWO, label, outputs)) == pytest.approx(dice(2, 3, 4) + float(plain))
    focal = {"name": "FocalLoss", "use_softmax": True}
    steps = nn.functional.cross_entropy(outputs, label, ignore_index=IGNORED, reduction="none")
    expected = ((1 - (-steps).exp()) ** 2 * steps)[label != IGNORED].mean() / 3
    assert float(loss_of(TWO, label, outputs, loss=focal)) == pytest.approx(float(expected))
    # A sample without voxels that count is left out.
    alone = loss_of(TWO, label[:1], outputs[:1])
    label[1] = IGNORED
    assert float(loss_of(TWO, label, outputs)) == pytest.approx(float(alone))


def test_deep_supervision_ignores_at_every_size() -> None:
    label, _ = random_case(3)
    label = label[:, :, :4].repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    label[:, :4] = IGNORED
    random = torch.Generator().manual_seed(3)
    fine, coarse = torch.randn(2, 3, 12, 8, 8, generator=random), torch.randn(2, 3, 6, 4, 4, generator=random)
    entropy = {"name": "CrossEntropyLoss"}
    small = label[:, ::2, ::2, ::2]
    parts = [
        nn.functional.cross_entropy(o, t, ignore_index=IGNORED) for o, t in ((fine, label), (coarse, small))
    ]
    expected = (parts[0] + 0.5 * parts[1]) / 1.5
    assert float(loss_of(TWO, label, fine, coarse, loss=entropy)) == pytest.approx(float(expected))


@pytest.mark.parametrize("name", ["HausdorffDTLoss", "SoftDiceclDiceLoss", "SSIMLoss"])
@pytest.mark.parametrize("dimensions", ["3d", "2d"])
def test_losses_that_look_at_neighbours_are_refused(name: str, dimensions: str) -> None:
    arguments = {"spatial_dims": 3 if dimensions == "3d" else 2} if name == "SSIMLoss" else {}
    loss = {"name": name, **arguments}
    with pytest.raises(CaseError, match=rf"loss {name}: (depends on where voxels are|does not accept)"):
        learner(TWO, loss=loss, dimensions=dimensions).try_loss(None)


@pytest.mark.parametrize("dimensions", ["3d", "2d"])
@pytest.mark.parametrize(("targets", "loss"), [*((TWO, o) for o in SOFTMAX), *((NESTED, o) for o in REGIONS)])
def test_losses_that_add_up_voxels_are_accepted(targets: Targets, loss: Any, dimensions: str) -> None:
    learner(targets, loss=loss, dimensions=dimensions).try_loss(None)


def cache(path: Path, label: np.ndarray, classes: tuple[str, ...] = ("a", "b"), ignored: int = 3) -> str:
    shape = label.shape
    image = np.random.default_rng(0).integers(-500, 500, (1, *shape)).astype(np.int16)
    lineage = Lineage.of(shape, np.eye(4), Box((0, 0, 0), shape))
    contents = Contents(image, label.astype(np.uint8), None, lineage, classes, ignored=ignored)
    write_case(path, path.stem, contents, (8, 8, 8), 500)
    return str(path)


@pytest.mark.parametrize("dimensions", ["3d", "slab", "2.5d", "2d"])
def test_training_in_every_dimension(tmp_path: Path, dimensions: str) -> None:
    label = np.random.default_rng(1).integers(0, 4, (40, 36, 10))
    path = cache(tmp_path / "c.h5", label)
    system = learner(TWO, dimensions=dimensions, patch=[32, 32, 16], augmentation={"affine_probability": 1})
    system = SegmentationLearner(SegmentationLearner.fit(system.model, [path]), task(TWO))
    network = system.network()
    batch = default_collate([system.items([path], (0,))[n] for n in range(2)])
    assert (batch["label"] == IGNORED).any()
    loss = system.loss(network, batch, torch.Generator())["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(w.grad).all() for w in network.parameters() if w.grad is not None)


def test_caches_with_other_voxels_to_ignore_are_refused(tmp_path: Path) -> None:
    path = cache(tmp_path / "c.h5", np.ones((4, 4, 4)), ignored=0)
    with pytest.raises(CaseError, match=r"its labels are a, b, in this order; expected a, b, ignore"):
        learner(TWO).items([path], (0,))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(label=0, uniform=1),
        Sampling(label=1, uniform=0, label_weights={"background": 1, "a": 0}),
        Sampling(label=1, uniform=0),
    ],
)
def test_no_patch_is_centred_on_a_voxel_to_ignore(tmp_path: Path, sampling: Sampling) -> None:
    """Every other voxel that counts is drawn about equally often."""
    label = np.full((6, 5, 4), 3)
    label[:2], label[0, 0, 0] = 0, 1
    with open_case(Path(cache(tmp_path / "c.h5", label))) as file:
        random = np.random.default_rng(0)
        drawn = np.array([draw_centre(file, sampling, random) for _ in range(600)])
    places, counts = np.unique(drawn, axis=0, return_counts=True)
    assert places[:, 0].max() < 2
    if sampling.label_weights or sampling.uniform:
        assert len(places) == 40
        assert counts.max() < 40
    else:
        assert places.tolist() == [[0, 0, 0]]


def test_validation_leaves_them_out(tmp_path: Path) -> None:
    """All is predicted as a. It is right in two of three planes that count, and ignored in the fourth."""
    label = np.ones((16, 16, 8))
    label[:4], label[4:8] = 0, 2
    path = cache(tmp_path / "c.h5", label, ("a",), ignored=2)
    answers = torch.tensor([-20.0, 20.0])[None, :, None, None, None].expand(1, 2, 16, 16, 8)

    class Always(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nothing = nn.Parameter(torch.zeros(1))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return answers.repeat(len(image), 1, 1, 1, 1)

    targets = Targets.of({"a": 1, "ignore": 7})
    assert learner(targets).validate(Always(), [path])["score"] == pytest.approx(2 * 8 / (8 + 12))
    empty = cache(tmp_path / "d.h5", np.where(label == 1, 2, 0), ("a",), ignored=2)
    assert np.isnan(learner(targets).validate(Always(), [empty])["score"])


class TestScores:
    """Predictions of one class along a line, against a truth in which 9 is to be ignored."""

    TARGETS = Targets.of({"a": 5, "ignore": 9})

    def case(self, folder: Path, name: str, found: list[int], truth: list[int]) -> Entry:
        shape = (len(found), 3, 3)
        lineage = Lineage.of(shape, np.eye(4), Box((0, 0, 0), shape))
        probabilities, label = np.zeros((1, *shape), np.float32), np.zeros(shape, np.uint8)
        probabilities[0, :, 1, 1], label[:, 1, 1] = found, truth
        write_prediction(folder / f"{name}.h5", name, probabilities, lineage, self.TARGETS)
        write_volume(Volume(label, np.eye(4)), folder / f"{name}.nii.gz")
        return Entry(name, name, {"label": (str(folder / f"{name}.nii.gz"),)}, "", {}, 1.0)

    def row(self, folder: Path, found: list[int], truth: list[int]) -> dict[str, Any]:
        entry = self.case(folder, "c", found, truth)
        chosen: dict[str, Any] = {"postprocess": []}
        (row,) = SegmentationResults().score_case(
            folder / "c.h5", entry, task(self.TARGETS), Evaluate(), chosen
        )
        return dict(row)

    def test_scores_by_hand(self, tmp_path: Path) -> None:
        # Of three predicted voxels one is ignored, one right and one wrong.
        row = self.row(tmp_path, [0, 1, 1, 1, 0, 0], [0, 9, 5, 0, 5, 0])
        assert row["dice"] == pytest.approx(2 * 1 / (2 + 2))
        assert row["ignored_ml"] == pytest.approx(0.001)
        assert (row["volume_ml"], row["truth_ml"]) == (pytest.approx(0.002), pytest.approx(0.002))

    def test_a_case_is_empty_if_only_ignored_voxels_are_labelled(self, tmp_path: Path) -> None:
        row = self.row(tmp_path, [0, 1, 1, 0], [0, 9, 9, 0])
        assert row["empty"]
        assert np.isnan(row["dice"])
        assert (row["lesions"], row["false_lesions"]) == (0, 0)

    def choose(self, folder: Path, truth: list[int]) -> list[str]:
        entry = self.case(folder, "a", [1, 1, 1, 0, 1, 0], truth)
        settings = validate(Evaluate, {"postprocess": ["largest_component"]})
        results, path = SegmentationResults(), folder / "scores.h5"
        results.write_scores(folder / "a.h5", entry, task(self.TARGETS), settings, path)
        chosen = results.choose({"a": scores_in(path)}, settings)
        return list(chosen["postprocess"])

    def test_the_choice_leaves_them_out(self, tmp_path: Path) -> None:
        """Removing the island helps if it is wrong, and changes nothing if it is ignored."""
        assert self.choose(tmp_path, [5, 5, 5, 0, 0, 0]) == ["largest_component"]
        assert self.choose(tmp_path, [5, 5, 5, 0, 9, 0]) == []
