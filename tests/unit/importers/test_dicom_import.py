"""The import of DICOM folders: which series are taken, under which names, and what a bad one costs."""

from __future__ import annotations

import csv
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from dicom_files import Grid, oblique, write_rtstruct, write_series
from foldwise.files import CaseError
from foldwise.importers import dicom
from foldwise.importers.pseudonyms import Names, kept_key
from foldwise.volumes.volume import read_header, read_volume

GRID = Grid(shape=(12, 10, 6))
Import = Callable[..., list[dict[str, str]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Import:
    """Import `in` to sheet.csv, and return its rows."""

    def call(*options: str, sheet: str = "sheet.csv") -> list[dict[str, str]]:
        command = ["dicom", str(tmp_path / "in"), "--sheet", str(tmp_path / sheet), *options]
        monkeypatch.setattr(sys, "argv", command)
        dicom.main()
        return rows(tmp_path / sheet)

    return call


def rows(sheet: Path) -> list[dict[str, str]]:
    with sheet.open(newline="") as file:
        return list(csv.DictReader(file))


def square(grid: Grid, z: int, low: float = 2.5, high: float = 7.5) -> tuple[str, np.ndarray]:
    """A contour that encloses the voxels 3 to 7 along x and y."""
    corners = [(low, low), (high, low), (high, high), (low, high)]
    return ("CLOSED_PLANAR", grid.mm(np.array([[x, y, z] for x, y in corners])))


def label_with(path: Path, images: list[pydicom.Dataset], name: str = "GTV", z: int = 2) -> None:
    write_rtstruct(path, images, {name: [square(GRID, z)]})


def setting(**values: Any) -> Callable[[int, pydicom.Dataset], None]:
    def edit(z: int, one: pydicom.Dataset) -> None:
        for keyword, value in values.items():
            setattr(one, keyword, value)

    return edit


def test_series_in_one_folder_are_told_apart_and_the_later_class_wins(
    tmp_path: Path, run: Import, capsys: pytest.CaptureFixture[str]
) -> None:
    straight, turned = GRID, oblique()
    first = write_series(tmp_path / "in", straight, patient="MRN 1/7", flat=True)
    write_series(tmp_path / "in", turned, patient="MRN 2", flat=True)
    write_series(tmp_path / "in" / "scout", Grid(shape=(24, 20, 2)))
    (tmp_path / "in" / "notes.txt").write_text("no DICOM")
    structures = {
        "Lung_L": [square(straight, z) for z in (1, 2)],
        "GTV 1": [square(straight, z, 3.5, 5.5) for z in (1, 2)],
        "Patient outline": [],
    }
    write_rtstruct(tmp_path / "in" / "rs.dcm", first, structures)
    with pytest.raises(CaseError, match="Lung_L \\(1\\)"):
        run()
    found = {row["group"]: row for row in run("--structures", "Lung_?=lung, gtv*=tumour", "--names", "id")}
    printed = capsys.readouterr().out
    assert re.search(r"left out: .*scout: no description \(CT, 2\.5 mm\), 2 slices: fewer than 5", printed)
    assert "2 of 3 series are taken: 2 × no description (CT, 2.5 mm)" in printed
    assert "left out, no images or structures of DICOM: 1 × .txt" in printed
    assert "2 cases of 2 patients: 1 with a label" in printed
    assert set(found) == {"MRN_1_7", "MRN_2"}
    assert found["MRN_2"]["label"] == ""
    expected = np.zeros(straight.shape, np.uint8)
    expected[3:8, 3:8, 1:3], expected[4:6, 4:6, 1:3] = 1, 2
    assert np.array_equal(read_volume(tmp_path / found["MRN_1_7"]["label"]).data, expected)
    assert "lung: 1, tumour: 2" in (tmp_path / "sheet.yaml").read_text()
    header = read_header(tmp_path / found["MRN_2"]["image"])
    assert np.allclose(header.affine[:3, 3], np.array([-1, -1, 1]) * turned.origin, atol=1e-4)


def test_a_folder_not_made_by_the_command_is_never_replaced(tmp_path: Path, run: Import) -> None:
    write_series(tmp_path / "in", GRID)
    (tmp_path / "sheet").mkdir()
    (tmp_path / "sheet" / "thesis.tex").touch()
    with pytest.raises(CaseError, match=r"sheet: is not replaced.*thesis\.tex"):
        run("--force")
    assert (tmp_path / "sheet" / "thesis.tex").exists()


def test_series_without_structures_are_cases_to_predict(
    tmp_path: Path, run: Import, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them, or those of a modality, description and thickness; the choice is printed."""
    for number, (modality, description, thickness) in enumerate(
        [("CT", "Chest 1.0", 1), ("CT", "Chest 5.0", 5), ("CT", "Head", 1), ("MR", "T1", 1)]
    ):
        edit = setting(Modality=modality, SeriesDescription=description, SliceThickness=thickness)
        write_series(tmp_path / "in" / f"s{number}", GRID, patient=f"P{number}", edit=edit)
    assert len(run()) == 3
    found = run("--force", "--series", "chest*", "--thickness", "0.5-3")
    assert [(row["label"], row["split"]) for row in found] == [("", "")]
    printed = capsys.readouterr().out
    assert "1 of 4 series are taken: 1 × Chest 1.0 (CT, 1 mm)" in printed
    for folder, reason in (
        ("s1", "its SliceThickness is not 0.5 to 3 mm"),
        ("s2", r"its description does not fit 'chest\*'"),
        ("s3", "its modality is MR, not CT"),
    ):
        assert re.search(rf"left out: .*{folder}: .*: {reason}", printed)
    with pytest.raises(CaseError, match=r"no PT series is taken.*\n.*found: 3 CT, 1 MR"):
        run("--force", "--modality", "PT")
    label_with(tmp_path / "in" / "rs.dcm", write_series(tmp_path / "in" / "s4", GRID, patient="P4"))
    with pytest.raises(CaseError, match=r"--labels ignore for the images alone; found.*\n  GTV \(1\)"):
        run("--force")
    assert [row["label"] for row in run("--force", "--labels", "ignore")] == [""] * 4
    label_with(tmp_path / "in" / "rs5.dcm", write_series(tmp_path / "in" / "s5", GRID, patient="P5"), "CTV")
    (row,) = run("--force", "--labels", "require", "--structures", "GTV=tumour")
    assert row["label"]


@pytest.mark.parametrize("offset", [0, 30])
def test_patients_with_equal_uids_stay_apart(tmp_path: Path, run: Import, offset: float) -> None:
    """At the same place with equal instances, or one above the other: never one volume of two patients."""
    uids = setting(SeriesInstanceUID="1.2.3", StudyInstanceUID="1.2.4", FrameOfReferenceUID="1.2.5")

    def edit(z: int, one: pydicom.Dataset) -> None:
        uids(z, one)
        one.SOPInstanceUID = f"1.2.6.{z}" if offset == 0 else generate_uid()

    images = write_series(tmp_path / "in" / "a", GRID, patient="A", edit=edit)
    above = Grid(GRID.shape, origin=(GRID.origin[0], GRID.origin[1], GRID.origin[2] + offset))
    write_series(tmp_path / "in" / "b", above, patient="B", edit=edit, stored=np.full(GRID.shape, 7))
    label_with(tmp_path / "in" / "rs.dcm", images)
    found = {row["group"]: row for row in run("--structures", "GTV=tumour", "--names", "id")}
    assert {group: bool(row["label"]) for group, row in found.items()} == {"A": True, "B": False}
    for group, value in (("A", 5), ("B", 7)):
        volume = read_volume(tmp_path / found[group]["image"])
        assert (volume.data.shape, volume.data.max()) == (GRID.shape, value)


def test_two_scans_under_one_name_are_refused_and_copies_count_once(tmp_path: Path, run: Import) -> None:
    images = write_series(tmp_path / "in" / "a", GRID, patient="ANON")
    copies = tmp_path / "in" / "copy"
    copies.mkdir()
    for z, one in enumerate(images):
        one.ContentDate = "20200101"  # the same pixels under another header
        one.save_as(copies / f"{z}.dcm", enforce_file_format=True)
    (row,) = run()
    assert read_header(tmp_path / row["image"]).shape == GRID.shape
    for z, one in enumerate(images):
        one.PixelData = np.full((10, 12), 9, np.int16).tobytes()
        one.save_as(copies / f"{z}.dcm", enforce_file_format=True)
    with pytest.raises(CaseError, match=r"/a/IM900 and .*/copy/0\.dcm have the same UIDs .* other pixels"):
        run("--force")


def test_files_of_nobody_in_two_folders_are_not_one_patient(tmp_path: Path, run: Import) -> None:
    edit = setting(SeriesInstanceUID="1.2.3", StudyInstanceUID="1.2.4")
    above = Grid(GRID.shape, origin=(GRID.origin[0], GRID.origin[1], GRID.origin[2] + 15))
    for folder, grid in (("a", GRID), ("b", above)):
        write_series(tmp_path / "in" / folder, grid, patient="", name="", edit=edit)
    with pytest.raises(CaseError, match=r"no PatientID and lie in .*/a, .*/b; import them separately"):
        run()


def test_structures_of_another_patient_are_not_used(tmp_path: Path, run: Import) -> None:
    images = write_series(tmp_path / "in" / "ct", GRID, patient="A")
    for one in images:
        one.PatientID = "B"
    label_with(tmp_path / "in" / "rs.dcm", images)
    with pytest.raises(CaseError, match=r"rs\.dcm: its PatientID differs from that of .*/in/ct"):
        run("--structures", "GTV=tumour")


def test_a_bad_series_leaves_the_others(
    tmp_path: Path, run: Import, capsys: pytest.CaptureFixture[str]
) -> None:
    """One with structures is an error, and one without a remark; the sheet of the others is written."""
    for patient in "ABC":
        images = write_series(tmp_path / "in" / patient, GRID, patient=patient)
        label_with(tmp_path / "in" / patient / "rs.dcm", images)
    write_series(tmp_path / "in" / "derived", GRID, patient="D", edit=setting(PixelSpacing=None))
    (tmp_path / "in" / "B" / "IM897").unlink()
    cut = tmp_path / "in" / "C" / "rs.dcm"
    cut.write_bytes(cut.read_bytes()[:-20])
    options = ("--structures", "GTV=tumour", "--names", "id")
    with pytest.raises(CaseError) as caught:
        run(*options)
    message = str(caught.value)
    assert "sheet.csv: is written, but without 2 case(s)" in message
    assert re.search(r"left out: case B_\w+: .*/in/B: its slices lie 2\.50 to 5\.00 mm apart", message)
    assert re.search(r"left out: case C_\w+: .*/in/C/rs\.dcm: not readable as RTSTRUCT or SEG", message)
    assert re.search(r"warning: left out: case D_\w+: .*PixelSpacing", capsys.readouterr().out)
    (row,) = rows(tmp_path / "sheet.csv")
    assert (row["group"], read_volume(tmp_path / row["label"]).data.sum()) == ("A", 25)
    assert [path.name for path in (tmp_path / "sheet" / "series").iterdir()] == [row["case"]]
    assert run(*options, "--force", "--skip-broken") == [row]
    assert re.search("warning: left out: case B_.*5.00 mm apart", capsys.readouterr().out)


def test_pseudonyms_lead_back_only_by_the_table(tmp_path: Path, run: Import) -> None:
    for patient in ("P-17", "P-18"):
        images = write_series(tmp_path / "in" / patient, GRID, patient=patient)
        label_with(tmp_path / "in" / patient / "rs.dcm", images)
    first = run("--structures", "GTV=tumour")
    assert all(re.fullmatch(r"p[0-9a-f]{12}", row["group"]) for row in first)
    assert all(re.fullmatch(row["group"] + "_[0-9a-f]{8}", row["case"]) for row in first)
    private = [tmp_path / "sheet.key", tmp_path / "sheet.patients.csv"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in private] == [0o600, 0o600]
    table = {line["PatientID"]: line for line in rows(private[1])}
    assert {line["patient"] for line in table.values()} == {row["group"] for row in first}
    assert {line["case"] for line in table.values()} == {row["case"] for row in first}
    assert table["P-17"]["folder"] == str(tmp_path / "in" / "P-17")
    # The same key gives the same names, here with one more patient, and in another sheet.
    write_series(tmp_path / "in" / "P-19", GRID, patient="P-19")
    again = run("--structures", "GTV=tumour", "--force")
    assert {row["case"] for row in first} < {row["case"] for row in again}
    assert run("--structures", "GTV=tumour", "--key", str(private[0]), sheet="two.csv")[0]["case"] in {
        row["case"] for row in again
    }
    # Another key gives others.
    other = run("--structures", "GTV=tumour", sheet="three.csv")
    assert not {row["group"] for row in other} & {row["group"] for row in again}
    private[0].write_text("lost")
    with pytest.raises(CaseError, match="not a key of pseudonyms"):
        run("--structures", "GTV=tumour", "--force")


def box_file(
    path: Path, boxes: list[tuple[str, int, int, int, int]], size: tuple[int, int] = (12, 10)
) -> None:
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax>"
        f"<ymax>{y1}</ymax></bndbox></object>"
        for name, x0, y0, x1, y1 in boxes
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation><filename>{path.stem}</filename><size><width>{size[0]}</width><height>{size[1]}</height>"
        f"<depth>3</depth></size>{objects}</annotation>"
    )


def test_boxes_are_filled_on_their_slices(
    tmp_path: Path, run: Import, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_series(tmp_path / "in" / "ct", GRID)
    write_series(tmp_path / "in" / "other", GRID, patient="P2")
    boxes = tmp_path / "Annotation" / "A0001"
    box_file(boxes / f"{images[1].SOPInstanceUID}.xml", [("A", 2, 3, 5, 9), ("g", 8, 0, 12, 2)])
    box_file(boxes / f"{images[2].SOPInstanceUID}.xml", [("a", 0, 0, 1, 1)])
    box_file(boxes / "1.2.3.xml", [("B", 0, 0, 1, 1)])
    found = run("--boxes", str(boxes.parent))
    (label,) = [row["label"] for row in found if row["label"]]
    expected = np.zeros(GRID.shape, np.uint8)
    expected[2:5, 3:9, 1], expected[0, 0, 2], expected[8:12, 0:2, 1] = 1, 1, 2
    assert np.array_equal(read_volume(tmp_path / label).data, expected)
    assert "A: 1, g: 2" in (tmp_path / "sheet.yaml").read_text()
    assert "A0001: 1 box(es) left out: their slices are missing" in capsys.readouterr().out
    (boxes / "other.xml").write_text("<LidcReadMessage/>")
    with pytest.raises(CaseError, match=r"without 1 case.*\n.*other\.xml: .*it holds <LidcReadMessage>"):
        run("--boxes", str(boxes.parent), "--structures", "[ag]=tumour", "--force")
    assert "labels: {tumour: 1}" in (tmp_path / "sheet.yaml").read_text()


@pytest.mark.parametrize(
    ("box", "size", "message"),
    [
        (("A", 2, 3, 13, 9), (12, 10), "does not lie within the slice"),
        (("A", 2, 3, 2, 9), (12, 10), "does not lie within the slice"),
        (("A", 2, 3, 5, 9), (512, 512), r"drawn on \(512, 512\) pixels, the slice has \(12, 10\)"),
        (("", 2, 3, 5, 9), (12, 10), "not a file of boxes in the form of Pascal VOC"),
    ],
)
def test_boxes_that_do_not_fit_their_slice(
    tmp_path: Path, run: Import, box: Any, size: tuple[int, int], message: str
) -> None:
    images = write_series(tmp_path / "in", GRID)
    path = tmp_path / "boxes" / f"{images[1].SOPInstanceUID}.xml"
    box_file(path, [box], size)
    box_file(tmp_path / "boxes" / f"{images[2].SOPInstanceUID}.xml", [("A", 0, 0, 1, 1)])
    with pytest.raises(CaseError, match=rf"{path.name}.*{message}"):
        run("--boxes", str(tmp_path / "boxes"))


def test_a_key_is_random_and_never_replaced(tmp_path: Path) -> None:
    first = kept_key(tmp_path / "a.key")
    assert kept_key(tmp_path / "a.key") == first
    assert kept_key(tmp_path / "b.key") != first
    names, other = Names(first), Names(kept_key(tmp_path / "b.key"))
    assert len({names.patient("1"), names.patient("2"), other.patient("1")}) == 3
    assert len({names.case("1", "a"), names.case("1", "b"), names.case("2", "a")}) == 3
