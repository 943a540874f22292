"""The report: the right numbers in all three files, nothing loaded from elsewhere, nothing executed."""

import base64
import dataclasses
import io
import json
import math
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from foldwise.files import CaseError
from foldwise.report.page import write_report
from foldwise.report.results import Experiment, ModelResults, Remark, read_experiment
from foldwise.report.tables import interval, number, spread
from foldwise.systems.segmentation.report import COLOURS, VIEW, _centre, concerns, overlay, three_cases
from foldwise.volumes.cache import Contents, write_case
from foldwise.volumes.geometry import Box, Lineage
from foldwise.volumes.metrics import score
from foldwise.volumes.predictions import write_prediction
from foldwise.volumes.targets import Targets

HOSTILE = "<script>alert(1)</script>"
NAN = float("nan")
# Fold 0 has 0.9, 0.7 and 0.1; fold 1 has 0.5 and the case that is left out.
DICE = {"c0": 0.9, "c1": 0.5, "c2": 0.7, "c3": NAN, "c4": 0.1}
SHAPE = (24, 20, 12)


class Page(HTMLParser):
    """Collects tags with their attributes, text, and the cells of tables by caption."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = self._cell = ""
        self.tables: list[tuple[str, list[list[str]]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append(("", []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("th", "td", "caption"):
            self._cell = ""

    def handle_data(self, data: str) -> None:
        self.text += data
        self._cell += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "caption":
            self.tables[-1] = (self._cell, [])
        elif tag in ("th", "td"):
            self.tables[-1][1][-1].append(self._cell)

    def table(self, caption: str) -> list[list[str]]:
        """Rows, without the heading, of the first table whose caption starts with this."""
        return next(rows[1:] for name, rows in self.tables if name.startswith(caption))


def rows(dice: dict[str, float], name: str = "tumour") -> pd.DataFrame:
    listed = []
    for place, (case, value) in enumerate(dice.items()):
        row = {"case": case, "group": f"g{case}", "fold": place % 2, "class": name, "dice": value}
        row |= dict.fromkeys(("jaccard", "hd95_mm", "assd_mm", "surface_dice", "lesion_recall"), value)
        volume = 0.0 if math.isnan(value) else 2.0
        row |= {"volume_ml": volume, "truth_ml": volume, "volume_error_ml": 0.0, "lesions": int(volume > 0)}
        row |= {"lesions_found": int(value > 0), "false_lesions": 0, "empty": math.isnan(value)}
        listed.append(row)
    return pd.DataFrame(listed)


def log() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "epoch": [1, 2],
            "step": [5, 10],
            "loss": [1.0, 0.5],
            "lr": [0.1, 0.05],
            "val_dice": [NAN, 0.6],
            "seconds": [60.0, 30.0],
            "data_wait": [0.1, 0.4],
            "peak_mib": [500.0, 600.0],
            "peak_gpu_mib": [0.0, 0.0],
        }
    )


def origin(commit: str = "a" * 40) -> dict[str, object]:
    facts: dict[str, object] = {"commit": commit, "settings_hash": "def", "seed": 3, "host": "node7"}
    attempts = [{"event": "start"}, {"event": "stopped"}, {"event": "start"}, {"event": "finished"}]
    more = {"best_epoch": 2, "attempts": attempts, "slurm_job_ids": ["41", "42"], "python": "3.11.7"}
    return facts | more | {"packages": {"torch": "2.15.0", "lightning": None}}


def write_pair(
    folder: Path, case: str, truth: np.ndarray | None, found: np.ndarray, spacing: tuple[float, ...]
) -> tuple[Path, Path]:
    """A cache and a prediction; the image is −500 HU, and air at small x."""
    image = np.full(found.shape, -500, np.int16)
    image[:2] = -1000
    affine = np.diag([*spacing, 1.0])
    lineage = Lineage.of(found.shape, affine, Box((0, 0, 0), found.shape))
    contents = Contents(image[None], truth, None, lineage, ("tumour",))
    write_case(folder / f"{case}.h5", case, contents, (16, 16, 16), 100)
    path = folder / "predictions" / f"{case}.h5"
    write_prediction(path, case, found[None].astype(np.float32), lineage, Targets({"tumour": 1}))
    return folder / f"{case}.h5", path


def cube(corner: tuple[int, int, int], size: tuple[int, int, int], shape: tuple[int, ...]) -> np.ndarray:
    filled = np.zeros(shape, np.uint8)
    filled[tuple(slice(c, c + n) for c, n in zip(corner, size, strict=True))] = 1
    return filled


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    tmp_path = tmp_path_factory.mktemp("caches")
    for place, case in enumerate(DICE):
        truth = cube((4 + place, 4, 4), (8, 8, 4), SHAPE)
        write_pair(tmp_path, case, truth, np.roll(truth, 2, axis=0), (1.0, 1.0, 2.0))
    predictions = {case: tmp_path / "predictions" / f"{case}.h5" for case in DICE}
    logs, origins = {0: log(), 1: log()}, {0: origin(), 1: origin("b" * 40 + "-dirty")}
    first = ModelResults(
        "first",
        rows(DICE),
        logs,
        origins,
        predictions,
        rows({"t0": 0.4}),
        {0: {"postprocess": []}, 1: {"postprocess": ["largest_component"]}},
    )
    halved = rows({case: value / 2 for case, value in DICE.items()})
    second = dataclasses.replace(first, name="second", metrics=halved, test=pd.DataFrame())
    remarks = [Remark("c1", f"1.2 % outside {HOSTILE}")]
    return Experiment(HOSTILE, [first, second], tmp_path, ["line 2: a warning"], remarks, ["u0"])


@pytest.fixture(scope="module")
def written(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(experiment, VIEW, folder)
    return folder


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page((written / "report.html").read_text(encoding="utf-8"))


def test_numbers_agree_in_all_three_files(written: Path, page: Page) -> None:
    summary = json.loads((written / "summary.json").read_text(encoding="utf-8"))
    dice = summary["models"]["first"]["tumour"]["dice"]
    assert dice["mean"] == pytest.approx(0.55)
    assert dice["fold_mean"] == pytest.approx((1.7 / 3 + 0.5) / 2)
    assert dice["fold_std"] == pytest.approx((1.7 / 3 - 0.5) / math.sqrt(2))
    assert (dice["n"], dice["excluded"]) == (4, 1)
    tested = summary["test"]["first"]["tumour"]["dice"]
    # A single patient has no interval: null, since JSON has no NaN.
    assert (tested["mean"], tested["low"]) == (0.4, None)
    table = pd.read_csv(written / "summary.csv").query("model == 'first' and metric == 'dice'")
    lines = table.set_index("cases").to_dict("index")
    assert {key: lines["held out"][key] for key in dice} == pytest.approx(dice)
    assert lines["test"]["mean"] == 0.4
    found = page.table("Dice of held-out cases")[0]
    assert found[:4] == ["first", "tumour", "0.533 ± 0.047", "0.550"]
    assert found[4:] == [f"{dice['low']:.3f} to {dice['high']:.3f}", "4", "1"]


def test_models_stand_side_by_side_on_the_same_cases(experiment: Experiment, tmp_path: Path) -> None:
    first, second = experiment.models
    fewer = second.metrics[second.metrics["case"] != "c0"]
    both = dataclasses.replace(experiment, models=[first, dataclasses.replace(second, metrics=fewer)])
    write_report(both, VIEW, tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    found = page.table("second against first")[0]
    # Without c0 and the empty c3: (0.5 + 0.7 + 0.1) / 3, and half of it.
    assert found[:5] == ["tumour", "Dice", "0.433", "0.217", "−0.217"]
    # Three differences with one sign: of eight equally likely sign patterns, two are as extreme.
    assert found[6:] == ["3", "0", "3", "0.250"]


def test_the_page_needs_nothing_and_runs_nothing_foreign(written: Path, page: Page) -> None:
    text = (written / "report.html").read_text(encoding="utf-8")
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for key in ("src", "href", "xlink:href", "srcset", "data", "action"):
            value = attributes.get(key) or ""
            assert value.startswith(("data:image/webp;base64,", "#")) or not value, (tag, value)
    assert "@import" not in text
    assert "url(http" not in text
    assert HOSTILE not in text
    assert page.text.count(HOSTILE) == 3  # title, heading, remark
    assert [tag for tag, _ in page.tags].count("script") == 1
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers) > 0
    for case in (*DICE, "t0", "u0"):
        assert case in page.text
    assert len(text) < 500_000


def test_cases_stand_worst_first_and_empty_ones_last(page: Page) -> None:
    found = page.table("Held-out cases, worst first")
    assert [row[0] for row in found] == ["c4", "c1", "c2", "c0", "c3"]
    assert [row[4] for row in found] == ["0.100", "0.500", "0.700", "0.900", "–"]
    assert page.table("Means over the held-out")[0][:5] == ["first", "tumour", "0", "3", "0.567"]


def test_training_and_provenance_of_each_fold(page: Page) -> None:
    # (60 s × 10 % + 30 s × 40 %) / 90 s waited; two starts; no GPU.
    assert page.table("Training")[0] == ["0", "2", "2", "1.5", "20.0", "600", "–", "2"]
    assert page.table("Where each fold")[1][:7] == [
        "first", "1", "b" * 12 + "-dirty", "def", "3", "node7", "41, 42"
    ]  # fmt: skip
    assert "2 different states of the code" in page.text
    assert "largest_component (fold 1)" in page.text
    assert "Python 3.11.7, torch 2.15.0" in page.text
    assert "lightning" not in page.text
    assert "line 2: a warning" in page.text
    assert page.table("Cases to look at")[0] == ["c1", "–", "–", f"1.2 % outside {HOSTILE}"]


def test_one_model_without_a_test_set(experiment: Experiment, tmp_path: Path) -> None:
    alone = dataclasses.replace(experiment.models[1], metrics=rows({"c0": 0.5, "c1": 0.25}))
    # A system's remarks on rows may use their columns.
    view = dataclasses.replace(VIEW, concerns=lambda table: concerns(table[table["class"] == "tumour"]))
    alone = dataclasses.replace(alone, test=pd.DataFrame())
    write_report(Experiment("plain", [alone], experiment.caches), view, tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "ixed test set" not in page.text
    assert "against" not in page.text
    assert "None." in page.text
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["test"] == {}


def test_an_absent_class_is_counted_and_has_no_mean(experiment: Experiment, tmp_path: Path) -> None:
    absent = rows(dict.fromkeys(DICE, NAN), "node")
    both = dataclasses.replace(experiment.models[0], metrics=pd.concat([rows(DICE), absent]))
    write_report(Experiment("two classes", [both], experiment.caches), VIEW, tmp_path)
    dice = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["models"]["first"]["node"][
        "dice"
    ]
    assert (dice["mean"], dice["n"], dice["excluded"]) == (None, 0, 5)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.table("Dice of held-out cases")[1] == ["first", "node", "–", "–", "–", "0", "5"]


def test_the_same_results_make_the_same_page(experiment: Experiment, written: Path, tmp_path: Path) -> None:
    write_report(experiment, VIEW, tmp_path)
    assert (tmp_path / "report.html").read_bytes() == (written / "report.html").read_bytes()


def test_best_median_and_worst_by_hand() -> None:
    assert three_cases(rows(DICE)) == [("best", "c0", 0.9), ("median", "c1", 0.5), ("worst", "c4", 0.1)]
    assert three_cases(rows({"a": 0.2, "b": 0.8})) == [("best", "b", 0.8), ("worst", "a", 0.2)]
    assert three_cases(rows({"a": NAN})) == []
    # With two classes, the mean decides: a 0.5, b 0.6, c 0.1.
    two = pd.concat([rows({"a": 0.9, "b": 0.6, "c": 0.1}), rows({"a": 0.1, "b": 0.6, "c": 0.1}, "node")])
    assert [case for _, case, _ in three_cases(two)] == ["b", "a", "c"]


def test_concerns_name_the_reason() -> None:
    table = rows({"fine": 0.9, "missed": 0.0, "apart": 0.0, "false": 0.0, "empty": NAN})
    table["volume_ml"] = [2.0, 0.0, 2.0, 2.0, 0.0]
    table["truth_ml"] = [2.0, 1.5, 2.0, 0.0, 0.0]
    found = {row["case"]: row["text"] for row in concerns(table)}
    assert found == {
        "missed": "nothing predicted; the truth has 1.50 ml",
        "apart": "2.00 ml predicted, none of it in the truth (2.00 ml)",
        "false": "2.00 ml predicted; the truth is empty",
        "empty": "truth and prediction are empty; left out of the means",
    }


def pixels(address: str) -> np.ndarray:
    """(rows, columns, RGB) of a data address."""
    data = base64.b64decode(address.removeprefix("data:image/webp;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def near(image: np.ndarray, colour: str) -> np.ndarray:
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return np.abs(image - wanted).max(axis=2) < 40


def planes(image: np.ndarray) -> list[np.ndarray]:
    """The three planes, cropped from the black around them; air is brighter than that."""
    bright = image.min(axis=2) > 30
    columns = np.flatnonzero(bright.sum(axis=0) > 0.3 * len(image))
    parts = []
    for part in np.split(columns, np.flatnonzero(np.diff(columns) > 5) + 1):
        lines = np.flatnonzero(bright[:, part].mean(axis=1) > 0.6)
        parts.append(image[lines[0] : lines[-1] + 1, part[0] : part[-1] + 1])
    return parts


class TestOverlay:
    SHAPE = (60, 50, 20)
    SPACING = (1.0, 1.0, 3.0)
    EMPTY = np.zeros(SHAPE, np.uint8)

    def drawn(self, folder: Path, truth: np.ndarray | None, found: np.ndarray) -> list[np.ndarray]:
        return planes(pixels(overlay(*write_pair(folder, "c", truth, found, self.SPACING))))

    def test_outline_is_where_a_radiologist_expects_it_and_in_mm(self, tmp_path: Path) -> None:
        # A cube of 12 mm, on the patient's right, in front and above.
        truth = cube((42, 34, 13), (12, 12, 4), self.SHAPE)
        for plane in self.drawn(tmp_path, truth, self.EMPTY):
            lines, columns = np.nonzero(near(plane, COLOURS["truth"]))
            assert columns.mean() < 0.4 * plane.shape[1]
            assert lines.mean() < 0.4 * plane.shape[0]
            # A square in pixels, despite the spacing.
            assert np.ptp(columns) == pytest.approx(np.ptp(lines), abs=3)

    def test_planes_share_one_scale(self, tmp_path: Path) -> None:
        # x, y and z are 60, 50 and 60 mm long.
        shapes = [plane.shape[:2] for plane in self.drawn(tmp_path, self.EMPTY, self.EMPTY)]
        scale = shapes[0][1] / 60
        for (height, width), (up, across) in zip(shapes, ((50, 60), (60, 60), (60, 50)), strict=True):
            assert (height, width) == pytest.approx((scale * up, scale * across), abs=4)

    def test_slices_are_those_of_the_largest_truth_else_prediction(self, tmp_path: Path) -> None:
        small, large = cube((5, 5, 2), (4, 4, 2), self.SHAPE), cube((40, 30, 14), (12, 12, 4), self.SHAPE)

        def outlined(truth: np.ndarray | None) -> list[bool]:
            drawn = self.drawn(tmp_path, truth, large)
            return [any(near(plane, colour).any() for plane in drawn) for colour in COLOURS.values()]

        # The slices of the truth do not meet the prediction.
        assert outlined(small) == [True, False]
        assert outlined(self.EMPTY) == [False, True]
        assert outlined(None) == [False, True]

    def test_a_ct_is_shown_in_the_lung_window(self, tmp_path: Path) -> None:
        axial = self.drawn(tmp_path, self.EMPTY, self.EMPTY)[0]
        # −500 HU is the window's centre, −1000 HU a sixth of it; small x is the patient's left.
        assert axial[20, 100].tolist() == pytest.approx([255 / 2] * 3, abs=2)
        assert axial[20, -5].tolist() == pytest.approx([255 / 6] * 3, abs=2)


class TestReading:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        cases = {"007": {"labelled": True}, "NA": {"labelled": True}, "u": {"labelled": False}}
        (tmp_path / "check.json").write_text(json.dumps({"cases": cases, "warnings": ["line 3: odd"]}))
        for fold, case in enumerate(("007", "NA")):
            part = tmp_path / "unet" / f"fold{fold}"
            (part / "predictions").mkdir(parents=True)
            (part / "predictions" / f"{case}.h5").touch()
            rows({case: NAN}).assign(fold=fold, group=case).to_csv(part / "metrics.csv", index=False)
            log().to_csv(part / "log.csv", index=False)
            (part / "provenance.json").write_text(json.dumps(origin()))
            (part / "choice.json").write_text('{"chosen": {"postprocess": []}}')
        (tmp_path / "unet" / "ensemble").mkdir()
        (tmp_path / "unet" / "ensemble" / "metrics.csv").write_text("case,group,fold,class,dice\n")
        (tmp_path / "lungs").mkdir()
        found = {"judgement": {"remarks": ["one lung has 4% of the other's volume"]}}
        for case, more in (("NA", {"label_missed_by_region": 0.012}), ("u", {})):
            (tmp_path / "lungs" / f"{case}.json").write_text(json.dumps({**found, **more}))
        return tmp_path

    def test_names_stay_as_they_are(self, folder: Path) -> None:
        experiment_ = read_experiment(
            "e", folder, ["unet"], 2, folder, lambda cases: VIEW.remarks(cases, folder, folder)
        )
        (model,) = experiment_.models
        assert model.metrics["case"].tolist() == model.metrics["group"].tolist() == ["007", "NA"]
        assert model.metrics["dice"].isna().all()
        assert model.metrics["empty"].tolist() == [True, True]
        assert set(model.predictions) == {"007", "NA"}
        assert len(model.test) == len(experiment_.test_rows) == 0
        assert experiment_.remarks == [
            Remark("NA", "one lung has 4% of the other's volume"),
            Remark("NA", "1.20% of the label lies outside the thoracic region"),
            Remark("u", "one lung has 4% of the other's volume"),
        ]
        assert experiment_.unlabelled == ["u"]
        assert experiment_.warnings == ["line 3: odd"]

    def test_a_missing_file_is_named(self, folder: Path) -> None:
        (folder / "unet" / "fold1" / "metrics.csv").unlink()
        with pytest.raises(CaseError, match=r"fold1/metrics\.csv"):
            read_experiment("e", folder, ["unet"], 2, folder, lambda cases: [])


def test_numbers_as_they_are_written() -> None:
    assert number(-1.25, 1) == "−1.2"
    assert number(-0.001, 2) == "0.00"
    assert number(NAN, 2) == number(None, 2) == "–"
    assert spread(0.5, 0.1, 2) == "0.50 ± 0.10"
    assert spread(0.5, NAN, 2) == "0.50"
    assert interval(NAN, NAN, 2) == "–"
    assert interval(-1, 1, 1) == "−1.0 to 1.0"


def test_every_metric_has_its_name() -> None:
    mask = np.ones((2, 2, 2), np.uint8)
    (row,) = score(mask, mask, np.eye(3), {"t": (1,)}, tolerance_mm=1)
    assert {column.key for column in (*VIEW.metrics, *VIEW.case_metrics)} <= set(row)


def test_lost_instances_are_added_up(tmp_path: Path) -> None:
    label = cube((2, 2, 2), (4, 4, 4), (12, 12, 12))
    lineage = Lineage.of(label.shape, np.eye(4), Box((0, 0, 0), label.shape))
    for case, away, resampled in (("a", 1, 2), ("b", 0, 0), ("c", 0, 1)):
        lost = {"tumour": {"instances": 4, "cut_away": away, "resampled": resampled}}
        contents = Contents(label[None], label, None, lineage, ("tumour",), lost=lost)
        write_case(tmp_path / f"{case}.h5", case, contents, (8, 8, 8), 10)
    write_pair(tmp_path, "old", label, label, (1.0, 1.0, 1.0))
    assert VIEW.remarks(dict.fromkeys(["a", "b", "c", "old", "failed"]), tmp_path, tmp_path) == [
        Remark(
            "all cases",
            "4 of 12 instances of tumour are lost: 1 outside the crop, 3 smaller than voxels of the cache, "
            "in 2 of 3 cases",
        ),
        Remark(
            "a",
            "3 of 4 instances of tumour are lost: 1 outside the crop, 2 smaller than voxels of the cache",
        ),
        Remark("c", "1 of 4 instances of tumour are lost: 1 smaller than voxels of the cache"),
    ]


def test_pictures_show_no_voxels_to_ignore(tmp_path: Path) -> None:
    """The slices are those of the tumour's largest area, not of the larger ignored part."""
    label = cube((2, 2, 2), (3, 3, 3), (12, 12, 12))
    label[6:] = 2
    with h5py.File(tmp_path / "l.h5", "w") as file:
        file["label"] = label
        assert [place in (2, 3, 4) for place in _centre([file["label"]], 1)] == [True] * 3
