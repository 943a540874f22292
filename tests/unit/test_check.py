"""The check: every kind of wrong data is found, named with its line, and listed with all the others."""

import gzip
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from foldwise.experiment.trial import remembered
from foldwise.files import CaseError
from foldwise.forecast import Step
from foldwise.settings import validate
from foldwise.store import Memory
from foldwise.systems.segmentation.settings import Model, Settings
from foldwise.systems.segmentation.system import Segmentation
from foldwise.volumes.new_scans import read_new_scans, refuse_channels
from foldwise.volumes.sheet import read_sheet
from foldwise.volumes.size import Size
from foldwise.volumes.volume import Volume, read_header, write_volume
from synthetic import scan, task

# Prints the id of the counting process, which then waits for more work.
COUNTER = """
import os, time
from foldwise.experiment.trial import _counter

if __name__ == "__main__":
    print(_counter().submit(os.getpid).result(), flush=True)
    time.sleep(60)
"""
HEADER = "case,group,image,label,split\n"


def settings(folder: Path, **more: object) -> Settings:
    values = {"experiment": "x", "data": {"sheet": str(folder / "cases.csv")}, "split": {"folds": 3}}
    return validate(Settings, {**values, **more})


def good(folder: Path, count: int = 6) -> list[str]:
    """Rows of that many cases; `new.nii.gz` is another scan on their grid."""
    rows = []
    write_volume(Volume(scan(count)[0], np.eye(4)), folder / "new.nii.gz")
    for number in range(count):
        image, label = scan(number)
        write_volume(Volume(image, np.eye(4)), folder / f"{number}.nii.gz")
        write_volume(Volume(label, np.eye(4)), folder / f"{number}_l.nii.gz")
        rows.append(f"c{number},g{number},{number}.nii.gz,{number}_l.nii.gz,")
    return rows


def found(folder: Path, rows: list[str], labels: bool = True, **more: object) -> tuple[str, ...]:
    (folder / "cases.csv").write_text(HEADER + "\n".join(rows) + "\n")
    settings_ = settings(folder, **more)
    return (
        Segmentation().check(settings_, read_sheet(settings_.data), deep=labels, memory=Memory(None)).problems
    )


def test_good_data_have_no_problems(tmp_path: Path) -> None:
    assert found(tmp_path, good(tmp_path)) == ()


def nifti(folder: Path, data: np.ndarray, affine: np.ndarray | None = None) -> None:
    image = nib.Nifti1Image(data, np.eye(4) if affine is None else affine)
    nib.save(image, folder / "bad.nii.gz")


def broken_affine(folder: Path, entry: float) -> None:
    """Overwrite the first entry of the header's sform, with a value that no writer would use."""
    nifti(folder, scan(0)[0])
    raw = bytearray(gzip.decompress((folder / "bad.nii.gz").read_bytes()))
    struct.pack_into("<hh", raw, 252, 0, 1)
    struct.pack_into("<f", raw, 280, entry)
    (folder / "bad.nii.gz").write_bytes(gzip.compress(raw))


