"""Metrics against values by hand, brute force and MONAI; summaries against values by hand."""

import math
import tracemalloc
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist

from foldwise.statistics import fold_summary, paired_p
from foldwise.volumes import metrics
from foldwise.volumes.metrics import score
from synthetic import ball

SPACING = (1.0, 2.0, 3.0)


def one(prediction: np.ndarray, truth: np.ndarray, **more: float) -> dict[str, float]:
    (row,) = score(
        prediction.astype(np.uint8),
        truth.astype(np.uint8),
        np.diag(SPACING),
        {"a": (1,)},
        tolerance_mm=more.get("tolerance_mm", 1.0),
    )
    return row  # type: ignore[return-value]


def box(*corners: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((20, 20, 20), bool)
    mask[tuple(slice(a, b) for a, b in corners)] = True
    return mask


def test_by_hand() -> None:
    truth = box((2, 6), (2, 6), (2, 6))  # 64 voxels of 6 mm³
    found = box((4, 8), (2, 6), (2, 6))  # shifted by 2 voxels of 1 mm: 32 in common
    row = one(found, truth)
    assert row["dice"] == pytest.approx(64 / 128)
    assert row["jaccard"] == pytest.approx(32 / 96)
    assert row["hd95_mm"] == pytest.approx(2)
    assert row["truth_ml"] == pytest.approx(64 * 6 / 1000)
    assert row["volume_error_ml"] == 0
    assert (row["lesions"], row["lesions_found"], row["false_lesions"], row["empty"]) == (1, 1, 0, False)


@pytest.mark.parametrize(("axis", "mm"), [(0, 1.0), (1, 2.0), (2, 3.0)])
def test_distances_respect_the_spacing(axis: int, mm: float) -> None:
    """Two plates one voxel thick, five voxels apart: every distance is the same."""
    plates = [[(0, 20)] * 3, [(0, 20)] * 3]
    plates[0][axis], plates[1][axis] = (5, 6), (10, 11)
    truth, found = box(*plates[0]), box(*plates[1])
    assert one(found, truth)["hd95_mm"] == pytest.approx(5 * mm)
    assert one(found, truth, tolerance_mm=5 * mm - 0.1)["surface_dice"] == 0
    assert one(found, truth, tolerance_mm=5 * mm)["surface_dice"] == 1


def test_single_voxels() -> None:
    truth, found = box((3, 4), (3, 4), (3, 4)), box((6, 7), (5, 6), (4, 5))
    assert one(found, truth)["hd95_mm"] == pytest.approx(math.sqrt(3**2 + 4**2 + 3**2))
    assert one(truth, truth)["hd95_mm"] == 0
    assert one(truth, truth)["surface_dice"] == 1


def test_empty_masks() -> None:
    nothing, something = box((0, 0), (0, 0), (0, 0)), box((1, 3), (1, 3), (1, 3))
    both = one(nothing, nothing)
    assert both["empty"] is True
    assert all(
        math.isnan(both[key]) for key in ("dice", "jaccard", "hd95_mm", "surface_dice", "lesion_recall")
    )
    missed, invented = one(nothing, something), one(something, nothing)
    for row in (missed, invented):
        assert (row["dice"], row["jaccard"], row["surface_dice"], row["empty"]) == (0, 0, 0, False)
        assert row["hd95_mm"] == pytest.approx(math.sqrt(20**2 + 40**2 + 60**2))  # the image's diagonal
    assert (missed["lesion_recall"], missed["false_lesions"]) == (0, 0)
    assert math.isnan(invented["lesion_recall"])
    assert invented["false_lesions"] == 1


def test_missing_a_tumour_does_not_improve_the_mean_distance() -> None:
    truth, poor = box((2, 4), (2, 4), (2, 4)), box((15, 18), (15, 18), (15, 18))
    assert one(np.zeros_like(truth), truth)["hd95_mm"] > one(poor, truth)["hd95_mm"]


def test_edge_of_the_image_is_surface() -> None:
    """A cube that fills the image: only its 26 outer voxels are surface, so the centre is 1 mm inside."""
    full = np.ones((3, 3, 3), np.uint8)
    centre = np.zeros_like(full)
    centre[1, 1, 1] = 1
    (row,) = score(full, centre, np.diag((1.0, 1.0, 1.0)), {"a": (1,)}, tolerance_mm=1)
    # Face centres (6) and the centre itself are within 1 mm of the other surface.
    assert row["surface_dice"] == pytest.approx((6 + 1) / (26 + 1))
    # The eight corners are more than 5 % of 26.
    assert row["hd95_mm"] == pytest.approx(math.sqrt(3))


def test_stored_spacings_do_not_move_a_distance_past_the_tolerance() -> None:
    """Files hold float32: 5 voxels of 0.8 mm read as 4.00000006 mm."""
    spacing = (float(np.float32(0.8)), 1.0, 1.0)
    truth, found = box((5, 6), (0, 20), (0, 20)), box((10, 11), (0, 20), (0, 20))
    (row,) = score(found.astype(int), truth.astype(int), np.diag(spacing), {"a": (1,)}, tolerance_mm=4)
    assert row["surface_dice"] == 1


def test_lesions_are_26_connected() -> None:
    truth = box((2, 4), (2, 4), (2, 4)) | box((4, 5), (4, 5), (4, 5)) | box((10, 12), (10, 12), (10, 12))
    found = box((3, 4), (3, 4), (3, 4)) | box((16, 18), (16, 18), (16, 18)) | box((0, 1), (19, 20), (0, 1))
    row = one(found, truth)
    assert (row["lesions"], row["lesions_found"], row["false_lesions"]) == (2, 1, 2)
    assert row["lesion_recall"] == 0.5


def test_two_specks_in_a_row() -> None:
    truth = box((2, 3), (2, 3), (2, 3)) | box((4, 5), (2, 3), (2, 3))
    row = one(truth, truth)
    assert (row["lesions"], row["lesions_found"], row["false_lesions"]) == (2, 2, 0)


def test_a_lesion_found_in_two_pieces() -> None:
    """Both pieces count as true, the lesion once; 56 of 64 voxels of 6 mm³ are missed."""
    truth = box((2, 6), (2, 6), (2, 6))
    pieces = box((2, 4), (2, 4), (2, 3)) | box((4, 6), (4, 6), (5, 6))
    row = one(pieces, truth)
    assert (row["lesions"], row["lesions_found"], row["false_lesions"]) == (1, 1, 0)
    assert row["volume_error_ml"] == pytest.approx(-56 * 6 / 1000)


def test_classes_are_scored_apart() -> None:
    truth = np.zeros((10, 10, 10), np.uint8)
    truth[:5], truth[5:] = 3, 9
    rows = score(truth, truth[::-1], np.diag((1.0, 1.0, 1.0)), {"a": (3,), "b": (9,)}, tolerance_mm=1)
    assert [(row["class"], row["dice"]) for row in rows] == [("a", 0), ("b", 0)]
    with pytest.raises(ValueError, match="differ in shape"):
        score(truth, truth[:4], np.diag((1.0, 1.0, 1.0)), {"a": (3,)}, tolerance_mm=1)


@pytest.mark.parametrize("few", [0, 10**9], ids=["trees", "maps"])
@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6))
def test_against_brute_force(few: int, seed: int) -> None:
    with patch.object(metrics, "FEW", few):
        against_brute_force(seed)


