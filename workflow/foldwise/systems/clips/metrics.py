"""Scores of a classification, of clips and of patients, with bootstrap intervals over patients."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from foldwise.files import CaseError
from foldwise.statistics import interval, resampled
from foldwise.systems.clips.patients import PROBABILITY, per_patient, probability_columns

NAN = float("nan")
# Bins of the expected calibration error.
BINS = 10
RESAMPLES = 1000
CLIPS, PATIENTS = "all clips", "all patients"
# The same of the clips whose new region was accepted: a column of 0 and 1, with `data.update_labels`.
ACCEPTED = "accepted"
# A clip as it is, beside those with changed frames.
CLEAN = "clean"


def measure(
    truth: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
) -> dict[tuple[str, str], float]:
    """All scores of one set of predictions.

    For all classes together (under ""): accuracy; balanced_accuracy, the mean recall of the classes present;
    auc and f1, means over the classes that have one; log_loss; brier, the sum over classes of squared errors
    (Brier 1950); ece, the expected calibration error of the likeliest class in ten equal bins (Guo et al.
    2017). For each class: recall, f1 and auc, one against the rest. NaN if a class is absent, or the only
    one.

    Args:
        truth: (n,) numbers of classes.
        probabilities: (n, classes).
        classes: their names.

    Returns:
        (class, metric) → value.
    """
    found = probabilities.argmax(axis=1)
    shape = len(classes), len(classes)
    table = np.bincount(truth * len(classes) + found, minlength=len(classes) ** 2).reshape(shape)
    ranks = rankdata(probabilities, axis=0)
    scores: dict[tuple[str, str], float] = {}
    for number, name in enumerate(classes):
        hit, real, claimed = table[number, number], table[number].sum(), table[:, number].sum()
        scores[name, "recall"] = hit / real if real else NAN
        scores[name, "f1"] = 2 * hit / (real + claimed) if real else NAN
        # The share of pairs in the right order (Mann and Whitney 1947); scikit-learn's takes a hundred times
        # as long for a resample.
        pairs = real * (len(truth) - real)
        ordered = ranks[truth == number, number].sum() - real * (real + 1) / 2
        scores[name, "auc"] = ordered / pairs if pairs else NAN
    own = probabilities[np.arange(len(truth)), truth]
    scores["", "accuracy"] = float(np.mean(found == truth))
    for name, metric in (("balanced_accuracy", "recall"), ("f1", "f1"), ("auc", "auc")):
        scores["", name] = _mean([scores[c, metric] for c in classes])
    scores["", "log_loss"] = float(-np.log(np.clip(own, 1e-7, None)).mean())
    scores["", "brier"] = float(((probabilities - np.eye(len(classes))[truth]) ** 2).sum(axis=1).mean())
    scores["", "ece"] = calibration_error(truth, probabilities)
    return scores


def calibration_error(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Expected calibration error: |accuracy − confidence| over bins of confidence, weighted by their size."""
    total = 0.0
    for confidence, accuracy, count in reliability(truth, probabilities):
        total += count / len(truth) * abs(accuracy - confidence)
    return total


def reliability(truth: np.ndarray, probabilities: np.ndarray) -> list[tuple[float, float, int]]:
    """Mean confidence, accuracy and number of predictions of each bin that is not empty."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return [
        (float(confidence[bins == b].mean()), float(right[bins == b].mean()), int((bins == b).sum()))
        for b in np.unique(bins)
    ]


def arrays(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Class numbers, probabilities and class names of a table of predictions."""
    columns = probability_columns(rows)
    classes = [column.removeprefix(PROBABILITY) for column in columns]
    truth = rows["class"].map({name: number for number, name in enumerate(classes)}).to_numpy(int)
    return truth, rows[columns].to_numpy(float), classes