@pytest.mark.parametrize(
    ("make", "row", "message"),
    [
        (lambda f: None, "b,b,missing.nii.gz,,", r"missing\.nii\.gz: no such file"),
        (lambda f: (f / "bad.nii.gz").write_bytes(b"no"), "b,b,bad.nii.gz,,", "not readable as a volume"),
        (
            lambda f: nifti(f, np.zeros((4, 4, 4, 2), np.int16)),
            "b,b,bad.nii.gz,,",
            "2 channel.*have 1",
        ),
        (lambda f: nifti(f, np.zeros((4, 4), np.int16)), "b,b,bad.nii.gz,,", "expected a 3-D volume"),
        (lambda f: broken_affine(f, np.nan), "b,b,bad.nii.gz,,", "NaN"),
        (lambda f: broken_affine(f, 0.0), "b,b,bad.nii.gz,,", "voxel size"),
        (
            lambda f: nifti(f, np.zeros((9, 9, 9), np.uint8)),
            "b,g0,0.nii.gz,bad.nii.gz,",
            r"shape \(9, 9, 9\) differs from the image's \(20, 18, 16\)",
        ),
        (
            lambda f: nifti(f, scan(0)[1], np.diag([1.0, -1, 1, 1])),
            "b,g0,0.nii.gz,bad.nii.gz,",
            "affine differs from the image's.*flipped",
        ),
        (lambda f: nifti(f, scan(0)[1] * np.uint8(255)), "b,g0,0.nii.gz,bad.nii.gz,", "0/255 mask"),
        (
            lambda f: nifti(f, scan(0)[1] + np.uint8(1)),
            "b,g0,0.nii.gz,bad.nii.gz,",
            r"not in data.labels: 2 \(",
        ),
        (
            lambda f: nifti(f, scan(0)[1] * np.int32(16_777_217)),
            "b,g0,0.nii.gz,bad.nii.gz,",
            r"not in data.labels: 16777217 \(",
        ),
        (lambda f: nifti(f, scan(0)[0] * np.complex64(1j)), "b,b,bad.nii.gz,,", "complex numbers"),
        (lambda f: None, "c1,c1,1.nii.gz,,", "already on line 3"),
        (lambda f: None, "b,g0,0.nii.gz,0_l.nii.gz,test", "patient g0 is in the fixed test set.*case c0"),
        (lambda f: None, "b,b,0.nii.gz,,held", "split 'held'"),
        (lambda f: None, "b/../c,b,0.nii.gz,,", "letters, digits"),
        (lambda f: None, "b,b,0.nii.gz", "3 cells, the header has 5"),
        (lambda f: None, "b,b,,0_l.nii.gz,", "missing image"),
    ],
)
def test_each_problem_is_found(
    tmp_path: Path, make: Callable[[Path], object], row: str, message: str
) -> None:
    rows = good(tmp_path)
    make(tmp_path)
    (problem,) = found(tmp_path, [*rows, row])
    assert problem.startswith("line 8: ")
    assert re.search(message, problem), problem


def test_all_problems_come_together(tmp_path: Path) -> None:
    rows = good(tmp_path)
    rows[1] = "c1,g1,gone.nii.gz,1_l.nii.gz,"
    rows[4] = "c4,g4,4.nii.gz,gone_l.nii.gz,"
    (tmp_path / "cases.csv").write_text(HEADER + "\n".join(rows) + "\n")
    settings_ = settings(tmp_path)
    with pytest.raises(CaseError) as error:
        Segmentation().check(settings_, read_sheet(settings_.data), deep=True, memory=Memory(None)).refuse(
            settings_.data.sheet
        )
    assert "2 problem(s)" in str(error.value)
    assert "line 3: case c1" in str(error.value)
    assert "line 6: case c4" in str(error.value)


def test_too_few_patients_for_the_folds(tmp_path: Path) -> None:
    rows = good(tmp_path, 3)
    assert found(tmp_path, rows) == ()
    (problem,) = found(tmp_path, rows[:2])
    assert "2 labelled patient(s) for 3 folds and a validation share" in problem
    # Two folds of two patients leave one for training, and none for validation.
    two = {"folds": 2}
    assert found(tmp_path, rows[:2], split={**two, "validation": 0}) == ()
    assert len(found(tmp_path, rows[:2], split=two)) == 1


def test_an_empty_label_is_a_warning(tmp_path: Path) -> None:
    rows = good(tmp_path)
    nifti(tmp_path, np.zeros((20, 18, 16), np.uint8))
    rows.append("b,g0,0.nii.gz,bad.nii.gz,")
    (tmp_path / "cases.csv").write_text(HEADER + "\n".join(rows) + "\n")
    settings_ = settings(tmp_path)
    checked = Segmentation().check(settings_, read_sheet(settings_.data), deep=True, memory=Memory(None))
    assert checked.problems == ()
    assert "line 8: case b" in checked.warnings[0]


