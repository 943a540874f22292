"""Rows of metrics.csv for phases and tools, and protocols computed from the file."""

import io
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from foldwise.metrics.protocols import results
from foldwise.metrics.video import CHOLEC80_PHASES, Video, count
from foldwise.report.results import ModelResults
from foldwise.systems.surgical.metrics import average_precision, counts_of, video_rows
from foldwise.systems.surgical.report import tables

# At 0.2 frames per second, 10 s are two frames.
SLOW = 0.2
KEPT = ("best", "last")
TRUTH = np.array([0] * 6 + [1] * 6)
FOUND = np.array([0, 0, 0, 0, 1, 1, 0, 1, 1, 1, 1, 2])


def video(truth: np.ndarray, found: np.ndarray, fps: float = 1, name: str = "v") -> Video:
    return Video(name, truth, found, np.arange(len(truth)) / fps, fps)


def random_videos() -> list[Video]:
    random = np.random.default_rng(0)
    videos = []
    for number in range(5):
        truth = np.repeat(np.sort(random.choice(7, 5, replace=False)), random.integers(5, 30, 5))
        truth[random.random(len(truth)) < 0.05] = -1
        videos.append(video(truth, np.roll(np.abs(truth), random.integers(-8, 8)), name=f"v{number}"))
    return videos


def stored(videos: list[Video], phases: tuple[str, ...] = CHOLEC80_PHASES) -> pd.DataFrame:
    """Their rows, written as CSV and read again, with rows of tools between them."""
    tools = [{"class": "(tools)", "frames": 3, "average_precision": 0.5}, {"class": "Hook", "frames": 2}]
    rows = [
        {"case": each.name, "group": each.name, "fold": number % 2, "fps": each.fps, **row}
        for number, each in enumerate(videos)
        for row in [*video_rows(each, phases), *tools]
    ]
    return pd.read_csv(io.StringIO(pd.DataFrame(rows).to_csv(index=False)))


def test_rows_of_a_video() -> None:
    # Without the frames of unknown phase, whatever is predicted there.
    truth = np.concatenate([[-1, -1], TRUTH, [-1]])
    found = np.concatenate([[3, 3], FOUND, [3]])
    whole, *rows = video_rows(video(truth, found, SLOW), CHOLEC80_PHASES)
    assert whole["class"] == "(phases)"
    assert whole["frames"] == 12
    assert whole["accuracy"] == pytest.approx(8 / 12)
    assert whole["accuracy_relaxed"] == 1
    assert whole["accuracy_legacy2016"] == pytest.approx(9 / 12)
    assert whole["jaccard"] == pytest.approx((4 / 7 + 4 / 8) / 2)
    assert whole["edit"] == pytest.approx(2 / 5)  # 0 1 against 0 1 0 1 2
    assert "jaccard_legacy2016" not in whole
    # Phase 0: 6 true, 5 found, 4 of both, 7 of either. Phase 1: 6, 6, 4 and 8.
    shares = ("precision", "recall", "jaccard", "f1")
    assert [rows[0][key] for key in shares] == pytest.approx([4 / 5, 4 / 6, 4 / 7, 8 / 11])
    assert [rows[1][key] for key in shares] == pytest.approx([4 / 6, 4 / 6, 4 / 8, 8 / 12])
    assert [rows[0][f"{key}_relaxed"] for key in shares] == [1, 1, 1, 1]  # 7 hits of 6 frames are cut
    assert [rows[0][f"{key}_legacy2016"] for key in shares[:3]] == pytest.approx([5 / 5, 5 / 6, 5 / 7])
    assert [rows[1][key] for key in ("frames", "found_frames", "hits", "hits_legacy2016")] == [6, 6, 4, 5]
    assert len(rows) == 7
    assert math.isnan(rows[2]["recall"])
    assert rows[2]["found_frames"] == 1


def test_a_phase_that_is_never_found() -> None:
    _, _, row = video_rows(video(np.array([0, 0, 1]), np.array([0, 0, 0])), ("a", "b"))
    assert [row[key] for key in ("precision", "recall", "jaccard", "f1")] == [0, 0, 0, 0]
    assert not any(name.endswith(("relaxed", "legacy2016")) for name in row)


def test_every_protocol_follows_from_the_file() -> None:
    videos = random_videos()
    counts = counts_of(stored(videos))
    assert counts is not None
    direct, again = results(count(videos, CHOLEC80_PHASES)), results(counts)
    assert list(again) == ["strict", "relaxed", "legacy2016", "pooled", "zeros"]
    for name, result in direct.items():
        for metric, score in result.scores.items():
            np.testing.assert_allclose(
                (again[name].scores[metric].value, again[name].scores[metric].sd), (score.value, score.sd)
            )
    tools = stored(videos)
    assert counts_of(tools[tools["class"].isin(["(tools)", "Hook"])].dropna(axis=1, how="all")) is None


def test_the_report_has_the_protocols_side_by_side() -> None:
    rows = stored(random_videos())
    origins: dict[int, dict[str, Any]] = {
        fold: {"score": 0.5, "settings": {"training": {"keep": keep}}} for fold, keep in enumerate(KEPT)
    }
    model = ModelResults("m", rows, {}, origins, {}, pd.DataFrame(), {})
    table, definitions = tables(model)
    assert "5 video(s)" in table.caption
    assert "2 folds" in table.caption
    assert "at 1 per second" in table.caption
    assert "chosen on validation cases in 1 fold(s)" in table.caption
    counts = counts_of(rows)
    assert counts is not None
    accuracy = 100 * results(counts)["strict"].scores["accuracy"].value
    assert table.rows[0]["accuracy"].startswith(f"{accuracy:.2f} ± ")
    assert table.rows[0]["accuracy"].endswith("(5 videos)")
    assert table.rows[2]["jaccard"].endswith("(7 phases)")
    assert [row["protocol"] for row in definitions.rows] == [row["protocol"] for row in table.rows]
    other = replace(model, metrics=stored(random_videos(), tuple("abcdefg")))
    assert "relaxed and legacy2016: for the phases of Cholec80 and M2CAI only" in tables(other)[0].caption


def test_average_precision() -> None:
    # Ranked: present, absent, present, absent: (1/1 + 2/3) / 2.
    precision = average_precision(np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.7, 0.1]))
    assert precision == pytest.approx(5 / 6)
    assert math.isnan(average_precision(np.zeros(3), np.ones(3)))