def predicted(rows: pd.DataFrame) -> list[str]:
    """The likeliest class of each row; a name such as 007 would not survive a CSV."""
    _, probabilities, classes = arrays(rows)
    return [classes[number] for number in probabilities.argmax(axis=1)]


def summarise(rows: pd.DataFrame, metrics: Sequence[str], resamples: int = RESAMPLES) -> pd.DataFrame:
    """Scores over all held-out cases and over folds, for clips and for patients.

    Args:
        rows: of one or more models: columns model, case, group, fold, class (the truth) and
            probability_<class>; with learned attention, also bag.
        metrics: names of the scores.
        resamples: bootstrap resamples of the patients, with replacement.

    Returns:
        A row per model, class (or `CLIPS`, `PATIENTS` for all; with `ACCEPTED`, also of the accepted clips
        alone) and metric: mean (of all predictions pooled),
        fold_mean and fold_std (over the folds' values, ddof 1), low and high (percentiles 2.5 and 97.5), n,
        excluded (folds without a value).

    Raises:
        CaseError: a probability is not a number.
    """
    summaries: list[dict[str, object]] = []
    for model, part in rows.groupby("model", sort=False):
        unknown = part[part[probability_columns(part)].isna().any(axis=1)]
        if len(unknown):
            raise CaseError(
                f"case {unknown['case'].iloc[0]}: model {model} predicted probabilities that are not "
                "numbers; its weights are unusable: train it again, e.g. with a lower learning rate"
            )
        for level, table in _levels(part):
            truth, probabilities, classes = arrays(table)
            pooled = measure(truth, probabilities, classes)
            folds = [measure(*arrays(fold)) for _, fold in table.groupby("fold", sort=True)]
            drawn = _bootstrap(table, resamples)
            for (name, metric), value in pooled.items():
                if metric not in metrics:
                    continue
                of_folds = np.array([fold[name, metric] for fold in folds])
                known = of_folds[~np.isnan(of_folds)]
                low, high = interval([values[name, metric] for values in drawn])
                of_class = name if level == CLIPS else f"{name}, {level.removeprefix('all ')}"
                real = int((truth == classes.index(name)).sum()) if name else len(truth)
                summaries.append(
                    {
                        "model": model,
                        "class": of_class if name else level,
                        "metric": metric,
                        "mean": value,
                        "std": NAN,
                        "fold_mean": known.mean() if len(known) else NAN,
                        "fold_std": known.std(ddof=1) if len(known) > 1 else NAN,
                        "n": real,
                        "excluded": len(of_folds) - len(known),
                        "low": low,
                        "high": high,
                    }
                )
    order = {metric: place for place, metric in enumerate(metrics)}
    summaries.sort(key=lambda row: order[str(row["metric"])])
    return pd.DataFrame(summaries)


def _levels(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """A model's clips and patients; if some clips are under review, also those of the accepted clips."""
    levels = [(CLIPS, rows), (PATIENTS, per_patient(rows))]
    accepted = rows[rows[ACCEPTED] == 1] if ACCEPTED in rows else rows
    if 0 < len(accepted) < len(rows):
        levels += [("accepted clips", accepted), ("accepted patients", per_patient(accepted))]
    return levels


def _bootstrap(rows: pd.DataFrame, resamples: int) -> list[dict[tuple[str, str], float]]:
    """Scores of resamples of the patients; none for a single patient."""
    truth, probabilities, classes = arrays(rows)
    members = [np.flatnonzero(rows["group"].to_numpy() == group) for group in rows["group"].unique()]
    # Their order does not matter, so few patients have few different resamples.
    drawn = np.sort(resampled(len(members), resamples), axis=1)
    different, which = np.unique(drawn, axis=0, return_inverse=True)
    scores = []
    for numbers in different:
        chosen = np.concatenate([members[number] for number in numbers])
        scores.append(measure(truth[chosen], probabilities[chosen], classes))
    return [scores[number] for number in which]


def _mean(values: Sequence[float]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(np.nanmean(values))
