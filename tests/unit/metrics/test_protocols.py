"""The five protocols, against scikit-learn, a plain copy of the MATLAB script's rules, and values by hand."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, jaccard_score, precision_recall_fscore_support

from foldwise.metrics.protocols import (
    METRICS,
    PROTOCOLS,
    Result,
    definition,
    legacy2016,
    long_rows,
    pooled,
    relaxed,
    results,
    strict,
    zeros,
)
from foldwise.metrics.video import CHOLEC80_PHASES, M2CAI_PHASES, Video, count

NAN = math.nan
# Protocols of any phases.
HAS = ("strict", "pooled", "zeros")
Tracks = Sequence[tuple[Sequence[int], Sequence[int]]]


def random_videos(seed: int, phases: int = 7) -> list[tuple[list[int], list[int]]]:
    """Videos of short and long segments that lack phases, with predictions that often come late or early."""
    random = np.random.default_rng(seed)
    videos = []
    for _ in range(random.integers(2, 6)):
        order = np.sort(random.choice(phases, random.integers(2, phases), replace=False))
        truth = np.repeat(order, random.integers(2, 40, len(order)))
        found = np.roll(truth, random.integers(-12, 13))
        noisy = random.random(len(truth)) < 0.1
        found[noisy] = random.integers(phases, size=noisy.sum())
        videos.append((truth.tolist(), found.tolist()))
    return videos


def of(protocol: Callable[..., Result], tracks: Tracks, names: Sequence[str] = CHOLEC80_PHASES) -> Result:
    videos = [
        Video(str(n), np.array(truth), np.array(found), np.arange(len(truth)), 1)
        for n, (truth, found) in enumerate(tracks)
    ]
    return protocol(count(videos, names))


def agree(result: Result, expected: dict[str, tuple[float, float]]) -> None:
    for metric, (value, sd) in expected.items():
        found = result.scores[metric]
        np.testing.assert_allclose((found.value, found.sd), (value, sd), atol=1e-12, err_msg=metric)


# ---- the script, with numbers from 1, in %


class Script:
    """What the MATLAB script computes, written from its rules with plain loops; `phases` is 7 or 8."""

    def __init__(self, phases: int, fps: int) -> None:
        self.phases, self.fps = phases, fps

    def video(self, truth: Sequence[int], found: Sequence[int]) -> dict[str, Any]:
        n = len(truth)
        difference = {j: found[j - 1] - truth[j - 1] for j in range(1, n + 1)}
        first = 1
        while first <= n:
            end = first
            while end < n and truth[end] == truth[first - 1]:
                end += 1
            self.forgive(difference, truth[first - 1], first, end)
            first = end + 1
        table: dict[str, Any] = {"accuracy": 100 * sum(d == 0 for d in difference.values()) / n}
        for phase in range(1, self.phases + 1):
            real = {j for j in difference if truth[j - 1] == phase}
            seen = {j for j in difference if found[j - 1] == phase}
            if not real:
                table[str(phase)] = (NAN,) * 4
                continue
            hits = sum(difference[j] == 0 for j in real | seen)
            nothing = NAN if hits == 0 else math.inf
            precision = 100 * hits / len(seen) if seen else nothing
            recall = 100 * hits / len(real)
            if math.isnan(precision) or math.isinf(precision) or precision + recall == 0:
                f1 = NAN  # 0/0, or Inf/Inf
            else:
                f1 = 2 * precision * recall / (precision + recall)
            table[str(phase)] = (precision, recall, 100 * hits / len(real | seen), f1)
        return table

    def forgive(self, difference: dict[int, int], phase: int, first: int, end: int) -> None:
        t = min(10 * self.fps, end - first + 1)
        from_end = self.phases - phase  # 0 for retraction
        late = [-1, -2] if from_end <= 1 else [-1]
        early = [1, 2] if from_end <= 3 else [1]
        for j in range(1, t + 1):
            if difference[first + j - 1] in late:
                difference[first + j - 1] = 0
        last = [difference[end - t + j] for j in range(1, t + 1)]
        for j in range(1, t + 1):
            if last[j - 1] in early:
                difference[first + j - 1] = 0

    def all(self, tracks: Tracks) -> dict[str, tuple[float, float]]:
        """Metric → mean and ±, from 0 to 1."""
        tables = [self.video([p + 1 for p in truth], [p + 1 for p in found]) for truth, found in tracks]
        accuracy = [table["accuracy"] for table in tables]
        summary = {"accuracy": (np.mean(accuracy), np.std(accuracy, ddof=1))}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of means of nothing
            for place, metric in enumerate(("precision", "recall", "jaccard", "f1")):
                grid = np.array(
                    [[t[str(p)][place] for t in tables] for p in range(1, self.phases + 1)], dtype=float
                )
                grid[grid > 100] = 100
                phases = np.nanmean(grid, axis=1)
                if metric == "precision":
                    summary[metric] = (np.nanmean(phases), np.nanstd(phases, ddof=1))
                elif metric == "f1":
                    summary[metric] = (np.mean(phases), np.std(np.nanmean(grid, axis=0), ddof=1))
                else:
                    summary[metric] = (np.mean(phases), np.std(phases, ddof=1))
        return {key: (value / 100, sd / 100) for key, (value, sd) in summary.items()}


@pytest.mark.parametrize("seed", range(60))
def test_legacy2016_is_the_script(seed: int) -> None:
    names = M2CAI_PHASES if seed % 3 == 0 else CHOLEC80_PHASES
    tracks = random_videos(seed, len(names))
    agree(of(legacy2016, tracks, names), Script(len(names), 1).all(tracks))


def test_legacy2016_is_defined_where_every_phase_is_in_some_video() -> None:
    tracks = [track for seed in range(12) for track in random_videos(seed)]
    expected = Script(7, 1).all(tracks)
    assert not any(math.isnan(value) for pair in expected.values() for value in pair)
    agree(of(legacy2016, tracks), expected)


def test_the_tolerance_of_legacy2016_counts_frames_at_the_stated_rate() -> None:
    # As in the M2CAI driver, which states 25 frames per second for files of one: everything is forgiven.
    truth, found = [1] * 60, [0] * 60
    times = np.arange(60)
    for fps, correct in ((1, 10), (25, 60)):
        counts = count([Video("v", np.array(truth), np.array(found), times, fps)], CHOLEC80_PHASES)
        assert counts.correct["legacy2016"][0] == correct
        assert counts.correct["relaxed"][0] == 10


def test_the_quirks_of_legacy2016_by_hand() -> None:
    # Phase 1 is never predicted. Video 1: its 20 frames are predicted as 3, none is forgiven: its precision
    # is left out. Video 2: predicted as 0, the first ten are forgiven: the precision is 100 %.
    first = ([0] * 20 + [1] * 20, [0] * 20 + [3] * 20)
    second = ([0] * 20 + [1] * 20, [0] * 40)
    one, two = of(legacy2016, [first]), of(legacy2016, [second])
    assert math.isnan(one.phases["precision"][1])
    assert two.phases["precision"][1] == 1
    # Phase 0 of video 2: 30 hits of 40 predicted and 20 true frames; its recall of 150 % is cut.
    assert two.phases["precision"][0] == pytest.approx(30 / 40)
    assert two.phases["recall"][0] == 1
    assert two.phases["jaccard"][0] == pytest.approx(30 / 40)
    # F1 uses the uncut recall: 2 · 0.75 · 1.5 / 2.25 = 1. That of phase 1 is undefined (infinite precision).
    assert two.phases["f1"][0] == pytest.approx(1)
    assert math.isnan(two.phases["f1"][1])
    both = of(legacy2016, [first, second])
    # Per phase over the videos first: (1 + 0.75) / 2 and 1; then over phases, those in no video left out.
    assert both.scores["precision"].value == pytest.approx((1.75 / 2 + 1) / 2)
    assert both.scores["precision"].sd == pytest.approx(np.std([1.75 / 2, 1], ddof=1))
    assert both.scores["precision"].over == "phases"
    assert math.isnan(both.scores["recall"].value)  # five phases are in no video
    # Accuracy 20/40 and 30/40, ± over videos.
    assert both.scores["accuracy"].value == pytest.approx(0.625)
    assert both.scores["accuracy"].sd == pytest.approx(np.std([0.5, 0.75], ddof=1))
    assert both.scores["accuracy"].over == "videos"


# ---- scikit-learn


def learned(truth: Sequence[int], found: Sequence[int], labels: list[int]) -> dict[str, float]:
    options: Any = {"labels": labels, "average": "macro", "zero_division": 0}
    precision, recall, f1, _ = precision_recall_fscore_support(truth, found, **options)
    jaccard = jaccard_score(truth, found, **options)
    accuracy = accuracy_score(truth, found)
    return dict(zip(METRICS, (accuracy, precision, recall, jaccard, f1), strict=True))


def over_videos(tracks: Tracks, labels: Callable[[Sequence[int]], list[int]]) -> dict[str, Any]:
    each = [learned(truth, found, labels(truth)) for truth, found in tracks]
    return {
        metric: (np.mean([e[metric] for e in each]), np.std([e[metric] for e in each], ddof=1))
        for metric in METRICS
    }


@pytest.mark.parametrize("seed", range(20))
def test_frame_exact_protocols_are_those_of_scikit_learn(seed: int) -> None:
    tracks = random_videos(seed)
    agree(of(strict, tracks), over_videos(tracks, lambda truth: sorted(set(truth))))
    agree(of(zeros, tracks), over_videos(tracks, lambda truth: list(range(7))))
    truth, found = ([p for track in tracks for p in track[side]] for side in (0, 1))
    labels = sorted({*truth, *found})
    options: Any = {"labels": labels, "zero_division": 0}
    each = [*precision_recall_fscore_support(truth, found, **options)[:3]]
    each.insert(2, jaccard_score(truth, found, average=None, **options))
    means = learned(truth, found, labels)
    spread = {metric: values.std() for metric, values in zip(METRICS[1:], each, strict=True)}
    agree(of(pooled, tracks), {m: (means[m], spread.get(m, NAN)) for m in METRICS})


def test_absent_phases_by_hand() -> None:
    # Phase 0 has 4 of 4 frames and one too many; phase 1 is never predicted; 2 is only predicted.
    tracks = [([0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 2])]
    exact = {name: of(each, tracks, ("a", "b", "c", "d")) for name, each in PROTOCOLS.items() if name in HAS}
    assert exact["strict"].scores["recall"].value == pytest.approx(1 / 2)
    assert exact["strict"].scores["precision"].value == pytest.approx((4 / 5 + 0) / 2)
    assert exact["pooled"].scores["precision"].value == pytest.approx((4 / 5 + 0 + 0) / 3)
    assert exact["zeros"].scores["precision"].value == pytest.approx((4 / 5 + 0 + 0 + 0) / 4)
    assert {each.scores["accuracy"].value for each in exact.values()} == {4 / 6}
    assert math.isnan(exact["strict"].scores["precision"].sd)  # a single video


def test_a_perfect_prediction_of_six_phases_is_six_sevenths_by_zeros() -> None:
    track = [phase for phase in range(6) for _ in range(3)]
    perfect = {name: of(each, [(track, track)] * 2) for name, each in PROTOCOLS.items()}
    found = {name: result.scores["jaccard"].value for name, result in perfect.items()}
    assert found["zeros"] == pytest.approx(6 / 7)
    assert found["strict"] == found["relaxed"] == found["pooled"] == 1
    assert math.isnan(found["legacy2016"])  # phase 6 is in no video


def test_relaxed_by_hand() -> None:
    # Phase 1 begins 4 frames late and never ends: phases 0 and 2 are 20 frames, 1 is 12.
    truth = [0] * 20 + [1] * 12 + [2] * 20
    found = [0] * 24 + [1] * 28
    result = of(relaxed, [(truth, found)])
    # Forgiven: 4 of the late start; the first 10 frames of phase 2.
    assert result.scores["accuracy"].value == pytest.approx(42 / 52)
    # Phase 0: 24 hits of 24 predicted, 20 true (cut), 24 of either. Phase 2 is hit, but never predicted.
    np.testing.assert_allclose(result.phases["precision"][:3], [1, (8 + 4 + 10) / 28, 1])
    np.testing.assert_allclose(result.phases["recall"][:3], [1, 1, 10 / 20])
    np.testing.assert_allclose(result.phases["jaccard"][:3], [1, 22 / 32, 10 / 20])
    assert result.scores["recall"].value == pytest.approx((1 + 1 + 0.5) / 3)


def test_relaxed_is_legacy2016_where_all_segments_are_short() -> None:
    tracks = [([0] * 10 + [1] * 8 + [2] * 9, [0] * 8 + [1] * 12 + [2] * 7)]
    one, two = of(relaxed, tracks), of(legacy2016, tracks)
    assert one.scores["accuracy"].value == two.scores["accuracy"].value == 1
    np.testing.assert_array_equal(one.phases["jaccard"], two.phases["jaccard"])


def test_other_phases_have_three_protocols_and_all_are_defined() -> None:
    video = Video("v", np.array([0, 1]), np.array([0, 0]), np.arange(2), 1)
    assert set(results(count([video], ("a", "b")))) == set(HAS)
    found = results(count([video], CHOLEC80_PHASES))
    assert list(found) == list(PROTOCOLS)
    for name in PROTOCOLS:
        text = definition(name)
        assert "Source" in text or name == "strict"
        assert "±" in text
        assert "\n" not in text
    rows = long_rows(found, CHOLEC80_PHASES)
    assert len(rows) == 5 * (5 + 4 * 7)
    assert {row["value"] for row in rows if row["metric"] == "accuracy"} >= {0.5}