def said(folder: Path, rows: list[str], deep: bool = True, **more: object) -> list[str]:
    """The warnings of data without problems."""
    (folder / "cases.csv").write_text(HEADER + "\n".join(rows) + "\n")
    settings_ = settings(folder, **more)
    checked = Segmentation().check(settings_, read_sheet(settings_.data), deep=deep, memory=Memory(None))
    assert checked.problems == ()
    return list(checked.warnings)


def data(folder: Path, **labels: int) -> dict[str, Any]:
    return {"sheet": str(folder / "cases.csv"), "labels": labels}


def test_a_class_that_no_training_case_has_is_a_warning(tmp_path: Path) -> None:
    rows = good(tmp_path)
    label = np.zeros((20, 18, 16), np.uint8)
    label[3:8, 3:8, 3:8] = 2
    nifti(tmp_path, label)
    both = data(tmp_path, tumour=1, node=2)
    text = "class node is in none of the 6 labels of the training cases: it cannot be learnt"
    assert said(tmp_path, [*rows, "b,b,new.nii.gz,bad.nii.gz,test"], data=both) == [text]
    assert said(tmp_path, [*rows, "b,b,new.nii.gz,bad.nii.gz,"], data=both) == []


def test_labels_without_any_voxel_are_a_problem(tmp_path: Path) -> None:
    """Also if all that is labelled is to be ignored, or only a test case has more."""
    rows = good(tmp_path)
    (problem,) = found(tmp_path, rows, data=data(tmp_path, tumour=7, ignore=1))
    assert "none of the 6 labels of the training cases has a voxel of tumour" in problem
    label = np.full((20, 18, 16), 7, np.uint8)
    nifti(tmp_path, label)
    rows.append("b,b,new.nii.gz,bad.nii.gz,test")
    assert len(found(tmp_path, rows, data=data(tmp_path, tumour=7, ignore=1))) == 1


