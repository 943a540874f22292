"""Scores over cases, folds and patients: means, bootstrap intervals, and paired comparison."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

NAN = float("nan")


def fold_summary(
    rows: pd.DataFrame, metrics: Sequence[str], resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Means over cases and folds, and a 95 % bootstrap interval of the mean over patients.

    Args:
        rows: one per model, fold, case and class: columns model, case, group, fold, class and metrics.
        metrics: columns to summarise; NaN is left out and counted.
        resamples: bootstrap resamples of the groups (patients), with replacement.
        seed: seed of the resamples.

    Returns:
        A row per model, class and metric: mean, std (over cases, ddof 1), fold_mean, fold_std (of the folds'
        means, ddof 1), n, excluded, low, high.
    """
    summaries = []
    for (model, name), part in rows.groupby(["model", "class"], sort=False):
        for metric in metrics:
            values = part[part[metric].notna()]
            by_fold = values.groupby("fold")[metric].mean()
            low, high = _bootstrap(values, metric, resamples, seed)
            summaries.append(
                {
                    "model": model,
                    "class": name,
                    "metric": metric,
                    "mean": values[metric].mean(),
                    "std": values[metric].std(ddof=1),
                    "fold_mean": by_fold.mean(),
                    "fold_std": by_fold.std(ddof=1),
                    "n": len(values),
                    "excluded": len(part) - len(values),
                    "low": low,
                    "high": high,
                }
            )
    return pd.DataFrame(summaries)


def paired_p(differences: Sequence[float]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test for paired differences centred on 0; NaN if all are 0."""
    values = np.asarray(differences, float)
    return float(wilcoxon(values).pvalue) if np.any(values != 0) else NAN


def resampled(patients: int, resamples: int, seed: int = 0) -> np.ndarray:
    """Patient numbers of each bootstrap resample, (resamples, patients); no rows for a single patient."""
    if patients < 2:
        return np.empty((0, patients), int)
    return np.random.default_rng(seed).integers(patients, size=(resamples, patients))


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Percentiles 2.5 and 97.5 of the values of resamples; NaN without values."""
    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    if not len(known):
        return NAN, NAN
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def _bootstrap(values: pd.DataFrame, metric: str, resamples: int, seed: int) -> tuple[float, float]:
    """The interval of the mean over cases, patients drawn with replacement."""
    patients = values.groupby("group")[metric].agg(["sum", "count"]).to_numpy()
    sums, counts = patients[resampled(len(patients), resamples, seed)].sum(axis=1).T
    return interval(sums / counts)
