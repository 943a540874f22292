"""Five protocols by which papers score surgical phases; their values must not be compared with each other.

The docstring of each is its definition, which reports and the command show.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from foldwise.metrics.video import LEGACY, RELAXED, STRICT, Counts

METRICS = ("accuracy", "precision", "recall", "jaccard", "f1")
SHARES = METRICS[1:]


@dataclass(frozen=True)
class Score:
    """A value with its spread.

    Attributes:
        value: 0 to 1; NaN if undefined.
        sd: standard deviation; NaN if there is none.
        over: what it is over, `videos` or `phases`; "" for none.
        n: their number.
    """

    value: float
    sd: float
    over: str
    n: int


@dataclass(frozen=True)
class Result:
    """What a protocol computes.

    Attributes:
        scores: metric → its score.
        phases: metric (all but accuracy) → (p,) values of the phases.
    """

    scores: Mapping[str, Score]
    phases: Mapping[str, np.ndarray]


def strict(counts: Counts) -> Result:
    """Frame-exact, per video.

    In each video, a phase that its truth lacks is left out, although predicted frames of it are errors; one
    that is never predicted has a precision of 0. Scores are averaged over the phases of a video, then over
    videos. ± is the standard deviation over videos (n−1), also of accuracy. Source: Foldwise; Surgformer's
    downstream_phase/phase_metric.py (commit d78f996, "video") differs in that phases that are only
    predicted count as 0, and in dividing by n.
    """
    return _by_video(counts, STRICT)


def relaxed(counts: Counts) -> Result:
    """As strict, with the 10-second tolerance of the M2CAI 2016 challenge as it was meant.

    Within the first 10 s of a true segment the previous phase counts as correct (a late transition), within
    the last 10 s the next one (an early transition); at the end of dissection and of the phases after it
    also the one after the next, at the start of cleaning and retraction also the one before the previous.
    Seconds are those of the frames' time stamps: a segment lasts from its first frame to the end of its
    last one, and a frame until the next, but no longer than the usual step. A forgiven frame is a hit of
    both phases, so shares are cut at 1. As it counts as if predicted right, a phase that is hit but never
    predicted has a precision of 1, as in the script. Absent phases and ± as in strict. Source of the
    transitions: the comments in TMRNet's code/eval/result/matlab-eval/Evaluate.m and Evaluate_m2cai.m
    (commit ab1b51c). For the phases of Cholec80 and M2CAI only.
    """
    return _by_video(counts, RELAXED)


def legacy2016(counts: Counts) -> Result:
    """The MATLAB script of M2CAI 2016 that TMRNet, Surgformer and others use, with its quirks.

    It tests the end of a segment and forgives frames at its start, so early transitions count only in
    segments of up to 10 s; 10 s are 10 × fps frames, whatever their times. Phases that a video's truth
    lacks are left out, as is the precision of one that is never predicted, unless a forgiven frame hits it:
    then it is 100 %. Values above 100 % are cut in each video. Means are taken per phase over videos, then
    over phases; Jaccard, recall and F1 are undefined if a phase is in no video. ± is the standard deviation
    over phases (n−1) of precision, recall and Jaccard, but over videos of accuracy and F1; a single value
    has none here. F1, which only Surgformer has, uses uncut precision and recall, and is left out where
    both are 0 or the phase is never predicted. Source: code/eval/matlab-phase/code/Main.m and
    code/eval/result/matlab-eval/Evaluate.m of TMRNet (commit ab1b51c); F1: evaluation_matlab/Main.m and
    Evaluate.m of Surgformer (commit d78f996). For the phases of Cholec80 and M2CAI only.
    """
    hits = counts.hits[LEGACY].astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = {
            "precision": hits / counts.found,
            "recall": hits / counts.true,
            "jaccard": hits / counts.either,
        }
        both = shares["precision"] * shares["recall"]
        shares["f1"] = 2 * both / (shares["precision"] + shares["recall"])
    # Inf, a phase that is hit but never predicted, becomes 1, too.
    shares = {key: np.where(counts.true > 0, np.minimum(each, 1), np.nan) for key, each in shares.items()}
    phases = {key: _mean(each, axis=0) for key, each in shares.items()}
    # The script averages precisions with nanmean, and the others with mean.
    kept = {**phases, "precision": phases["precision"][~np.isnan(phases["precision"])]}
    accuracy, videos = counts.correct[LEGACY] / counts.frames, _mean(shares["f1"], axis=1)
    scores = {
        "accuracy": _score(accuracy, "videos"),
        **{key: _score(kept[key], "phases") for key in ("precision", "recall", "jaccard")},
        "f1": Score(float(np.mean(kept["f1"])), _sd(videos), "videos", len(videos)),
    }
    return Result(scores, phases)


def pooled(counts: Counts) -> Result:
    """Frame-exact, over the frames of all videos together, as scikit-learn's macro average.

    Long videos weigh more. A phase that neither the truth nor a prediction has in any video is left out;
    one that only one of them has scores 0. Accuracy is the share of all frames and has no ±; that of the
    others is the standard deviation over phases (n, as numpy's default). Source: the authors of AutoLaparo
    in issue 2 of ziyiwangx/AutoLaparo, without tolerance and with average='macro'; ± from Surgformer's
    downstream_phase/phase_metric.py (commit d78f996, "frame").
    """
    true, found = counts.true.sum(0), counts.found.sum(0)
    hits = counts.hits[STRICT].sum(0)
    shares = _zero_shares(hits, true, found)
    there = true + found > 0
    phases = {key: np.where(there, each, np.nan) for key, each in shares.items()}
    scores = {
        key: Score(float(each[there].mean()), float(each[there].std()), "phases", int(there.sum()))
        for key, each in shares.items()
    }
    accuracy = float(counts.correct[STRICT].sum() / counts.frames.sum())
    return Result({"accuracy": Score(accuracy, float("nan"), "", int(counts.frames.sum())), **scores}, phases)


def zeros(counts: Counts) -> Result:
    """Frame-exact, per video, with 0 for every phase that a video lacks.

    Precision, recall, Jaccard and F1 are 0 wherever they are undefined, even for a phase that neither the
    truth nor the prediction has, so a perfect prediction of a video with six of seven phases scores 6/7.
    Scores are averaged over all phases of a video, then over videos. ± is the standard deviation over
    videos (n−1). Source: train.py of sukjuoh/Surgical-Mamba (commit f4ac43e), which has neither F1 nor ±.
    """
    shares = _zero_shares(counts.hits[STRICT], counts.true, counts.found)
    scores = {key: _score(each.mean(1), "videos") for key, each in shares.items()}
    accuracy = counts.correct[STRICT] / counts.frames
    phases = {key: each.mean(0) for key, each in shares.items()}
    return Result({"accuracy": _score(accuracy, "videos"), **scores}, phases)


PROTOCOLS: Mapping[str, Callable[[Counts], Result]] = {
    each.__name__: each for each in (strict, relaxed, legacy2016, pooled, zeros)
}


def results(counts: Counts) -> dict[str, Result]:
    """Every protocol that these phases have → its result, of one video or more."""
    return {name: each(counts) for name, each in PROTOCOLS.items() if has(counts, name)}


def has(counts: Counts, protocol: str) -> bool:
    """Whether the phases have a protocol; two are for those of Cholec80 and M2CAI alone."""
    return protocol in counts.hits or protocol not in (RELAXED, LEGACY)


def definition(protocol: str) -> str:
    """A protocol's definition, one paragraph."""
    return " ".join((inspect.getdoc(PROTOCOLS[protocol]) or "").split())


def long_rows(found: Mapping[str, Result], phases: Sequence[str]) -> list[dict[str, Any]]:
    """A row per protocol, metric and phase ("" for their mean): value, sd, over, n."""
    rows: list[dict[str, Any]] = []
    for protocol, result in found.items():
        for metric, score in result.scores.items():
            rows.append({"protocol": protocol, "metric": metric, "phase": "", **asdict(score)})
            if metric in result.phases:
                values = zip(phases, result.phases[metric].tolist(), strict=True)
                rows += [{"protocol": protocol, "metric": metric, "phase": p, "value": v} for p, v in values]
    return rows


def shares_of(counts: Counts, form: str) -> dict[str, np.ndarray]:
    """Metric → (v, p) values of strict or relaxed; NaN for a phase that a video's truth lacks."""
    hits, true, found = counts.hits[form], counts.true, counts.found
    precision = np.where(found > 0, np.minimum(1, hits / np.maximum(found, 1)), hits > 0)
    recall = np.minimum(1, hits / np.maximum(true, 1))
    both = precision + recall
    shares = {
        "precision": precision,
        "recall": recall,
        "jaccard": np.minimum(1, hits / np.maximum(counts.either, 1)),
        "f1": np.where(both > 0, 2 * precision * recall / np.where(both > 0, both, 1), 0),
    }
    return {key: np.where(true > 0, each, np.nan) for key, each in shares.items()}


def _by_video(counts: Counts, form: str) -> Result:
    shares = shares_of(counts, form)
    accuracy = counts.correct[form] / counts.frames
    scores = {key: _score(_mean(each, axis=1), "videos") for key, each in shares.items()}
    phases = {key: _mean(each, axis=0) for key, each in shares.items()}
    return Result({"accuracy": _score(accuracy, "videos"), **scores}, phases)


def _zero_shares(hits: np.ndarray, true: np.ndarray, found: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "precision": hits / np.maximum(found, 1),
        "recall": hits / np.maximum(true, 1),
        "jaccard": hits / np.maximum(true + found - hits, 1),
        "f1": 2 * hits / np.maximum(true + found, 1),
    }


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Means without NaN; NaN where nothing else is left."""
    known = ~np.isnan(values)
    number = known.sum(axis)
    return np.where(number > 0, np.where(known, values, 0).sum(axis) / np.maximum(number, 1), np.nan)


def _score(values: np.ndarray, over: str) -> Score:
    value = float(np.mean(values)) if len(values) else float("nan")
    return Score(value, _sd(values), over, len(values))


def _sd(values: np.ndarray) -> float:
    """Standard deviation with n−1; NaN for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
