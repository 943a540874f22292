"""New scans: every patient gets their own mask, and a folder holds what the last call made."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dicom_files import Grid, write_series
from experiments import EXPERIMENT
from foldwise.command import Output
from foldwise.evaluate import marks
from foldwise.experiment.paths import Paths
from foldwise.exported import export_folder
from foldwise.files import CaseError, read_json, write_json
from foldwise.hdf5 import identity_of
from foldwise.index import Entry
from foldwise.published import refuse_among
from foldwise.settings import validate
from foldwise.stages import predict as stage
from foldwise.stages import publish
from foldwise.store import Store
from foldwise.systems import system_of
from foldwise.systems.base import REMARKS, Results, Rows
from foldwise.systems.segmentation import learner
from foldwise.systems.segmentation.inference import Scan
from foldwise.systems.segmentation.results import SegmentationResults
from foldwise.systems.segmentation.settings import Settings
from foldwise.systems.segmentation.system import Segmentation
from foldwise.training.model_file import read_model
from foldwise.volumes.cache import cache_case
from foldwise.volumes.crop import crop_case
from foldwise.volumes.settings import Cache, Crop, Export
from foldwise.volumes.targets import Targets
from foldwise.volumes.volume import Volume, read_volume, write_volume
from untrained import noted_predictions, write_untrained

GRID = Grid(shape=(20, 18, 5))
# The element StudyInstanceUID, without which no object can refer to a series, and one of no meaning.
STUDY, NONE = bytes.fromhex("20000d00"), bytes.fromhex("20000c00")
Predict = Callable[..., dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    task = {"targets": Targets({"tumour": 1}).as_dict(), "channels": 1}
    folder = tmp_path_factory.mktemp("model")
    write_json(folder / "choice.json", {"chosen": {"postprocess": []}})
    return write_untrained(folder / "model.pt", task)


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cases that are predicted, in order."""
    return noted_predictions(monkeypatch)


@pytest.fixture
def predict(tmp_path: Path, model: Path) -> Predict:
    def call(
        source: Path, folder: Path, part: int = 0, parts: int = 1, known: bool = False, **export: Any
    ) -> dict[str, Any]:
        """Predict, unless that is done, and publish."""
        system, name = system_of("segmentation"), f"part{part}of{parts}"
        made = tmp_path / f"{folder.name}-made"
        if not known:
            stage.predict(
                system=system,
                models=[model],
                source=source,
                part=part,
                parts=parts,
                state=Store(tmp_path / "state"),
                published=folder,
                predictions=Output(made / name),
                index=Output(made / f"{name}.pkl"),
                facts=Output(made / f"{name}.json"),
            )
        publish.publish(
            system=system,
            settings=Export(**{"probabilities": True, **export}),
            source=source,
            predictions=made / name,
            index=made / f"{name}.pkl",
            predicted=made / f"{name}.json",
            choice=model.parent / "choice.json",
            folder=Output(folder),
            facts=Output(folder / f"{name}.json"),
        )
        return volumes(folder)

    return call


def volumes(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: read_volume(path).data for path in folder.glob("*.nii.gz")}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != ".foldwise"}


def write_scan(path: Path, seed: int) -> bytes:
    """An uncompressed scan, so that all have one size."""
    data = np.random.default_rng(seed).integers(-900, 900, (20, 18, 16)).astype(np.int16)
    write_volume(Volume(data, np.diag([1.0, 1, 2, 1])), path)
    return path.read_bytes()


class Wards:
    """Patients A and B as DICOM series with the names, sizes and times of each other's files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_series(folder / "A", GRID, stored=self._voxels(1))
        other = self._voxels(2)
        shutil.copytree(folder / "A", folder / "B")
        for z in range(GRID.shape[2]):
            path = folder / "B" / f"IM{900 - z}"
            pixels = other[..., z].T.astype(np.int16).tobytes()
            path.write_bytes(path.read_bytes()[: -len(pixels)] + pixels)

    @staticmethod
    def _voxels(seed: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(-900, 900, GRID.shape)

    def admit(self, patient: str, ward: Path, whole: bool = True, name: str = "scan") -> Path:
        """Put a patient's series into a ward, without an element that an export needs if it is not whole."""
        shutil.rmtree(ward / name, ignore_errors=True)
        shutil.copytree(self.folder / patient, ward / name)
        for path in (ward / name).iterdir():
            data = path.read_bytes()
            assert data.count(STUDY) == 1
            path.write_bytes(data if whole else data.replace(STUDY, NONE))
            os.utime(path, (1e9, 1e9))
        return ward


