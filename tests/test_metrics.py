"""Metrics against values worked out by hand and a brute-force implementation; summaries against numpy."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist

from foldwise.volumes.metrics import fold_summary, score
from foldwise.volumes.postprocess import helps, largest_component
from synthetic import ball

SPACING = (1.0, 2.0, 3.0)


def one(prediction: np.ndarray, truth: np.ndarray, **more: float) -> dict[str, float]:
    (row,) = score(
        prediction.astype(np.uint8),
        truth.astype(np.uint8),
        SPACING,
        {"a": 1},
        tolerance_mm=more.get("tolerance_mm", 1.0),
    )
    return row  # type: ignore[return-value]


def box(*corners: tuple[int, int]) -> np.ndarray:
    made = np.zeros((20, 20, 20), bool)
    made[tuple(slice(a, b) for a, b in corners)] = True
    return made


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
    assert one(truth, truth) | {} == one(truth, truth)
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
        assert math.isnan(row["hd95_mm"])
    assert (missed["lesion_recall"], missed["false_lesions"]) == (0, 0)
    assert math.isnan(invented["lesion_recall"])
    assert invented["false_lesions"] == 1


def test_lesions_are_26_connected() -> None:
    truth = box((2, 4), (2, 4), (2, 4)) | box((4, 5), (4, 5), (4, 5)) | box((10, 12), (10, 12), (10, 12))
    found = box((3, 4), (3, 4), (3, 4)) | box((16, 18), (16, 18), (16, 18)) | box((0, 1), (19, 20), (0, 1))
    row = one(found, truth)
    assert (row["lesions"], row["lesions_found"], row["false_lesions"]) == (2, 1, 2)
    assert row["lesion_recall"] == 0.5


def test_classes_are_scored_apart() -> None:
    truth = np.zeros((10, 10, 10), np.uint8)
    truth[:5], truth[5:] = 3, 9
    rows = score(truth, truth[::-1], (1.0, 1.0, 1.0), {"a": 3, "b": 9}, tolerance_mm=1)
    assert [(row["class"], row["dice"]) for row in rows] == [("a", 0), ("b", 0)]
    with pytest.raises(ValueError, match="differ in shape"):
        score(truth, truth[:4], (1.0, 1.0, 1.0), {"a": 3}, tolerance_mm=1)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6))
def test_against_brute_force(seed: int) -> None:
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


def test_largest_component_per_class() -> None:
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[ball(labels.shape, (8, 8, 8), 4)] = 2
    labels[ball(labels.shape, (22, 22, 22), 2)] = 2
    labels[ball(labels.shape, (8, 22, 8), 2)] = 7
    before = labels.copy()
    made = largest_component(labels, {"a": 2, "b": 7, "absent": 9})
    assert (labels == before).all()
    assert (made == 2).sum() == ball(labels.shape, (8, 8, 8), 4).sum()
    assert (made == 7).sum() == (labels == 7).sum()


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([0.5, 0.6], [0.6, 0.6], True),
        ([0.5, 0.6], [0.6, 0.5], False),
        ([0.5, 0.6], [0.5, 0.6], False),
        ([0.5, math.nan], [0.6, 0.0], True),
        ([math.nan], [math.nan], False),
        ([], [], False),
    ],
)
def test_a_step_is_kept_only_if_it_helps(before: list[float], after: list[float], expected: bool) -> None:
    assert helps(before, after) is expected
