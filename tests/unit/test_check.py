"""The check: every kind of wrong data is found, named with its line, and listed with all the others."""

import gzip
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

from foldwise.experiment.trial import remembered
from foldwise.files import CaseError
from foldwise.forecast import Step
from foldwise.settings import validate
from foldwise.systems.segmentation.settings import Model, Settings
from foldwise.systems.segmentation.system import Segmentation
from foldwise.volumes.sheet import read_new_cases, read_sheet
from foldwise.volumes.size import Size
from foldwise.volumes.volume import Volume, write_volume
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
    rows = []
    for number in range(count):
        image, label = scan(number)
        write_volume(Volume(image, np.eye(4)), folder / f"{number}.nii.gz")
        write_volume(Volume(label, np.eye(4)), folder / f"{number}_l.nii.gz")
        rows.append(f"c{number},g{number},{number}.nii.gz,{number}_l.nii.gz,")
    return rows


def found(folder: Path, rows: list[str], labels: bool = True, **more: object) -> tuple[str, ...]:
    (folder / "cases.csv").write_text(HEADER + "\n".join(rows) + "\n")
    settings_ = settings(folder, **more)
    return Segmentation().check(settings_, read_sheet(settings_.data), deep=labels).problems


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
            "b,b,0.nii.gz,bad.nii.gz,",
            r"shape \(9, 9, 9\) differs from the image's \(20, 18, 16\)",
        ),
        (
            lambda f: nifti(f, scan(0)[1], np.diag([1.0, -1, 1, 1])),
            "b,b,0.nii.gz,bad.nii.gz,",
            "affine differs from the image's.*flipped",
        ),
        (lambda f: nifti(f, scan(0)[1] * np.uint8(255)), "b,b,0.nii.gz,bad.nii.gz,", "0/255 mask"),
        (
            lambda f: nifti(f, scan(0)[1] + np.uint8(1)),
            "b,b,0.nii.gz,bad.nii.gz,",
            r"not in data.labels: 2 \(",
        ),
        (
            lambda f: nifti(f, scan(0)[1] * np.int32(16_777_217)),
            "b,b,0.nii.gz,bad.nii.gz,",
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
        Segmentation().check(settings_, read_sheet(settings_.data), deep=True).refuse(settings_.data.sheet)
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
    rows.append("b,b,0.nii.gz,bad.nii.gz,")
    (tmp_path / "cases.csv").write_text(HEADER + "\n".join(rows) + "\n")
    settings_ = settings(tmp_path)
    checked = Segmentation().check(settings_, read_sheet(settings_.data), deep=True)
    assert checked.problems == ()
    assert "line 8: case b" in checked.warnings[0]


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
    begun = time.monotonic()
    assert not any("no such file" in problem for problem in found(tmp_path, rows, labels=False))
    assert time.monotonic() - begun < 10


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
    cases = read_new_cases(tmp_path)
    assert [(case.name, [path.name for path in case.images]) for case in cases] == [
        ("a", ["a_0000.nii.gz", "a_0001.nii.gz"]),
        ("b", ["b.nrrd"]),
        ("series", ["series"]),
    ]
    (tmp_path / "empty").mkdir()
    for source, message in (
        (tmp_path / "empty", "contains no scans"),
        (tmp_path / "missing", "neither a sample sheet nor a folder"),
    ):
        with pytest.raises(CaseError, match=message):
            read_new_cases(source)
    (tmp_path / "ü (1) $x.nii.gz").touch()
    assert "ü (1) $x" in [case.name for case in read_new_cases(tmp_path)]
    (tmp_path / "a\tb.nii.gz").touch()
    with pytest.raises(CaseError, match=r"'a\\tb' contains a character that cannot be printed"):
        read_new_cases(tmp_path)


def test_new_scans_of_a_sheet(tmp_path: Path) -> None:
    sheet = tmp_path / "new.csv"
    sheet.write_text("case,image\nx,x.nii.gz\nx,y.nii.gz\n")
    with pytest.raises(CaseError, match="line 3: case x: already on line 2"):
        read_new_cases(sheet)
    sheet.write_text("case,image,label\nx,x.nii.gz,gone.nii.gz\n")
    (case,) = read_new_cases(sheet)
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
        return "\n".join(Segmentation().check(settings_, read_sheet(settings_.data), deep=False).problems)

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
    [entry] = Segmentation().new_entries(sheet, kept)
    assert entry.files == {"images": (str(tmp_path / "i.nii"),), "region": (str(tmp_path / "m.nii"),)}
    with pytest.raises(CaseError, match="a folder of scans has no masks, but the models need the region"):
        Segmentation().new_entries(tmp_path, kept)
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
    found = {case.name: [path.name for path in case.images] for case in read_new_cases(tmp_path)}
    assert found == {
        **{name.split(".")[0]: [name] for name in names[:3]},
        **{"CAPS": ["CAPS_0000.NII.GZ", "CAPS_0001.NII.GZ"], "one": ["one_0000.nrrd"]},
        **{"gap": ["gap_0000.nii"], "gap_0002": ["gap_0002.nii"]},
    }
    for other, first in (
        ("scan_2021.mhd", "scan_2021.mhd"),
        ("one.nii", "one.nii"),
        ("scan_2021", "scan_2021"),
    ):
        (tmp_path / other).mkdir() if other == first.split(".")[0] else (tmp_path / other).touch()
        with pytest.raises(CaseError, match=f"{first} and .* are two scans"):
            read_new_cases(tmp_path)
        (tmp_path / other).rmdir() if (tmp_path / other).is_dir() else (tmp_path / other).unlink()