@pytest.fixture(scope="module")
def wards(tmp_path_factory: pytest.TempPathFactory) -> Wards:
    return Wards(tmp_path_factory.mktemp("wards"))


@pytest.mark.parametrize(("first", "second"), ["AB", "BA"])
@pytest.mark.parametrize("failed", ["export", "another scan"])
@pytest.mark.parametrize("ward", ["the same", "another"])
def test_no_patient_gets_another_one_s_mask(
    predict: Predict, wards: Wards, tmp_path: Path, first: str, second: str, failed: str, ward: str
) -> None:
    expected = predict(wards.admit(second, tmp_path / "alone"), tmp_path / "expected")
    one = tmp_path / "one" / "new"
    if failed == "export":
        with pytest.raises(CaseError, match="a DICOM Segmentation cannot refer to it"):
            predict(wards.admit(first, one, whole=False), tmp_path / "out", dicom_seg=True)
    else:
        wards.admit(first, one)
        (one / "broken.nii").write_bytes(b"no volume")
        with pytest.raises(CaseError, match="1 of 2 cases could not be predicted"):
            predict(one, tmp_path / "out")
        (one / "broken.nii").unlink()
    before = volumes(tmp_path / "out")
    assert before.keys() == expected.keys()
    assert all((before[name] != mask).any() for name, mask in expected.items())
    # Only if a case could not be predicted, the others are kept for the next call.
    assert len(list((tmp_path / "state").glob("*.h5"))) == (failed == "another scan")
    two = one if ward == "the same" else tmp_path / "two" / "new"
    out = tmp_path / "out" if ward == "the same" else tmp_path / "out2"
    found = predict(wards.admit(second, two), out, dicom_seg=True)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], mask) for name, mask in expected.items())
    assert (out / "scan.dcm").exists()
    assert not (tmp_path / "state").exists()


def test_a_good_prediction_outlives_a_failed_export(
    predict: Predict, wards: Wards, tmp_path: Path, predicted: list[str]
) -> None:
    ward, out = wards.admit("A", tmp_path / "new", whole=False), tmp_path / "out"
    with pytest.raises(CaseError, match="1 of 1 cases could not be exported in full"):
        predict(ward, out, dicom_seg=True)
    assert predicted == ["scan"]
    before = volumes(out)
    after = predict(ward, out, known=True)
    assert predicted == ["scan"]
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[name], data) for name, data in before.items())


