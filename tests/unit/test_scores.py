"""The stage that scores: in parts, case by case, and with what may still be chosen."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foldwise.command import request
from foldwise.files import CaseError, write_json
from foldwise.index import Index
from foldwise.scores import Scores, read_rows, table_of, write_rows
from foldwise.stages import export, metrics, score
from foldwise.systems.segmentation.results import SegmentationResults
from foldwise.volumes.geometry import Box, Lineage
from foldwise.volumes.predictions import write_prediction
from foldwise.volumes.targets import Targets
from foldwise.volumes.volume import Volume, read_volume, write_volume
from synthetic import write_cached_set

SETTINGS = "{postprocess: largest_component}"
TARGETS = Targets({"tumour": 1})


def call(monkeypatch: pytest.MonkeyPatch, stage: Any, **given: Any) -> None:
    monkeypatch.setattr(sys, "argv", [stage.__name__, *request(**given)])
    stage.main()


def put(folder: Path, case: str, found: list[int], truth: list[int], label: Path) -> None:
    """A line of voxels that was predicted, and its label."""
    shape = (len(found), 3, 3)
    predicted, real = np.zeros((1, *shape), np.float32), np.zeros(shape, np.uint8)
    predicted[0, :, 1, 1], real[:, 1, 1] = found, truth
    folder.mkdir(exist_ok=True)
    lineage = Lineage.of(shape, np.eye(4), Box((0, 0, 0), shape))
    write_prediction(folder / f"{case}.h5", case, predicted, lineage, TARGETS)
    write_volume(Volume(real, np.eye(4)), label)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Cases c0 to c4, of which predictions are written: an island beside the tumour, and c3 without one."""
    path = write_cached_set(tmp_path / "set")
    for entry in Index.read(path).entries:
        island = [0, 1, 1, 1, 0, int(entry.case != "c3")]
        put(tmp_path / "predictions", entry.case, island, [0, 1, 1, 1, 0, 0], Path(entry.files["label"][0]))
    return path


@pytest.fixture
def scored(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Scores]]:
    def run(settings: str = SETTINGS, part: int = 0, parts: int = 1) -> dict[str, Scores]:
        folder = tmp_path / "scores" / f"{part}of{parts}"
        given = {"index": index, "predictions": tmp_path / "predictions", "state": tmp_path / "state"}
        call(monkeypatch, score.score, **given, settings=settings, part=part, parts=parts, scores=folder)
        return read_rows([folder])

    return run


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cases that are scored, in order."""
    seen: list[str] = []
    real = SegmentationResults.score_all

    def score_all(self: SegmentationResults, prediction: Path, *rest: Any) -> Any:
        seen.append(prediction.stem)
        return real(self, prediction, *rest)

    monkeypatch.setattr(SegmentationResults, "score_all", score_all)
    return seen


def test_parts_are_the_whole(scored: Callable[..., dict[str, Scores]], tmp_path: Path) -> None:
    whole = scored()
    assert [*whole] == ["c0", "c1", "c2", "c3", "c4"]
    assert [each[0]["dice"] for each in whole["c0"].rows] == pytest.approx([2 * 3 / (4 + 3), 1])
    parts = [scored(part=part, parts=3) for part in range(3)]
    assert [[*part] for part in parts] == [["c0", "c3"], ["c1", "c4"], ["c2"]]
    assert {case: each for part in parts for case, each in part.items()} == whole
    # More parts than cases.
    assert scored(part=6, parts=7) == {}
    assert not (tmp_path / "state").exists()


def test_a_killed_job_leaves_its_scores_to_the_next(
    scored: Callable[..., dict[str, Scores]],
    tmp_path: Path,
    noted: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    def stopped(settings: str = SETTINGS) -> list[str]:
        noted.clear()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(score, "atomic_folder", stop)
            scored(settings)
        return list(noted)

    assert stopped() == ["c0", "c1", "c2", "c3", "c4"]
    assert stopped() == []
    # Another label, in place; another prediction; another tolerance.
    label = next((tmp_path / "set").rglob("c1*.nii.gz"))
    write_volume(Volume(np.ones((6, 3, 3), np.uint8), np.eye(4)), label)
    assert stopped() == ["c1"]
    put(tmp_path / "predictions", "c2", [1] * 6, [0] * 6, tmp_path / "other.nii.gz")
    assert stopped() == ["c2"]
    assert len(stopped("{tolerance_mm: 4}")) == 5
    whole = scored()
    assert whole["c2"].rows[0][0]["dice"] == pytest.approx(2 * 3 / (6 + 3))


def test_a_case_that_fails_is_named_and_leaves_the_others(
    scored: Callable[..., dict[str, Scores]], tmp_path: Path, noted: list[str]
) -> None:
    label = next((tmp_path / "set").rglob("c1*.nii.gz"))
    good = label.read_bytes()
    label.write_bytes(b"no volume")
    with pytest.raises(CaseError, match=r"1 of 5 cases failed.*\n  case c1: .*not readable as a volume"):
        scored()
    label.write_bytes(good)
    noted.clear()
    assert len(scored()) == 5
    assert noted == ["c1"]


def test_what_other_cases_choose_is_written(
    index: Path, scored: Callable[..., dict[str, Scores]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """c0 gains from the step that removes its island; c3 loses nothing."""
    scored()
    scored(part=0, parts=3)
    whole, choosing = tmp_path / "scores" / "0of1", tmp_path / "scores" / "0of3"
    out = {"metrics": tmp_path / "metrics.csv", "choice": tmp_path / "choice.json"}
    given = {"index": index, "fold": "1", "settings": SETTINGS, "scores": [whole], **out}
    for choices, dice, labelled in (([], 6 / 7, 4), ([choosing], 1, 3)):
        call(monkeypatch, metrics.metrics, **given, choosing=choices)
        table = (tmp_path / "metrics.csv").read_text().splitlines()
        assert table[0].startswith("case,group,fold,class,dice,")
        assert table[1].split(",")[:4] == ["c0", *table[1].split(",")[1:2], "1", "tumour"]
        assert float(table[1].split(",")[4]) == pytest.approx(dice)
        places = {"predictions": tmp_path / "predictions", "scores": [whole], "choice": out["choice"]}
        call(monkeypatch, export.export, index=index, **places, folder=tmp_path / "export")
        assert int(read_volume(tmp_path / "export" / "c0.nii.gz").data.sum()) == labelled
    # A choice that was not scored names the case.
    write_json(out["choice"], {"chosen": {"postprocess": ["fill_holes"]}})
    with pytest.raises(CaseError, match=r"case c0: was not scored with .*fill_holes.*largest_component"):
        call(monkeypatch, export.export, index=index, **places, folder=tmp_path / "export")


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [{"class": "a", "dice": float("nan"), "n": np.int64(3), "hd": np.float32(0.5), "empty": True}]
    write_rows(tmp_path, {"c": Scores([{}], [rows]), "without a label": Scores([{}], [[]])})
    found = read_rows([tmp_path])
    assert [*found] == ["c", "without a label"]
    [row] = found["c"].of({})
    assert np.isnan(row["dice"])
    assert {**row, "dice": 0} == {"class": "a", "dice": 0, "n": 3, "hd": 0.5, "empty": True}
    assert found["without a label"].of({}) == []
    (tmp_path / "rows.json").write_text("{")
    with pytest.raises(CaseError, match=r"rows\.json"):
        read_rows([tmp_path])


def test_an_empty_table_has_no_row(index: Path) -> None:
    assert len(table_of(Index.read(index).entries, {"c0": Scores([{}], [[]])}, {}, "ensemble")) == 0