def against_brute_force(seed: int) -> None:
    random = np.random.default_rng(seed)
    shape = (9, 8, 10)
    masks = [random.random(shape) < p for p in random.uniform(0.02, 0.6, 2)]
    if not (masks[0].any() and masks[1].any()):
        return
    found, truth = masks
    points = [np.argwhere(np.pad(m, 1) & ~binary_erosion(np.pad(m, 1))) * np.array(SPACING) for m in masks]
    apart = cdist(*points)
    there, back = apart.min(1), apart.min(0)
    row = one(found, truth, tolerance_mm=2.0)
    assert row["hd95_mm"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    within = ((there <= 2).sum() + (back <= 2).sum()) / (len(there) + len(back))
    assert row["surface_dice"] == pytest.approx(within)
    assert row["dice"] == pytest.approx(2 * row["jaccard"] / (1 + row["jaccard"]))
    mirrored = one(truth, found, tolerance_mm=2.0)
    for key in ("dice", "hd95_mm", "surface_dice"):
        assert mirrored[key] == pytest.approx(row[key])
    padded = one(np.pad(found, 3), np.pad(truth, 3), tolerance_mm=2.0)
    assert padded == pytest.approx(row, nan_ok=True)


def test_noise_far_from_a_tumour_is_measured_without_trees() -> None:
    # Where nearly every voxel is on a surface, trees take minutes for a full-size scan.
    noise = np.random.default_rng(0).random((40, 40, 40)) < 0.3
    with patch.object(metrics, "KDTree", side_effect=AssertionError):
        row = one(noise, ball(noise.shape, (5, 5, 5), 3), tolerance_mm=2.0)
    assert row["hd95_mm"] > 80


@pytest.mark.parametrize("seed", range(4))
def test_against_monai(seed: int) -> None:
    random = np.random.default_rng(seed)
    shape, (x, y, z) = (30, 20, 14), random.uniform(5, 9, 3)
    truth = ball(shape, (x, y, z), random.uniform(3, 6))
    found = ball(shape, (x + 2, y - 1, z), 4) | ball(shape, (25, 15, 9), 2)
    tensors = [torch.from_numpy(mask[None, None]) for mask in (found, truth)]
    row = one(found, truth, tolerance_mm=2.5)
    distance = compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=SPACING)
    assert row["hd95_mm"] == pytest.approx(distance.item(), rel=1e-5)
    dice = compute_surface_dice(*tensors, [2.5], include_background=True, spacing=SPACING)
    assert row["surface_dice"] == pytest.approx(dice.item(), rel=1e-5)