def test_the_index_refuses_labels_without_any_voxel(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cases.csv").write_text(HEADER + "\n".join(good(tmp_path, 2)) + "\n")
    both = validate(Settings, {"experiment": "x", "data": data(tmp_path, tumour=1, node=2)}).data
    for ml in (0.0, 0.5):
        for case in ("c0", "c1"):
            (tmp_path / "crops" / case).mkdir(parents=True, exist_ok=True)
            facts = {"channels": 1, "foreground_ml": {"tumour": ml, "node": 0.0}}
            (tmp_path / "crops" / case / "crop.json").write_text(json.dumps(facts))
        if ml:
            Segmentation().entries(both, tmp_path / "crops", tmp_path)
            assert "class node is in none of the 2 labels" in caplog.text
        else:
            with pytest.raises(CaseError, match="none of the 2 labels of the training cases has a voxel"):
                Segmentation().entries(both, tmp_path / "crops", tmp_path)


def test_lost_instances_are_forecast(tmp_path: Path) -> None:
    """A voxel of 1 mm³ at 3 mm; balls of 5 voxels and more stay."""
    rows = good(tmp_path)
    label = np.zeros((20, 18, 16), np.uint8)
    label[4, 4, 4] = 1
    nifti(tmp_path, label)
    (warning,) = said(tmp_path, [*rows, "b,b,new.nii.gz,bad.nii.gz,"], cache={"spacing": [3, 3, 3]})
    assert warning.startswith("line 8: case b: ")
    assert "1 of 1 instances of tumour lost: no voxel is left of them at 2.857 × 3 × 3.2 mm" in warning
    assert "; 1 × 1 × 1 mm keeps them (cache.spacing)" in warning
    assert said(tmp_path, [*rows, "b,b,new.nii.gz,bad.nii.gz,"]) == []


def test_segmentations_of_slicer_are_checked_by_their_headers(tmp_path: Path) -> None:
    rows = good(tmp_path)
    (tmp_path / "s.seg.nrrd").write_bytes(
        b"NRRD0004\ntype: unsigned char\ndimension: 3\nspace: left-posterior-superior\nencoding: raw\n"
        b"kinds: domain domain domain\nspace directions: (-1,0,0) (0,-1,0) (0,0,1)\nsizes: 20 18 16\n"
        b"space origin: (0,0,0)\nSegment0_ID:=s\nSegment0_Name:=Lung\nSegment0_Layer:=0\n"
        b"Segment0_LabelValue:=1\n\n" + bytes(20 * 18 * 15) + b"\1" * 20 * 18
    )
    rows.append("b,b,new.nii.gz,s.seg.nrrd,")
    assert said(tmp_path, rows, deep=False, data=data(tmp_path, lung=1)) == []
    (warning,) = said(tmp_path, rows, deep=False)
    assert "line 8: case b" in warning
    assert "so their values decide: tumour is 'Lung' (1)" in warning
    assert said(tmp_path, rows) == [warning]
    (problem,) = found(tmp_path, rows, labels=False, data=data(tmp_path, lungs=1))
    assert "segment 'Lung' is no class of data.labels; is it lungs?" in problem


def test_remarks_on_headers_are_warnings(tmp_path: Path) -> None:
    rows = good(tmp_path)
    nifti(tmp_path, scan(0)[0], np.diag([1, 1, 40, 1]))
    rows.append("b,b,bad.nii.gz,,")
    (tmp_path / "cases.csv").write_text(HEADER + "\n".join(rows) + "\n")
    settings_ = settings(tmp_path)
    checked = Segmentation().check(settings_, read_sheet(settings_.data), deep=False, memory=Memory(None))
    assert checked.problems == ()
    (warning,) = checked.warnings
    assert warning.startswith(f"line 8: case b: {tmp_path / 'bad.nii.gz'}: its voxels are 1 × 1 × 40 mm")


def test_a_grid_that_no_memory_holds_is_refused(tmp_path: Path) -> None:
    """20·18·16 mm at 0.0005 mm: 4.6e13 voxels."""
    (problem, *others) = found(tmp_path, good(tmp_path), cache={"spacing": [0.0005, 0.0005, 0.0005]})
    assert "line 2: case c0: its grid has 4.6e+13 voxels in the cache" in problem
    assert len(others) == 5


def test_a_sheared_scan_is_forecast_on_its_straight_grid(tmp_path: Path) -> None:
    """20·18·16 voxels that move along x by half a voxel per slice: 8 and a border of up to 1 more."""
    rows, sheared = good(tmp_path), np.eye(4)
    sheared[0, 2] = 0.5
    nifti(tmp_path, scan(0)[0], sheared)
    rows.append("b,b,bad.nii.gz,,")
    (tmp_path / "cases.csv").write_text(HEADER + "\n".join(rows) + "\n")
    settings_ = settings(tmp_path)
    checked = Segmentation().check(settings_, read_sheet(settings_.data), deep=False, memory=Memory(None))
    assert checked.sizes["b"].shape == (29, 18, 16)
    assert checked.sizes["b"].spacing == pytest.approx((1, 1, 1))


def test_weights_need_a_map(tmp_path: Path) -> None:
    sampling = {"label": 0.5, "uniform": 0, "weighted": 0.5}
    problems = found(tmp_path, good(tmp_path), models={"m": {"sampling": sampling}})
    assert len(problems) == 6
    assert "neither a `weight` nor a region" in problems[0]


def test_a_thousand_headers_in_seconds(tmp_path: Path) -> None:
    image, _ = scan(0)
    write_volume(Volume(image, np.eye(4)), tmp_path / "0.nii.gz")
    for number in range(1000):
        (tmp_path / f"{number + 1}.nii.gz").hardlink_to(tmp_path / "0.nii.gz")
    rows = [f"c{n},g{n},{n + 1}.nii.gz,," for n in range(1000)] + good(tmp_path)
    begun = time.process_time()  # not wall time: other tests run beside
    assert not any("no such file" in problem for problem in found(tmp_path, rows, labels=False))
    assert time.process_time() - begun < 10


@pytest.mark.slow
def test_forecast_grows_with_what_drives_it(tmp_path: Path) -> None:
    settings_ = settings(tmp_path)
    footprint = Segmentation().footprint
    small, large = Size((100,) * 3, (1.0,) * 3, 1, True), Size((500,) * 3, (1.0,) * 3, 1, True)
    for stage in ("lung_mask", "crop", "cache"):
        assert (
            100 <= footprint.case_mib(stage, small, settings_) < footprint.case_mib(stage, large, settings_)
        )
    model = settings_.models["unet"]
    doubled = model.model_copy(update={"patch": (128, 128, 128)})
    counts = tmp_path / "counts.json"
    learnt = task(settings_.data.targets())
    one, two = (remembered(Segmentation(), m, learnt, counts) for m in (model, doubled))
    assert two.weights == one.weights
    assert two.kept / one.kept == pytest.approx((128 / 96) ** 3, rel=0.02)
    # Read from the store, not counted again.
    assert remembered(Segmentation(), model, learnt, counts) == one

    def mib(stage: str, size: Size, step: Step) -> float:
        return footprint.model_mib(stage, settings_, "unet", [size], step)

    assert mib("train", small, one) < mib("train", small, two)
    assert mib("test", small, one) < mib("test", large, one)


def test_new_scans_of_a_folder(tmp_path: Path) -> None:
    for name in ("a_0000.nii.gz", "a_0001.nii.gz", "b.nrrd", "notes.txt", ".hidden.nii.gz"):
        (tmp_path / name).touch()
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "IM1").touch()
    cases = read_new_scans(tmp_path).cases
    assert [(case.name, [path.name for path in case.images]) for case in cases] == [
        ("a", ["a_0000.nii.gz", "a_0001.nii.gz"]),
        ("b", ["b.nrrd"]),
        ("series", ["series"]),
    ]
    (tmp_path / "empty").mkdir()
    for source, message in (
        (tmp_path / "empty", "contains no scans"),
        (tmp_path / "missing", "no such file or folder"),
    ):
        with pytest.raises(CaseError, match=message):
            read_new_scans(source)
    (tmp_path / "ü (1) $x.nii.gz").touch()
    assert "ü (1) $x" in [case.name for case in read_new_scans(tmp_path).cases]
    (tmp_path / "a\tb.nii.gz").touch()
    with pytest.raises(CaseError, match=r"'a\\tb' contains a character that cannot be printed"):
        read_new_scans(tmp_path)


