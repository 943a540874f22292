"""The segmentation system: windows, dimensions, losses and mirror images against known values."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import default_collate

from foldwise.files import CaseError
from foldwise.index import Entry
from foldwise.scores import Scores, read_rows, scores_in, write_rows
from foldwise.settings import validate
from foldwise.systems.segmentation.learner import SegmentationLearner
from foldwise.systems.segmentation.results import SegmentationResults
from foldwise.systems.segmentation.settings import Model
from foldwise.volumes.cache import Contents, open_case, write_case
from foldwise.volumes.geometry import Box, Lineage
from foldwise.volumes.label_maps import kept_label_map
from foldwise.volumes.metrics import score as score_volume
from foldwise.volumes.patches import normalise, scaling
from foldwise.volumes.predictions import label_map, write_prediction
from foldwise.volumes.settings import Evaluate
from foldwise.volumes.targets import Targets
from foldwise.volumes.volume import Volume, read_volume, write_volume
from synthetic import task
from untrained import Fixed, shares

ONE = Targets({"a": 1})
TWO = Targets({"a": 1, "b": 2})
NESTED = Targets({"a": 1, "b": 2}, {"outer": ("a", "b"), "inner": ("b",)})
SHAPES = [(20, 18, 12), (9, 30, 7), (33, 8, 5)]


class Pointwise(nn.Module):
    """Logits of a voxel are 0 and its first-channel value: its prediction is known without windows."""

    def __init__(self, middle: int = 0) -> None:
        super().__init__()
        self.middle = middle
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        value = image[:, self.middle : self.middle + 1]
        return torch.cat([torch.zeros_like(value), value], 1) + self.nothing


def model(**more: Any) -> Model:
    values = {
        "network": {"name": "BasicUNet", "features": [4, 4, 8, 8, 8, 4]},
        "patch": [16, 16, 8],
        "intensity": {"clip": None, "scale": "zscore"},
    }
    return validate(Model, {**values, **more})


def write(
    path: Path,
    shape: tuple[int, ...],
    channels: int = 1,
    classes: int = 2,
    seed: int = 0,
    empty: bool = False,
) -> str:
    random = np.random.default_rng(seed)
    image = random.integers(-500, 500, (channels, *shape)).astype(np.int16)
    label = random.integers(0, 1 if empty else classes + 1, shape).astype(np.uint8)
    lineage = Lineage.of(shape, np.diag([1.0, 1, 3, 1]), Box((0, 0, 0), shape))  # type: ignore[arg-type]
    names = ("a", "b")[:classes]
    write_case(path, path.stem, Contents(image, label, None, lineage, names), (8, 8, 8), 500)
    return str(path)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("axis", ["x", "z"])
@pytest.mark.parametrize(("dimensions", "middle"), [("3d", 0), ("2d", 0), ("2.5d", 1), ("slab", 0)])
def test_every_voxel_is_predicted_from_its_own_place(
    tmp_path: Path, dimensions: str, middle: int, axis: str, shape: tuple[int, int, int]
) -> None:
    """Also at borders, and in volumes smaller than the window along any axis."""
    path = write(tmp_path / "c.h5", shape)
    system = SegmentationLearner(model(dimensions=dimensions, slice_axis=axis), task(ONE, 1))
    found = shares(system, Pointwise(middle), path)
    with open_case(path) as file:
        image = normalise(torch.from_numpy(file["image"][()]), scaling(file, system.model.intensity))
    assert found.shape == (1, *shape)
    assert torch.allclose(found, torch.sigmoid(image), atol=1e-5)


def test_neighbours_are_in_their_order(tmp_path: Path) -> None:
    """The first of three channels is the previous slice; at the border it contains the fill."""
    path = write(tmp_path / "c.h5", (16, 16, 6))
    system = SegmentationLearner(model(dimensions="2.5d"), task(ONE, 1))
    found = shares(system, Pointwise(0), path)[0]
    with open_case(path) as file:
        image = normalise(torch.from_numpy(file["image"][()]), scaling(file, system.model.intensity))[0]
    assert torch.allclose(found[..., 1:], torch.sigmoid(image[..., :-1]), atol=1e-5)
    assert torch.allclose(found[..., 0], torch.sigmoid(image.min()).expand(16, 16), atol=1e-5)


@pytest.mark.parametrize("dimensions", ["3d", "2d", "2.5d", "slab"])
@pytest.mark.parametrize("sampling", [{"label": 1, "uniform": 0}, {"label": 0, "uniform": 1}])
def test_training_in_every_dimension(tmp_path: Path, dimensions: str, sampling: dict[str, float]) -> None:
    """The right kind of network is built, all its weights learn, and an empty case causes no problem."""
    paths = [write(tmp_path / f"{n}.h5", (20, 18, 9), channels=2, seed=n) for n in range(2)]
    paths.append(write(tmp_path / "empty.h5", (12, 18, 9), channels=2, empty=True))
    patch = [8, 8, 32] if dimensions == "slab" else [32, 32, 16]
    settings = model(dimensions=dimensions, sampling=sampling, patch=patch, training={"batch": 3})
    fitted = SegmentationLearner.fitted(settings, paths[:2])
    # A slab covers the whole plane (20 × 18 here), rounded up, regardless of the patch.
    assert fitted.patch == ((32, 32, 32) if dimensions == "slab" else (32, 32, 16))
    system = SegmentationLearner(fitted, task(TWO, 2))
    network = system.network()
    items = system.items(paths, (0,))
    loss = system.loss(network, default_collate([items[n] for n in range(3)]), torch.Generator())["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(
        weight.grad is not None and torch.isfinite(weight.grad).all() for weight in network.parameters()
    )
    convolution = next(m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d))
    assert isinstance(convolution, nn.Conv2d if "2" in dimensions else nn.Conv3d)
    assert convolution.in_channels == 2 * (3 if dimensions == "2.5d" else 1)


def test_mirroring_averages_over_all_turns(tmp_path: Path) -> None:
    """A network that reads the voxel to the left averages left and right neighbours when mirrored."""

    class Left(Pointwise):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(image.roll(1, dims=2))

    path = write(tmp_path / "c.h5", (16, 16, 8))
    system = SegmentationLearner(model(inference={"mirror": True}), task(ONE, 1))
    found = torch.logit(shares(system, Left(), path)[0])
    with open_case(path) as file:
        image = normalise(torch.from_numpy(file["image"][()]), scaling(file, system.model.intensity))[0]
    assert torch.allclose(found, (image.roll(1, 0) + image.roll(-1, 0)) / 2, atol=1e-3)


def batch_of(label: torch.Tensor) -> dict[str, torch.Tensor]:
    size = len(label)
    return {
        "image": torch.zeros(size, 1, *label.shape[1:]),
        "label": label.to(torch.uint8),
        "spacing": torch.ones(size, 3),
        "scaling": torch.tensor([[[-9.0, 9.0, 0.0, 1.0, 0.0]]]).expand(size, 1, 5),
    }


def loss_of(targets: Targets, label: torch.Tensor, *outputs: torch.Tensor, loss: Any = None) -> float:
    system = SegmentationLearner(
        model(augmentation=None, **({"loss": loss} if loss else {})), task(targets, 1)
    )
    return float(system.loss(Fixed(*outputs), batch_of(label), torch.Generator())["loss"])


def test_cross_entropy_of_classes_and_regions_by_hand() -> None:
    label = torch.tensor([[[[0, 1, 2, 2]]]])
    logits = torch.randn(1, 3, 1, 1, 4, generator=torch.Generator().manual_seed(0))
    expected = nn.functional.cross_entropy(logits, label)
    assert loss_of(TWO, label, logits, loss={"name": "CrossEntropyLoss"}) == pytest.approx(float(expected))
    # Outer contains both classes, inner the second one.
    wanted = torch.tensor([[[[[0.0, 1, 1, 1]]], [[[0.0, 0, 1, 1]]]]]).reshape(1, 2, 1, 1, 4)
    expected = nn.functional.binary_cross_entropy_with_logits(logits[:, :2], wanted)
    found = loss_of(NESTED, label, logits[:, :2], loss={"name": "BCEWithLogitsLoss"})
    assert found == pytest.approx(float(expected))


def test_class_weights() -> None:
    label = torch.tensor([[[[0, 1, 1, 1]]]])
    logits = torch.zeros(1, 3, 1, 1, 4)
    logits[:, 0] = 1
    weights = torch.tensor([1.0, 3.0, 1.0])
    expected = nn.functional.cross_entropy(logits, label, weight=weights)
    found = loss_of(TWO, label, logits, loss={"name": "CrossEntropyLoss", "weight": [1, 3, 1]})
    assert found == pytest.approx(float(expected))
    assert found > loss_of(TWO, label, logits, loss={"name": "CrossEntropyLoss"})


def test_losses_are_summed_and_a_perfect_answer_costs_nothing() -> None:
    label = torch.randint(0, 3, (2, 4, 4, 4), generator=torch.Generator().manual_seed(1))
    hot = torch.from_numpy(NESTED.membership)[:, label].movedim(0, 1)
    logits = torch.where(hot, 20.0, -20.0)
    assert loss_of(NESTED, label, logits) == pytest.approx(0, abs=1e-3)
    assert loss_of(NESTED, label, -logits) > 10
    both = [{"name": "DiceLoss"}, {"name": "BCEWithLogitsLoss"}]
    parts = [loss_of(NESTED, label, -logits, loss=one) for one in both]
    assert loss_of(NESTED, label, -logits, loss=both) == pytest.approx(sum(parts))


def test_deep_supervision_halves_each_coarser_output() -> None:
    label = torch.zeros(1, 4, 4, 4, dtype=torch.long)
    label[:, :2] = 1
    random = torch.Generator().manual_seed(0)
    fine = torch.randn(1, 2, 4, 4, 4, generator=random)
    coarse = torch.randn(1, 2, 2, 2, 2, generator=random)
    entropy = {"name": "CrossEntropyLoss"}
    small = torch.zeros(1, 2, 2, 2, dtype=torch.long)
    small[:, :1] = 1
    expected = (
        nn.functional.cross_entropy(fine, label) + 0.5 * nn.functional.cross_entropy(coarse, small)
    ) / 1.5
    assert loss_of(ONE, label, fine, coarse, loss=entropy) == pytest.approx(float(expected))
    # MONAI's DynUNet stacks its full-size outputs on an axis after the batch.
    stacked = torch.stack([fine, fine * 2], 1)
    expected = (
        nn.functional.cross_entropy(fine, label) + 0.5 * nn.functional.cross_entropy(fine * 2, label)
    ) / 1.5
    assert loss_of(ONE, label, stacked, loss=entropy) == pytest.approx(float(expected))


def test_soft_max_losses_are_refused_for_regions() -> None:
    with pytest.raises(CaseError, match="DiceCELoss allows only one class per voxel"):
        SegmentationLearner(model(loss={"name": "DiceCELoss"}), task(NESTED, 1))


def test_one_intensity_per_channel_or_one_for_all() -> None:
    many = [{"clip": [0, 1]}, {"clip": None, "scale": "zscore"}]
    assert len(SegmentationLearner(model(intensity=many), task(ONE, 2)).model.intensity) == 2
    with pytest.raises(CaseError, match="intensity has 2 entries for 3 image"):
        SegmentationLearner(model(intensity=many), task(ONE, 3))


def test_validation_scores_each_region(tmp_path: Path) -> None:
    """Everything is predicted as outer region and nothing as inner: Dice 2n/(n + all) and 0."""
    path = write(tmp_path / "c.h5", (16, 16, 8))
    with open_case(path) as file:
        count = int((file["label"][()] > 0).sum())
    answers = torch.tensor([20.0, -20.0])[None, :, None, None, None].expand(1, 2, 16, 16, 8)

    class Always(Pointwise):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return answers.repeat(len(image), 1, 1, 1, 1)

    score = SegmentationLearner(model(), task(NESTED, 1)).validate(Always(), [path])["score"]
    assert score == pytest.approx((2 * count / (count + 16 * 16 * 8) + 0) / 2)


@pytest.mark.parametrize(("labelled", "score"), [(False, np.nan), (True, 0.5)])
def test_validation_without_the_structure_has_no_score(tmp_path: Path, labelled: bool, score: float) -> None:
    """Everything is predicted as tumour: 0 for the empty case, which is not informative, 1 for the full."""
    shape = (16, 16, 8)
    lineage = Lineage.of(shape, np.eye(4), Box((0, 0, 0), shape))
    paths = []
    for name, value in (("empty", 0), ("full", 1))[: 1 + labelled]:
        image, label = np.full((1, *shape), 100, np.int16), np.full(shape, value, np.uint8)
        write_case(tmp_path / name, name, Contents(image, label, None, lineage, ("a",)), (8, 8, 8), 500)
        paths.append(str(tmp_path / name))
    learner = SegmentationLearner(model(intensity={"clip": [0, 100], "scale": "window"}), task(ONE))
    assert learner.validate(Pointwise(), paths)["score"] == pytest.approx(score, nan_ok=True)


STEPS = validate(Evaluate, {"postprocess": ["largest_component", "fill_holes"]})


class TestChoose:
    """Post-processing chosen on predictions of known Dice."""

    @classmethod
    def case(cls, folder: Path, name: str, found: list[int], truth: list[int]) -> Entry:
        """A line of voxels."""
        predicted, label = (np.zeros((len(found), 3, 3), np.uint8) for _ in range(2))
        predicted[:, 1, 1], label[:, 1, 1] = found, truth
        return cls.volumes(folder, name, predicted, label)

    @staticmethod
    def volumes(folder: Path, name: str, found: np.ndarray, label: np.ndarray) -> Entry:
        lineage = Lineage.of(label.shape, np.eye(4), Box((0, 0, 0), label.shape))
        write_prediction(folder / f"{name}.h5", name, found[None].astype(np.float32), lineage, ONE)
        write_volume(Volume(label, np.eye(4)), folder / f"{name}.nii.gz")
        return Entry(name, name, {"label": (str(folder / f"{name}.nii.gz"),)}, "", {}, 1.0)

    @staticmethod
    def scores(folder: Path, entries: list[Entry], evaluate: Evaluate = STEPS) -> dict[str, Scores]:
        results, found = SegmentationResults(), {}
        for entry in entries:
            path = folder / f"{entry.case}-scores.h5"
            results.write_scores(folder / f"{entry.case}.h5", entry, task(ONE), evaluate, path)
            found[entry.case] = scores_in(path)
        write_rows(folder, found)
        assert read_rows([folder]).keys() == found.keys()
        return read_rows([folder])

    def choose(self, folder: Path, entries: list[Entry]) -> list[str]:
        return list(SegmentationResults().choose(self.scores(folder, entries), STEPS)["postprocess"])

    def test_dice_by_hand(self, tmp_path: Path) -> None:
        # Without the island 1 instead of 2·3/(4 + 3); the other case is correct anyway, and nothing has
        # holes.
        island = self.case(tmp_path, "a", [1, 1, 1, 0, 1, 0], [1, 1, 1, 0, 0, 0])
        right = self.case(tmp_path, "b", [0, 1, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0])
        assert self.choose(tmp_path, [island, right]) == ["largest_component"]
        # Two true parts: 1 falls to 2·2/(2 + 4), more than the first case rises.
        two = self.case(tmp_path, "b", [1, 1, 0, 0, 1, 1], [1, 1, 0, 0, 1, 1])
        assert self.choose(tmp_path, [island, two]) == []

    def test_cases_without_the_structure_choose_nothing(self, tmp_path: Path) -> None:
        entries = [self.case(tmp_path, "a", [1, 0, 1], [0, 0, 0]), self.case(tmp_path, "b", [0] * 3, [0] * 3)]
        assert self.choose(tmp_path, entries) == []
        assert self.choose(tmp_path, []) == []

    def test_the_volume_that_is_too_small_is_one_of_the_source_s_grid(self, tmp_path: Path) -> None:
        """Voxels of 1 mm³: an island of two has 0.002 mL, one of a single voxel is cleared."""
        truth = np.zeros((9, 5, 5), np.uint8)
        truth[1:4, 1:4, 1:4] = 1
        found = truth.copy()
        found[6, 2, 2] = found[8, 0, 0] = found[8, 1, 1] = 1
        entry = self.volumes(tmp_path, "a", found, truth)
        evaluate = validate(Evaluate, {"postprocess": {"remove_below_ml": 0.002}})
        scores = self.scores(tmp_path, [entry], evaluate)
        chosen = SegmentationResults().choose(scores, evaluate)
        assert chosen == {"postprocess": [{"remove_below_ml": 0.002}]}
        assert [rows[0]["dice"] for rows in scores["a"].rows] == pytest.approx([54 / 57, 54 / 56])
        found[6, 2, 2] = 0
        for labels in (
            kept_label_map(tmp_path / "a-scores.h5", chosen),
            label_map(tmp_path / "a.h5", chosen["postprocess"]),
        ):
            assert np.array_equal(labels.data, found)

    def test_each_combination_of_steps_is_scored_and_its_label_map_kept(self, tmp_path: Path) -> None:
        truth = np.zeros((9, 5, 5), np.uint8)
        truth[1:4, 1:4, 1:4] = 1
        found = truth.copy()
        found[2, 2, 2], found[7, 2, 2] = 0, 1
        entry = self.volumes(tmp_path, "a", found, truth)
        scores = self.scores(tmp_path, [entry])["a"]
        each = [[], ["fill_holes"], ["largest_component"], ["largest_component", "fill_holes"]]
        assert [choice["postprocess"] for choice in scores.choices] == each
        # A hole in 27 voxels, and an island of one.
        right = [2 * 26 / (27 + 27), 2 * 27 / (28 + 27), 2 * 26 / (26 + 27), 1]
        assert [rows[0]["dice"] for rows in scores.rows] == pytest.approx(right)
        for choice in scores.choices:
            kept = kept_label_map(tmp_path / "a-scores.h5", choice)
            expected = label_map(tmp_path / "a.h5", choice["postprocess"])
            assert np.array_equal(kept.data, expected.data)
            assert np.array_equal(kept.affine, expected.affine)
            rows = SegmentationResults().score_case(tmp_path / "a.h5", entry, task(ONE), STEPS, choice)
            alone = score_volume(
                expected.data, truth, expected.affine, ONE.values, tolerance_mm=STEPS.tolerance_mm
            )
            for one in (rows, scores.of(choice)):
                assert [dict(row) for row in one] == [pytest.approx(dict(row), nan_ok=True) for row in alone]
        with pytest.raises(CaseError, match="was not scored with"):
            scores.of({"postprocess": ["largest_foreground"]})

    def test_a_choice_counts_no_case_without_the_structure(self, tmp_path: Path) -> None:
        """As in BraTS, such a case has a Dice of 1, but it chooses nothing."""
        entry = self.case(tmp_path, "a", [0] * 3, [0] * 3)
        path, brats = tmp_path / "a-scores.h5", STEPS.model_copy(update={"empty": "brats"})
        SegmentationResults().write_scores(tmp_path / "a.h5", entry, task(ONE), brats, path)
        assert [rows[0]["dice"] for rows in scores_in(path).rows] == [1, 1, 1, 1]
        assert SegmentationResults().choose({"a": scores_in(path)}, brats) == {"postprocess": []}


def test_examples_show_what_the_network_sees(tmp_path: Path) -> None:
    path = write(tmp_path / "c.h5", (20, 18, 12), channels=2)
    system = SegmentationLearner(
        model(dimensions="2.5d", augmentation=None, sampling={"overhang": 0}), task(TWO, 2)
    )
    system.examples([path], (0,), 2, tmp_path / "look")
    names = sorted(file.name for file in (tmp_path / "look").iterdir())
    assert len(names) == 2 * (2 * 3 + 1)
    label = read_volume(tmp_path / "look" / "sample0_label.nii.gz")
    assert label.data.shape == (16, 16, 1)
    assert set(np.unique(label.data)) == {0, 1, 2}
    image = read_volume(tmp_path / "look" / "sample1_image1.nii.gz").data
    assert abs(float(image.mean())) < 0.5
    assert 0.5 < float(image.std()) < 1.5