def test_remarks_of_preparation_are_recorded(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, predicted: list[str]
) -> None:
    """Also of a prediction that an earlier call left, whose scan is not prepared again."""
    remarks = {"a": ["hardly lungs: ü"], "b": []}
    prepare = Segmentation.prepare_new

    def noting(self: Segmentation, entry: Entry, state: Any, folder: Path) -> Path:
        path = prepare(self, entry, state, folder)
        write_json(folder / REMARKS, remarks[entry.case])
        return path

    monkeypatch.setattr(Segmentation, "prepare_new", noting)
    for number, name in enumerate(remarks):
        (tmp_path / "new").mkdir(exist_ok=True)
        write_scan(tmp_path / "new" / f"{name}.nii", number)
    write_volume(Volume(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / "new" / "empty.nii")
    for _ in range(2):
        with pytest.raises(CaseError, match="1 of 3 cases could not be predicted"):
            predict(tmp_path / "new", tmp_path / "out")
        monkeypatch.setattr(Segmentation, "prepare_new", prepare)
    (tmp_path / "new" / "empty.nii").unlink()
    predict(tmp_path / "new", tmp_path / "out")
    assert sorted(predicted) == ["a", "b"]
    assert read_json(tmp_path / "out" / "part0of1.json")["remarks"] == {"a": ["hardly lungs: ü"]}


def test_all_cases_of_a_patient_are_in_one_part(predict: Predict, tmp_path: Path) -> None:
    for number in range(4):
        write_scan(tmp_path / f"s{number}.nii", number)
    sheet = tmp_path / "new.csv"
    rows = [f"s{number},{group},s{number}.nii" for number, group in enumerate("abac")]
    sheet.write_text("\n".join(["case,group,image", *rows]) + "\n", encoding="utf-8")
    out = tmp_path / "out"
    for part in range(2):
        predict(sheet, out, part, 2)
    parts = [read_json(out / f"part{part}of2.json")["cases"] for part in range(2)]
    assert parts == [["s0", "s2", "s3"], ["s1"]]


def test_each_case_is_kept_by_itself(predict: Predict, tmp_path: Path, predicted: list[str]) -> None:
    """Another case, or another division into parts, predicts nothing again that is done."""
    new, out = tmp_path / "new", tmp_path / "out"
    new.mkdir()
    for number in (1, 2):
        write_scan(new / f"s{number}.nii", number)
    (new / "z.nii").write_bytes(b"no volume")
    with pytest.raises(CaseError, match="1 of 3"):
        predict(new, out)
    write_scan(new / "s0.nii", 0)
    write_scan(new / "z.nii", 3)
    predicted.clear()
    for part in (1, 0):
        predict(new, out, part, 2)
    assert predicted == ["z", "s0"]
    assert not list((tmp_path / "state").iterdir())


@pytest.mark.parametrize("during", ["preparation", "export"])
def test_a_scan_that_is_replaced_meanwhile(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    """After its hash was taken: nothing is published, and nothing of it is kept for the former scan."""
    new, out = tmp_path / "new", tmp_path / "out"
    new.mkdir()
    a, b = (write_scan(new / "s.nii", seed) for seed in (1, 2))
    expected = predict(new, tmp_path / "expected")  # of b
    kind: Any = type(system_of("segmentation")) if during == "preparation" else SegmentationResults
    method = "prepare_new" if during == "preparation" else "export_case"
    work = getattr(kind, method)

    def late(*given: Any, **named: Any) -> Any:
        (new / "s.nii").write_bytes(b)
        return work(*given, **named)

    (new / "s.nii").write_bytes(a)
    with monkeypatch.context() as patch, pytest.raises(CaseError, match="case s: its files changed"):
        patch.setattr(kind, method, late)
        predict(new, out)
    assert volumes(out) == {}
    (new / "s.nii").write_bytes(a)
    found = predict(new, out)
    assert (found["s.nii.gz"] != expected["s.nii.gz"]).any()


def test_a_folder_holds_what_the_last_call_made(
    predict: Predict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new, out = tmp_path / "new", tmp_path / "out"
    new.mkdir()
    for number, name in enumerate(("p", "p_tumour", "q")):
        write_scan(new / f"{name}.nii", number)

    def files(case: str) -> set[str]:
        return {f"{case}.nii.gz", f"{case}_tumour_probability.nii.gz"}

    predict(new, out)
    everything = files("p") | files("p_tumour") | files("q")
    assert names(out) == everything | {"part0of1.json"}
    # Another division. `p_tumour_probability` belongs to p, although it begins like p_tumour.
    (out / "notes.txt").write_text("mine")
    for part in (0, 1):
        predict(new, out, part, 2)
    assert names(out) == everything | {"part0of2.json", "part1of2.json", "notes.txt"}
    # A case that is gone, an export that is switched off, and files that the user edited.
    (new / "q.nii").unlink()
    (out / "q.nii.gz").write_bytes(b"edited")
    (out / "p.nii.gz").write_bytes(b"corrected")
    caplog.clear()
    with caplog.at_level(logging.INFO):
        predict(new, out, probabilities=False)
    assert names(out) == {"p.nii.gz", "p_tumour.nii.gz", "part0of1.json", "notes.txt"}
    aside = [path for path in (tmp_path / "out-aside").rglob("*") if path.is_file()]
    assert {path.name: path.read_bytes() for path in aside} == {
        "p.nii.gz": b"corrected",
        "q.nii.gz": b"edited",
    }
    for path in aside:
        assert re.search(
            rf"out/{path.name}: was not written by Foldwise, or .*edited; moved to {path}", caplog.text
        )
    assert "q_tumour_probability.nii.gz: no longer made" in caplog.text
    assert "part0of1.json" not in caplog.text
    assert "notes.txt" not in caplog.text
    # A file in the way.
    write_scan(new / "r.nii", 7)
    (out / "r.nii.gz").write_text("drawn by hand")
    found = predict(new, out)
    assert found.keys() == files("p") | files("p_tumour") | files("r")
    assert [path.read_text() for path in (tmp_path / "out-aside").rglob("r.nii.gz")] == ["drawn by hand"]
    other = shutil.copytree(new, tmp_path / "other" / "new")
    with pytest.raises(CaseError, match=r"out: holds predictions of .*/new .*not of .*other/new; move"):
        predict(other, out)
    assert volumes(out).keys() == found.keys()


@pytest.mark.parametrize(
    "where", ["preparation", "cache", "prediction", "file", "export", "reading", "change"]
)
def test_a_case_that_fails_leaves_those_of_the_others(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Whatever is raised, and wherever: it names the case, and the others' files are there."""
    new, out = tmp_path / "new", tmp_path / "out"
    new.mkdir()
    for number, name in enumerate("abc"):
        write_scan(new / f"{name}.nii", number)
    expected = predict(new, tmp_path / "expected")
    kinds: dict[str, tuple[Any, str]] = {
        "preparation": (type(system_of("segmentation")), "prepare_new"),
        "cache": (system_of("segmentation").learner, "read"),
        "prediction": (system_of("segmentation").learner, "infer"),
        "file": (learner, "write_steps"),
        "export": (SegmentationResults, "export_case"),
        "reading": (stage, "file_hash"),
        "change": (SegmentationResults, "export_case"),
    }
    owner, method = kinds[where]
    work = getattr(owner, method)

    def fail(*given: Any, **named: Any) -> Any:
        names = [one.case if isinstance(one, Scan) else str(one) for one in given]
        if not any("b.nii" in name or "/b/b.h5" in name or name == "b" for name in names):
            return work(*given, **named)
        if where == "change":
            write_scan(new / "b.nii", 9)
            return work(*given, **named)
        raise KeyError("no such thing")

    monkeypatch.setattr(owner, method, fail)
    what = "exported in full" if where == "export" else "predicted"
    with pytest.raises(CaseError, match=rf"1 of 3 cases could not be {what}.*\n  case b: ") as caught:
        predict(new, out)
    assert (
        "its files changed" in str(caught.value)
        if where == "change"
        else "no such thing" in str(caught.value)
    )
    found = volumes(out)
    assert found.keys() == {name for name in expected if not name.startswith("b")}
    assert all(np.array_equal(found[name], expected[name]) for name in found)


def test_a_failed_export_of_the_workflow_keeps_the_others(tmp_path: Path) -> None:
    """Snakemake deletes the outputs of a job that fails."""

    class Some(Results):
        view: Any = None

        def score_case(self, *_: Any) -> Rows:
            return []

        def export_case(self, prediction: Path, entry: Entry, *rest: Any) -> Any:
            if entry.case == bad:
                raise ValueError("no")
            (rest[2] / entry.case).touch()  # the folder
            return {"table.csv": [{"case": entry.case}]}

    entries = [Entry(name, name, {}, "", {}, 0) for name in "abc"]
    paths = dict.fromkeys("abc", tmp_path)
    export = partial(Some().export, paths, entries, None, {})
    bad = "b"
    with pytest.raises(
        CaseError, match=r"1 case\(s\) .* others are in .*out\.partial:\n  case b: ValueError: no"
    ):
        export_folder(tmp_path / "out", export)
    assert not (tmp_path / "out").exists()
    assert names(tmp_path / "out.partial") == {"a", "c", "table.csv"}
    assert (tmp_path / "out.partial" / "table.csv").read_text() == "case\na\nc\n"
    bad = ""
    export_folder(tmp_path / "out", export)
    assert names(tmp_path / "out") == {"a", "b", "c", "table.csv"}
    assert not (tmp_path / "out.partial").exists()


def test_nothing_is_written_beside_the_scans(tmp_path: Path) -> None:
    """A label map has the name of its scan, and a series would get another file."""
    scan, series = tmp_path / "scans" / "a.nii.gz", tmp_path / "scans" / "s"
    series.mkdir(parents=True)
    scan.touch()
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.nii.gz").symlink_to(scan)

    def entry(path: Path) -> Entry:
        return Entry("x", "x", {"images": (str(path),)}, "", {}, 0)

    for folder, path in {
        scan.parent: scan,
        tmp_path / "links" / ".." / "scans": scan,
        tmp_path / "links": tmp_path / "links" / "a.nii.gz",
        series: series,
        series / "out": series,
    }.items():
        with pytest.raises(CaseError, match="which is to be predicted; give another folder"):
            refuse_among(folder, [entry(path)])
    for folder in (tmp_path, scan.parent / "out", tmp_path / "scans2"):
        refuse_among(folder, [entry(scan), entry(series)])


def test_sources_of_one_name_have_their_own_folders() -> None:
    def folder(source: str) -> str:
        return Paths.of(validate(Settings, {**EXPERIMENT, "predict": {"source": source}})).predicted

    assert re.fullmatch(r"results/tiny/\{model\}/predicted-new-[0-9a-f]{8}", folder("new"))
    assert folder("new") == folder("./new/") == folder("wards/../new")
    assert len({folder(source) for source in ("new", "hospitalB/new", "new.csv", "../new")}) == 4


def test_a_scan_that_a_model_learnt_from(
    predict: Predict, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Under another name, and in another file format."""
    write_scan(tmp_path / "scans" / "new.nii.gz", 3)
    write_scan(tmp_path / "scans" / "other.nii.gz", 4)
    folder = tmp_path / "crop"
    folder.mkdir()
    crop_case([tmp_path / "scans" / "new.nii.gz"], None, None, None, Crop(to="none"), {"tumour": 1}, folder)
    cache_case("c0", folder, Cache(), {"tumour": 1}, tmp_path / "c0.h5")
    mark = marks(Entry("c0", "p0", {}, "", {}, 1), identity_of(tmp_path / "c0.h5"))["recording"]
    state = torch.load(model, weights_only=True)
    torch.save(state | {"learnt": [mark]}, model)
    try:
        predict(tmp_path / "scans", tmp_path / "out")
    finally:
        torch.save(state, model)
    assert "case new: 1 of the 1 models learnt from this recording" in caplog.text
    assert "case other" not in caplog.text


@pytest.mark.parametrize(
    ("changed", "why"),
    [({"learnt": 5}, "learnt: "), ({"task": "tumour"}, "task: "), ({"network": {"w": [1]}}, "network.w: ")],
)
def test_a_file_that_does_not_say_what_it_is_for(model: Path, tmp_path: Path, changed: Any, why: str) -> None:
    torch.save(torch.load(model, weights_only=True) | changed, tmp_path / "model.pt")
    with pytest.raises(CaseError, match=rf"model\.pt: not a model of Foldwise \({re.escape(why)}"):
        read_model(tmp_path / "model.pt")


def test_the_same_call_again_removes_nothing(
    tmp_path: Path, predict: Predict, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "new").mkdir()
    write_scan(tmp_path / "new" / "p.nii", 5)
    predict(tmp_path / "new", tmp_path / "out")
    before = names(tmp_path / "out")
    with caplog.at_level(logging.INFO):
        predict(tmp_path / "new", tmp_path / "out")
    assert "predicted p" in caplog.text  # so that messages of this level are here
    assert "no longer made" not in caplog.text
    assert names(tmp_path / "out") == before