def test_one_new_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, and a folder that is itself a DICOM series; beside scans, loose DICOM files are none."""
    series = tmp_path / "CT 1"
    series.mkdir()
    (series / "IM1").write_bytes(bytes(128) + b"DICM")
    (series / "report.txt").touch()
    (tmp_path / "a_0000.nii.gz").touch()
    monkeypatch.chdir(series)
    for source, name in ((tmp_path / "a_0000.nii.gz", "a"), (series, "CT 1"), (Path(), "CT 1")):
        (case,) = read_new_scans(source).cases
        assert (case.name, case.images) == (name, (source,))
    (series / "b.nii").touch()
    assert [case.name for case in read_new_scans(series).cases] == ["b"]


def test_new_scans_of_a_sheet(tmp_path: Path) -> None:
    sheet = tmp_path / "new.csv"
    sheet.write_text("case,image\nx,x.nii.gz\nx,y.nii.gz\n")
    with pytest.raises(CaseError, match="line 3: case x: already on line 2"):
        read_new_scans(sheet)
    sheet.write_text("case,image,label\nx,x.nii.gz,gone.nii.gz\n")
    (case,) = read_new_scans(sheet).cases
    assert case.images == (tmp_path / "x.nii.gz",)


def test_regions_by_a_column_of_the_sheet(tmp_path: Path) -> None:
    """Every case needs a mask, on the grid of its image; new scans, too, so a folder does not do."""
    grid = np.eye(4)
    for name, shape in (("i", (8, 8, 8)), ("m", (8, 8, 8)), ("other", (8, 8, 7))):
        write_volume(
            Volume(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), grid), tmp_path / f"{name}.nii"
        )
    sheet = tmp_path / "s.csv"
    given = {"experiment": "e", "data": {"sheet": str(sheet)}, "prepare": {"region": {"column": "lung"}}}
    settings_ = validate(Settings, given)

    def problems(*rows: str) -> str:
        sheet.write_text("case,image,lung\n" + "\n".join(rows))
        return "\n".join(
            Segmentation()
            .check(settings_, read_sheet(settings_.data), deep=False, memory=Memory(None))
            .problems
        )

    assert "shape (8, 8, 7) differs from the image's" in problems("a,i.nii,other.nii")
    assert "gone.nii" in problems("a,i.nii,gone.nii")
    assert "case a: missing lung" in problems("a,i.nii,")
    problems("a,i.nii,m.nii")
    [case] = read_sheet(settings_.data).cases
    assert case.region == tmp_path / "m.nii"
    assert Segmentation().preparation(settings_, read_sheet(settings_.data)).crop_inputs("a")[
        "region"
    ] == str(tmp_path / "m.nii")
    kept = Segmentation().kept(settings_, "unet")
    [entry] = Segmentation().new_cases(sheet, prepared=kept).entries
    assert entry.files == {"images": (str(tmp_path / "i.nii"),), "region": (str(tmp_path / "m.nii"),)}
    with pytest.raises(CaseError, match="there are no masks beside scans, but the models need the region"):
        Segmentation().new_cases(tmp_path, prepared=kept)
    sheet.write_text("case,image\na,i.nii\n")
    with pytest.raises(CaseError, match=r"no column `lung`, named by prepare\.region\.column"):
        read_sheet(settings_.data)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        ({"region": {"column": "lung"}, "lung_mask": {}}, "set lung_mask, .*, or region, .*; not both"),
        ({"region": {"column": "label"}}, "the column `label` has another meaning"),
        ({"crop": {"to": "region"}}, "crop.to: region needs lung_mask, .*, or a mask from a file"),
        ({"region": {"column": "lung"}, "crop": {"to": "lungs"}}, "crop.to: lungs needs lung_mask"),
        ({"crop": {"to": "none", "outside": "air"}}, "crop.outside: air needs crop.to"),
    ],
)
def test_a_region_and_its_alternatives(prepare: dict[str, Any], message: str) -> None:
    given = {"experiment": "e", "data": {"sheet": "s.csv"}, "prepare": prepare}
    with pytest.raises(CaseError, match=message):
        validate(Settings, given)


def test_the_process_that_counts_ends_with_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "counter.py").write_text(COUNTER)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "counter.py")], stdout=subprocess.PIPE, encoding="utf-8"
    )
    assert parent.stdout is not None
    counter = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    for _ in range(100):
        try:
            os.kill(counter, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(counter, signal.SIGKILL)
    pytest.fail("the process was left behind")


def test_a_counter_that_is_killed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed() -> Any:
        raise BrokenProcessPool("terminated abruptly")

    killed.cache_clear = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setattr("foldwise.experiment.trial._counter", killed)
    with pytest.raises(CaseError, match="most likely because memory ran out"):
        remembered(Segmentation(), Model(), {}, tmp_path / "counts.json")


def test_numbers_at_the_end_of_names_are_channels_only_from_0000_on(tmp_path: Path) -> None:
    """Years and patients are numbered, too; two of them never become one case with two channels."""
    names = ["BraTS20_0001.nii.gz", "BraTS20_0002.nii.gz", "scan_2021.nii.gz", "CAPS_0000.NII.GZ"]
    for name in [*names, "CAPS_0001.NII.GZ", "one_0000.nrrd", "gap_0000.nii", "gap_0002.nii"]:
        (tmp_path / name).touch()
    found = {case.name: [path.name for path in case.images] for case in read_new_scans(tmp_path).cases}
    assert found == {
        **{name.split(".")[0]: [name] for name in names[:3]},
        **{"CAPS": ["CAPS_0000.NII.GZ", "CAPS_0001.NII.GZ"], "one": ["one_0000.nrrd"]},
        **{"gap": ["gap_0000.nii"], "gap_0002": ["gap_0002.nii"]},
    }
    for other in ("scan_2021.mhd", "one.nii", "scan_2021/IM1"):
        path = tmp_path / other
        path.parent.mkdir(exist_ok=True)
        path.touch()
        with pytest.raises(CaseError, match=f"{other.split('/')[0]} and .* are two scans"):
            read_new_scans(tmp_path)
        path.unlink()


def test_every_file_of_a_folder_is_taken_or_named(tmp_path: Path) -> None:
    """Whatever reads it later, and in upper case, too."""
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    for name in ("a.nii.gz", "B.NII.GZ", "c.NII"):
        nib.save(image, tmp_path / name)
    nib.save(nib.Nifti1Pair(image.dataobj, np.eye(4)), tmp_path / "d.hdr")
    nib.save(nib.MGHImage(image.dataobj, np.eye(4)), tmp_path / "e.mgz")
    for name in ("f.nrrd", "g.nhdr", "h.mha", "i.mhd"):
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 2, 2), np.uint8)), str(tmp_path / name))
    for name in ("alone.img", "mesh.vtk", "old.gipl", "notes.txt", ".hidden.nii"):
        (tmp_path / name).touch()
    (tmp_path / "one.dcm").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.nii.gz").touch()
    (tmp_path / "empty").mkdir()
    found = read_new_scans(tmp_path)
    assert {case.name: case.images[0].name for case in found.cases} == {
        **{"a": "a.nii.gz", "B": "B.NII.GZ", "c": "c.NII", "d": "d.hdr", "e": "e.mgz"},
        **{"f": "f.nrrd", "g": "g.nhdr", "h": "h.mha", "i": "i.mhd"},
    }
    for case in found.cases:
        assert read_header(case.images[0]).shape == (2, 2, 2), case.name
    # The voxels of d, g and i are in files that belong to them.
    assert {path.name: reason.split()[0] for path, reason in found.left_out.items()} == {
        **{"alone.img": "without", "mesh.vtk": "not", "old.gipl": "not", "notes.txt": "not"},
        **{".hidden.nii": "hidden", "one.dcm": "single", "masks": "without", "empty": "without"},
    }
    lines = found.lines()
    assert lines[0] == "9 case(s), 1 file each, e.g. B ← B.NII.GZ"
    assert all(any(path.name in line for line in lines) for path in found.left_out)


def test_a_part_of_a_scan_is_no_sheet(tmp_path: Path) -> None:
    (tmp_path / "IM1").write_bytes(bytes(128) + b"DICM")
    for name in ("a.img", "a.hdr", "b.img"):
        (tmp_path / name).touch()
    parts = {"IM1": "single DICOM files", "a.img": "the voxels of a .hdr", "b.img": "without its .hdr"}
    for name, reason in parts.items():
        with pytest.raises(CaseError, match=reason):
            read_new_scans(tmp_path / name)


def test_predictions_beside_the_scans_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.nii").touch()
    (tmp_path / "out" / ".foldwise").mkdir(parents=True)
    (tmp_path / "out" / "manifest.json").touch()
    found = read_new_scans(tmp_path)
    assert [case.name for case in found.cases] == ["a"]
    assert found.left_out == {tmp_path / "out": "predictions of Foldwise"}


def test_an_analyze_file_does_not_say_how_the_patient_lies(tmp_path: Path) -> None:
    nib.save(nib.AnalyzeImage(np.zeros((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "a.hdr")
    with pytest.raises(CaseError, match=r"a\.hdr: an Analyze file, .*convert it to NIfTI"):
        read_header(tmp_path / "a.hdr")


def test_channels_that_the_models_do_not_have(tmp_path: Path) -> None:
    for name in ("p_0000.nii", "p_0001.nii", "q.nii"):
        (tmp_path / name).touch()
    cases = read_new_scans(tmp_path).cases
    refuse_channels(cases, 2)  # q may hold both
    with pytest.raises(CaseError, match=r"case p: p_0000\.nii, p_0001\.nii were taken as its channels"):
        refuse_channels(cases, 1)