def test_memory_with_lesions_in_opposite_corners() -> None:
    """Distance maps over the whole image would take about 40 bytes per voxel."""
    truth = np.zeros((100, 100, 100), np.uint8)
    truth[:3, :3, :3] = truth[-3:, -3:, -3:] = 1
    tracemalloc.start()
    score(truth, truth, np.diag(SPACING), {"a": (1,)}, tolerance_mm=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * truth.size


def rows(values: dict[str, tuple[str, int, float]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"model": "m", "class": "a", "case": case, "group": group, "fold": fold, "dice": dice}
            for case, (group, fold, dice) in values.items()
        ]
    )


def test_summary_by_hand() -> None:
    nan = float("nan")
    table = rows({"a": ("p", 0, 0.5), "b": ("p", 0, 0.7), "c": ("q", 1, 0.9), "d": ("r", 1, nan)})
    (row,) = fold_summary(table, ["dice"]).to_dict("records")
    assert row["mean"] == pytest.approx(0.7)
    assert row["std"] == pytest.approx(0.2)
    assert row["fold_mean"] == pytest.approx(0.75)
    assert row["fold_std"] == pytest.approx(np.std([0.6, 0.9], ddof=1))
    assert (row["n"], row["excluded"]) == (3, 1)
    # Two patients: resamples hold p alone (0.6), q alone (0.9), or both (0.7).
    assert (row["low"], row["high"]) == (pytest.approx(0.6), pytest.approx(0.9))


def test_interval_covers_the_mean_and_shrinks() -> None:
    random = np.random.default_rng(0)
    widths = []
    for count in (10, 200):
        values = random.normal(0.7, 0.1, count)
        table = rows({str(i): (str(i), i % 5, float(v)) for i, v in enumerate(values)})
        (row,) = fold_summary(table, ["dice"]).to_dict("records")
        assert row["low"] < row["mean"] < row["high"]
        widths.append(row["high"] - row["low"])
        # The percentile interval of a mean is close to the normal one.
        assert widths[-1] == pytest.approx(2 * 1.96 * values.std() / np.sqrt(count), rel=0.2)
    assert widths[1] < widths[0] / 3


def test_scans_of_one_patient_are_not_independent() -> None:
    values = np.random.default_rng(1).normal(0.7, 0.1, 20)
    alone = {f"{i}{k}": (f"{i}{k}", 0, float(v)) for i, v in enumerate(values) for k in range(5)}
    grouped = {case: (case[:-1], fold, value) for case, (_, fold, value) in alone.items()}
    width = {}
    for name, table in (("alone", rows(alone)), ("grouped", rows(grouped))):
        (row,) = fold_summary(table, ["dice"]).to_dict("records")
        width[name] = row["high"] - row["low"]
    assert width["grouped"] > 1.8 * width["alone"]


def test_models_and_classes_are_summarised_apart_and_alike_each_time() -> None:
    tables = [
        rows({str(i): (str(i), i % 2, base + i / 100) for i in range(8)}).assign(
            **{"model": model, "class": name}
        )
        for base, model, name in ((0.1, "m", "a"), (0.4, "m", "b"), (0.7, "n", "a"))
    ]
    summary = fold_summary(pd.concat(tables), ["dice"])
    assert summary[["model", "class"]].to_numpy().tolist() == [["m", "a"], ["m", "b"], ["n", "a"]]
    assert summary["mean"].tolist() == pytest.approx([0.135, 0.435, 0.735])
    pd.testing.assert_frame_equal(summary, fold_summary(pd.concat(tables), ["dice"]))


def test_nothing_to_summarise() -> None:
    """One patient has no interval; a metric that is NaN everywhere has no mean."""
    table = rows({"a": ("p", 0, 0.5), "b": ("p", 1, 0.7)}).assign(hd95_mm=math.nan)
    dice, distance = fold_summary(table, ["dice", "hd95_mm"]).to_dict("records")
    assert dice["mean"] == pytest.approx(0.6)
    assert math.isnan(dice["low"])
    assert math.isnan(dice["high"])
    assert math.isnan(distance["mean"])
    assert (distance["n"], distance["excluded"]) == (0, 2)


