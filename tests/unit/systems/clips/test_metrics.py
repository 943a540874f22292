"""Scores of classifications, computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as library

from foldwise.files import CaseError
from foldwise.statistics import interval, resampled
from foldwise.systems.clips.metrics import (
    CLIPS,
    PATIENTS,
    calibration_error,
    measure,
    reliability,
    summarise,
)
from foldwise.systems.clips.patients import per_patient

CLASSES = ("a", "b", "c")
TRUTH = np.array([0, 0, 1, 1, 2])
FOUND = np.array(
    [
        [0.8, 0.1, 0.1],  # correct
        [0.3, 0.6, 0.1],  # predicted as b
        [0.2, 0.7, 0.1],  # correct
        [0.1, 0.5, 0.4],  # correct
        [0.1, 0.5, 0.4],  # predicted as b
    ]
)


def rows(probabilities: np.ndarray, truth: np.ndarray, groups: list[str], folds: list[int]) -> pd.DataFrame:
    table = pd.DataFrame(probabilities, columns=[f"probability_{name}" for name in CLASSES])
    table["class"] = [CLASSES[number] for number in truth]
    return table.assign(group=groups, fold=folds, model="m", case=[f"k{n}" for n in range(len(truth))])


class TestMeasure:
    """One set of predictions."""

    def test_by_hand(self) -> None:
        scores = measure(TRUTH, FOUND, CLASSES)
        assert scores["", "accuracy"] == pytest.approx(3 / 5)
        assert [scores[name, "recall"] for name in CLASSES] == [0.5, 1, 0]
        assert scores["", "balanced_accuracy"] == pytest.approx(0.5)
        # b: two of two found, four predicted.
        assert [scores[name, "f1"] for name in CLASSES] == pytest.approx([2 / 3, 4 / 6, 0])
        # a against the rest: 0.8 beats 0.2, 0.1, 0.1; 0.3 too.
        # b: 0.7 beats 0.1, 0.6, 0.5; 0.5 beats 0.1 and ties with 0.5.
        assert scores["a", "auc"] == 1
        assert scores["b", "auc"] == pytest.approx((3 + 1.5) / 6)
        assert scores["c", "auc"] == pytest.approx((3 + 0.5) / 4)
        logs = [math.log(p) for p in (0.8, 0.3, 0.7, 0.5, 0.4)]
        assert scores["", "log_loss"] == pytest.approx(-sum(logs) / 5)
        squares = [0.06, 0.86, 0.14, 0.42, 0.62]
        assert scores["", "brier"] == pytest.approx(sum(squares) / 5)

    def test_absent_class_has_none(self) -> None:
        scores = measure(TRUTH[:4], FOUND[:4], CLASSES)
        assert math.isnan(scores["c", "recall"])
        assert math.isnan(scores["c", "auc"])
        assert scores["", "balanced_accuracy"] == pytest.approx(0.75)
        alone = measure(TRUTH[:1], FOUND[:1], CLASSES)
        assert math.isnan(alone["", "auc"])
        assert alone["", "accuracy"] == 1

    def test_like_scikit_learn(self) -> None:
        random = np.random.default_rng(0)
        truth, found = random.integers(3, size=200), random.dirichlet([1, 1, 1], 200)
        scores = measure(truth, found, CLASSES)
        best = found.argmax(1)
        assert scores["", "balanced_accuracy"] == pytest.approx(library.balanced_accuracy_score(truth, best))
        assert scores["", "f1"] == pytest.approx(library.f1_score(truth, best, average="macro"))
        assert scores["", "auc"] == pytest.approx(library.roc_auc_score(truth, found, multi_class="ovr"))
        assert scores["", "log_loss"] == pytest.approx(library.log_loss(truth, found))


class TestCalibration:
    """Confidence against accuracy."""

    def test_by_hand(self) -> None:
        # Confidences 0.8, 0.6, 0.7, 0.5, 0.5 in bins of a tenth, right edges in: one each, except the last
        # two.
        assert reliability(TRUTH, FOUND) == [
            (0.5, 0.5, 2),
            (pytest.approx(0.6), 0, 1),
            (pytest.approx(0.7), 1, 1),
            (pytest.approx(0.8), 1, 1),
        ]
        assert calibration_error(TRUTH, FOUND) == pytest.approx((0 + 0.6 + 0.3 + 0.2) / 5)

    def test_sure_and_right(self) -> None:
        assert calibration_error(np.array([0, 1]), np.eye(3)[:2]) == 0


def by_name(summary: pd.DataFrame) -> dict[tuple[str, str], dict[str, float]]:
    """(class, metric) → the row's values."""
    return {(row["class"], row["metric"]): row for row in summary.to_dict("records")}  # type: ignore[misc]


