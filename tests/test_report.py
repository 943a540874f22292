"""The report: the right numbers in all three files, nothing loaded from elsewhere, nothing executed."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from foldwise.cache import Contents, write_case
from foldwise.report.page import three_cases, write_report
from foldwise.report.results import Experiment, ModelResults
from foldwise.volumes.geometry import Box, Lineage
from foldwise.volumes.metrics import score
from foldwise.volumes.predictions import write_prediction
from synthetic import scan

HOSTILE = "<script>alert(1)</script>"
NAN = float("nan")
DICE = {"c0": 0.9, "c1": 0.5, "c2": 0.7, "c3": NAN, "c4": 0.1}


class Page(HTMLParser):
    """Collects tags with their attributes, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def rows(dice: dict[str, float]) -> pd.DataFrame:
    made = []
    for number, (case, value) in enumerate(dice.items()):
        empty = np.zeros((2, 2, 2), np.uint8)
        (row,) = score(empty, empty, (1.0, 1.0, 1.0), {"tumour": 1}, tolerance_mm=1)
        row["dice"] = value
        made.append({"case": case, "group": case, "fold": number % 2, **row})
    return pd.DataFrame(made)


def model(folder: Path, name: str, dice: dict[str, float], test: pd.DataFrame) -> ModelResults:
    log = pd.DataFrame(
        {
            "epoch": [1, 2],
            "step": [5, 10],
            "loss": [1.0, 0.5],
            "lr": [0.1, 0.05],
            "val_dice": [NAN, 0.6],
            "seconds": [30.0, 30.0],
            "data_wait": [0.1, 0.3],
            "peak_mib": [500.0, 600.0],
            "peak_gpu_mib": [0.0, 0.0],
        }
    )
    provenance = {"commit": "abc", "settings_hash": "def", "seed": 3, "host": "node7", "best_epoch": 2}
    predictions = {case: folder / f"{case}_prediction.h5" for case in dice}
    return ModelResults(
        name, rows(dice), {0: log, 1: log}, {0: provenance, 1: provenance}, predictions, test, {0: "none"}
    )


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    for number, case in enumerate(DICE):
        image, label = scan(number)
        lineage = Lineage(image.shape, tuple(np.eye(4).ravel()), Box((0, 0, 0), image.shape), image.shape)
        contents = Contents(image[None], label, None, lineage, ("tumour",))
        write_case(tmp_path / f"{case}.h5", case, contents, (16, 16, 16), 100)
        found = np.roll(label, 2, axis=0)[None].astype(np.float32)
        write_prediction(tmp_path / f"{case}_prediction.h5", case, found, lineage, ("tumour",))
    test = rows({"t0": 0.4})
    first = model(tmp_path, "first", DICE, test)
    second = model(tmp_path, "second", {case: value / 2 for case, value in DICE.items()}, pd.DataFrame())
    return Experiment(HOSTILE, [first, second], tmp_path, [f"case c1: {HOSTILE}"], ["u0"])


def test_numbers_agree_in_all_three_files(experiment: Experiment, tmp_path: Path) -> None:
    write_report(experiment, tmp_path)
    dice = json.loads((tmp_path / "summary.json").read_text())["models"]["first"]["tumour"]["dice"]
    # Fold 0 holds 0.9, 0.7 and 0.1; fold 1 holds 0.5 and the one that is left out.
    assert dice["mean"] == pytest.approx(0.55)
    assert dice["fold_mean"] == pytest.approx((1.7 / 3 + 0.5) / 2)
    assert (dice["n"], dice["excluded"]) == (4, 1)
    table = pd.read_csv(tmp_path / "summary.csv")
    line = table[(table.model == "first") & (table.metric == "dice") & (table.cases == "held out")]
    assert line["mean"].item() == pytest.approx(0.55)
    page = Page((tmp_path / "report.html").read_text())
    assert "0.550" in page.text
    assert (
        json.loads((tmp_path / "summary.json").read_text())["test"]["first"]["tumour"]["dice"]["mean"] == 0.4
    )
    # The second model against the first, on the same cases: half of each.
    assert "-0.2750" in page.text


def test_the_page_needs_nothing_and_runs_nothing_foreign(experiment: Experiment, tmp_path: Path) -> None:
    write_report(experiment, tmp_path)
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    for tag, attributes in page.tags:
        for key in ("src", "href", "data", "action"):
            value = attributes.get(key) or ""
            assert value.startswith(("data:image/png;base64,", "#")) or not value, (tag, value)
    assert "@import" not in text
    assert HOSTILE not in text
    assert page.text.count("alert(1)") >= 2
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert text.count("<table") == text.count("</table>")
    for case in (*DICE, "t0", "u0"):
        assert case in page.text
    assert len(text) < 2_000_000


def test_best_median_and_worst_by_hand() -> None:
    assert three_cases(rows(DICE)) == [("best", "c0", 0.9), ("median", "c1", 0.5), ("worst", "c4", 0.1)]
    assert [case for _, case, _ in three_cases(rows({"a": 0.2, "b": 0.8}))] == ["b", "a"]
    assert three_cases(rows({"a": math.nan})) == []


def test_one_model_without_a_test_set(experiment: Experiment, tmp_path: Path) -> None:
    alone = Experiment("plain", experiment.models[1:], experiment.caches)
    write_report(alone, tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert "Fixed test set" not in page.text
    assert "model by model" not in page.text
    assert "No remarks" in page.text