def test_regions_overlap() -> None:
    """The outer region holds values 1 and 2, the inner one 2: Dice by hand, and 8 against 4 voxels."""
    truth, found = np.zeros((6, 6, 6), np.uint8), np.zeros((6, 6, 6), np.uint8)
    truth[:2, :2, :2] = 1
    truth[0, :2, :2] = 2
    found[:2, :2, :2] = 1
    found[1, :2, :2] = 2
    outer, inner = score(
        found, truth, np.diag((1.0, 1.0, 1.0)), {"outer": (1, 2), "inner": (2,)}, tolerance_mm=0
    )
    assert (outer["class"], outer["dice"], outer["truth_ml"]) == ("outer", 1, pytest.approx(0.008))
    assert (inner["class"], inner["dice"], inner["truth_ml"]) == ("inner", 0, pytest.approx(0.004))


def test_mean_distance_by_hand() -> None:
    """Two plates of one voxel's thickness, 3 voxels of 3 mm apart, with an extra voxel on one of them."""
    truth, found = box((0, 20), (0, 20), (5, 6)), box((0, 20), (0, 20), (8, 9))
    assert one(found, truth)["assd_mm"] == pytest.approx(9)
    found[3, 3, 12] = True  # 21 mm from the other plate
    assert one(found, truth)["assd_mm"] == pytest.approx((400 * 9 + 400 * 9 + 21) / 801)


@pytest.mark.parametrize("seed", range(3))
def test_mean_distance_against_monai(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth, found = (random.random((2, 16, 14, 12)) < 0.1).astype(np.uint8)
    (row,) = score(found, truth, np.diag((1.0, 2.0, 3.0)), {"a": (1,)}, tolerance_mm=1)
    expected = compute_average_surface_distance(
        torch.from_numpy(found)[None, None], torch.from_numpy(truth)[None, None],
        include_background=True, symmetric=True, spacing=(1.0, 2.0, 3.0),
    )  # fmt: skip
    assert row["assd_mm"] == pytest.approx(float(expected), rel=1e-5)


def test_empty_masks_as_brats_has_it() -> None:
    nothing, something = np.zeros((8, 8, 8), np.uint8), np.zeros((8, 8, 8), np.uint8)
    something[2:4, 2:4, 2:4] = 4
    values = {"et": (4,)}
    (both,) = score(nothing, nothing, np.diag((1.0, 1.0, 1.0)), values, tolerance_mm=1, brats=True)
    assert (both["dice"], both["hd95_mm"], both["surface_dice"]) == (1, 0, 1)
    for first, second in ((nothing, something), (something, nothing)):
        (row,) = score(first, second, np.diag((1.0, 1.0, 1.0)), values, tolerance_mm=1, brats=True)
        assert (row["dice"], row["hd95_mm"]) == (0, 373.13)


def test_paired_p() -> None:
    """Six differences with one sign: of 64 equally likely sign patterns, two are as extreme."""
    assert paired_p([1, 2, 3, 4, 5, 6]) == pytest.approx(2 / 64)
    assert paired_p([-1, 2, -3, 4, -5, 6]) > 0.5
    assert math.isnan(paired_p([0, 0, 0]))


class TestIgnored:
    """Truths in which 7 is to be ignored."""

    @staticmethod
    def row(found: np.ndarray, real: np.ndarray, ignored: np.ndarray) -> dict[str, Any]:
        truth = np.where(ignored, 7, real).astype(np.uint8)
        (scored,) = score(
            found.astype(np.uint8), truth, np.diag(SPACING), {"a": (1,)}, tolerance_mm=1, ignore=7
        )
        return scored

    def test_nothing_there_counts(self) -> None:
        """The same as if prediction and truth were both cleared there, for random masks."""
        random = np.random.default_rng(0)
        for _ in range(5):
            found, real, ignored = random.random((3, 9, 8, 7)) < [[[[0.4]]], [[[0.3]]], [[[0.3]]]]
            with_mask = self.row(found, real, ignored)
            cleared = one(found & ~ignored, real & ~ignored)
            assert with_mask.pop("ignored_ml") == pytest.approx(ignored.sum() * 6 / 1000)
            for name, value in cleared.items():
                assert name in ("false_lesions",) or with_mask[name] == pytest.approx(value), name

    def test_lesions(self) -> None:
        """Of three predicted components one is ignored, one partly, and one goes on into a true lesion."""
        real, found, ignored = (np.zeros((20, 5, 5), bool) for _ in range(3))
        found[1:3, 2, 2], ignored[0:4, 2, 2] = True, True  # wholly ignored
        found[6:9, 2, 2], ignored[6:8, 2, 2] = True, True  # a voxel counts
        found[11:18, 2, 2], ignored[13:15, 2, 2], real[16:18, 2, 2] = True, True, True
        row = self.row(found, real, ignored)
        assert (row["lesions"], row["lesions_found"], row["false_lesions"]) == (1, 1, 1)