class TestSummary:
    """Clips and patients, folds and intervals."""

    def test_patients_are_means_of_their_clips(self) -> None:
        table = per_patient(rows(FOUND, TRUTH, ["x", "x", "y", "y", "z"], [0, 0, 1, 1, 1]))
        assert table["group"].tolist() == ["x", "y", "z"]
        assert table["class"].tolist() == list(CLASSES)
        assert table["probability_a"].tolist() == pytest.approx([0.55, 0.15, 0.1])

    def test_what_is_no_number_is_refused(self) -> None:
        found = FOUND.copy()
        found[3, 1] = math.nan
        with pytest.raises(CaseError, match="case k3: model m predicted"):
            summarise(rows(found, TRUTH, ["x", "x", "y", "y", "z"], [0, 0, 1, 1, 1]), ["accuracy"], 5)

    def test_intervals_are_those_of_all_resamples(self) -> None:
        """One by one, with scikit-learn; also where few patients have few different resamples."""
        random = np.random.default_rng(0)
        truth, found = random.integers(3, size=12), random.dirichlet([1, 1, 1], 12).round(1)
        groups = np.arange(12) // 4
        summary = by_name(summarise(rows(found, truth, [*map(str, groups)], [0] * 12), ["auc"], 60))
        expected = []
        for drawn in resampled(3, 60):
            chosen = np.concatenate([np.flatnonzero(groups == number) for number in drawn])
            real = truth[chosen] == 1
            if 0 < real.sum() < len(real):
                expected.append(library.roc_auc_score(real, found[chosen, 1]))
        assert 3 < len({round(value, 9) for value in expected}) < len(expected)
        assert [summary["b", "auc"][key] for key in ("low", "high")] == pytest.approx(interval(expected))

    def test_folds_and_levels(self) -> None:
        table = rows(FOUND, TRUTH, ["x", "x", "y", "y", "z"], [0, 0, 1, 1, 1])
        summary = summarise(table, ["balanced_accuracy", "recall"], resamples=50)
        scores = by_name(summary)
        clips = scores[CLIPS, "balanced_accuracy"]
        assert clips["mean"] == pytest.approx(0.5)
        # Fold 0 has only class a, recall 1/2; fold 1 has b and c, recalls 1 and 0.
        assert clips["fold_mean"] == pytest.approx(0.5)
        assert clips["fold_std"] == pytest.approx(0)
        assert clips["n"] == 5
        patients = scores[PATIENTS, "balanced_accuracy"]
        assert patients["n"] == 3
        assert patients["mean"] == pytest.approx(2 / 3)
        assert scores["a", "recall"]["excluded"] == 1
        assert scores["a, patients", "recall"]["mean"] == 1

    @pytest.mark.slow
    def test_interval_covers_the_truth_and_is_over_patients(self) -> None:
        """Ten clips for each of 40 patients, all correct or all wrong: the interval is that of 40 draws."""
        random = np.random.default_rng(1)
        right = np.repeat(random.random(40) < 0.7, 10)
        truth = np.repeat(random.integers(3, size=40), 10)
        found = np.where(right, truth, (truth + 1) % 3)
        patients = np.repeat(np.arange(40), 10)
        sure = np.eye(3)[found] * 0.9 + 0.1 / 3
        table = rows(sure, truth, [f"g{n}" for n in patients], [int(n) % 5 for n in patients])
        summary = by_name(summarise(table, ["accuracy"], resamples=300))
        share = right.mean()
        error = math.sqrt(share * (1 - share) / 40)
        row = summary[CLIPS, "accuracy"]
        assert row["mean"] == pytest.approx(share)
        assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * error, rel=0.2)

    def test_accepted_clips_beside_all(self) -> None:
        table = rows(FOUND, TRUTH, [f"g{n}" for n in range(5)], [0, 0, 1, 1, 1])
        assert {name for name, _ in by_name(summarise(table, ["accuracy"], resamples=5))} == {CLIPS, PATIENTS}
        # The second and the last clip are wrong; the last one is under review.
        table = table.assign(accepted=[1.0, 1.0, 1.0, 1.0, 0.0])
        summary = by_name(summarise(table, ["accuracy"], resamples=5))
        assert summary[CLIPS, "accuracy"]["mean"] == pytest.approx(3 / 5)
        for level in ("accepted clips", "accepted patients"):
            assert summary[level, "accuracy"]["mean"] == pytest.approx(3 / 4)
            assert summary[level, "accuracy"]["n"] == 4

    def test_one_patient_has_no_interval(self) -> None:
        summary = summarise(rows(FOUND[:2], TRUTH[:2], ["x", "x"], [0, 0]), ["accuracy"], resamples=5)
        assert summary["low"].isna().all()
