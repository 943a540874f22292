"""The command for files: rounds in several calls, outputs in the scan's geometry, and clear refusals."""

from __future__ import annotations

import json
import os
import shlex
import sys
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
import typer

from dicom_files import Grid, write_series
from foldwise import annotate
from foldwise.commands import app
from foldwise.files import CaseError
from foldwise.systems.interactive.engines import trained as opening
from foldwise.systems.interactive.model import read_trained
from foldwise.volumes.objects_in import read_objects
from foldwise.volumes.volume import Volume, read_header, write_volume
from interactive_scans import Bright, Says, trained, write_ball, write_model

# Stored back to front along y, 2 mm slices along z.
AFFINE = np.array([[1.0, 0, 0, -10], [0, -1, 0, 30], [0, 0, 2, 5], [0, 0, 0, 1]])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_ball(tmp_path / "scan.nii.gz", AFFINE)
    monkeypatch.setattr(annotate, "read_trained", lambda _: trained(Bright().eval()))
    return tmp_path


def call(
    folder: Path, capsys: pytest.CaptureFixture[str], *more: str, scan: str = "scan.nii.gz"
) -> dict[str, object]:
    arguments = [str(folder / scan), "--model", "m.pt", "--session", str(folder / "session")]
    capsys.readouterr()
    app(["annotate", *arguments, *more], standalone_mode=False)
    summary: dict[str, object] = json.loads(capsys.readouterr().out)
    return summary


def test_rounds_go_on_from_call_to_call(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "points.csv").write_text("x,y,z,kind\n15,14,8,inside\n", encoding="utf-8")
    summary = call(folder, capsys, "--points", str(folder / "points.csv"))
    assert (summary["steps"], summary["axis"]) == (1, "z")
    mask, scan = nib.load(str(summary["mask"])), nib.load(folder / "scan.nii.gz")
    assert np.array_equal(mask.affine, scan.affine)
    bright = np.asarray(scan.dataobj) > 0
    assert np.array_equal(np.asarray(mask.dataobj) == 1, bright)
    quality = pd.read_csv(str(summary["quality"]))
    assert quality[quality["suggested"]]["slice"].tolist() == [summary["next_slice"]]
    assert quality[quality["hinted"]]["slice"].tolist() == [8]
    assert quality["voxels"].tolist() == bright.sum((0, 1)).tolist()

    summary = call(folder, capsys, "--nothing", "12")
    assert summary["steps"] == 2
    filled = np.asarray(nib.load(str(summary["mask"])).dataobj).any((0, 1))
    assert filled.tolist() == [2 <= n <= 8 for n in range(16)]
    summary = call(folder, capsys, "--undo")
    assert summary["steps"] == 1
    assert np.array_equal(np.asarray(nib.load(str(summary["mask"])).dataobj) == 1, bright)


@pytest.mark.parametrize("what", ["scribble", "box"])
def test_scribbles_and_boxes(folder: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    scribble = np.zeros((32, 32, 16), np.uint8)
    scribble[13:18, 14, 8] = 1
    write_volume(Volume(scribble, AFFINE), folder / "scribble.nii.gz")
    given = {"scribble": [str(folder / "scribble.nii.gz")], "box": ["9", "8", "8", "21", "20", "8"]}[what]
    summary = call(folder, capsys, f"--{what}", *given, "--mask", str(folder / "out.nii.gz"))
    bright = np.asarray(nib.load(folder / "scan.nii.gz").dataobj) > 0
    mask = np.asarray(nib.load(folder / "out.nii.gz").dataobj) == 1
    others = [n for n in range(16) if n != 8]
    assert np.array_equal(mask[..., others], bright[..., others])
    # A box is seen through a window of another scale, so the border of its slice may move slightly.
    assert (mask[..., 8] != bright[..., 8]).sum() <= 0.1 * bright[..., 8].sum()
    assert summary["steps"] == 1


def test_wrong_input_loses_no_round(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(folder, capsys, "--box", *["9", "8", "8", "21", "20", "8"])
    (folder / "far.csv").write_text("x,y,z,kind\n15,14,40,inside\n", encoding="utf-8")
    with pytest.raises(CaseError, match="outside the scan, which has 32 × 32 × 16 voxels"):
        call(folder, capsys, "--points", str(folder / "far.csv"))
    write_volume(Volume(np.ones((4, 4, 4), np.uint8), AFFINE), folder / "other.nii.gz")
    with pytest.raises(CaseError, match="grid"):
        call(folder, capsys, "--scribble", str(folder / "other.nii.gz"))
    write_ball(folder / "another.nii.gz", np.eye(4))
    with pytest.raises(CaseError, match="another scan"):
        call(folder, capsys, "--nothing", "3", scan="another.nii.gz")
    assert call(folder, capsys, "--nothing", "12")["steps"] == 2


@pytest.mark.parametrize("kind", ["file", "DICOM folder"])
def test_a_session_is_of_this_very_scan(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The scan is replaced in place, with its size and its time; with DICOM, in one of its files."""
    if kind == "file":
        scan = folder / "ball.nii"
        write_ball(scan, AFFINE)
    else:
        scan = folder / "series"
        write_series(scan, Grid())
    call(folder, capsys, "--nothing", "3", scan=scan.name)
    before = {path: path.read_bytes() for path in (folder / "session").iterdir()}
    one = scan if scan.is_file() else sorted(scan.iterdir())[2]
    content, written = one.read_bytes(), one.stat()
    other = content[:-1] + bytes([content[-1] ^ 1])
    one.write_bytes(other)
    os.utime(one, ns=(written.st_atime_ns, written.st_mtime_ns))
    with pytest.raises(CaseError, match="started with another scan"):
        call(folder, capsys, "--nothing", "4", scan=scan.name)
    assert {path: path.read_bytes() for path in (folder / "session").iterdir()} == before
    one.write_bytes(content)
    assert call(folder, capsys, "--nothing", "4", scan=scan.name)["steps"] == 2
    # Replaced between its hash and its preparation.
    prepare = opening.prepare_scan

    def late(*given: Any) -> Path:
        one.write_bytes(other)
        return prepare(*given)

    monkeypatch.setattr(opening, "prepare_scan", late)
    with pytest.raises(CaseError, match="changed while it was read"):
        call(folder, capsys, "--nothing", "3", "--session", str(folder / "other"), scan=scan.name)
    assert sorted(path.name for path in (folder / "other").iterdir()) == ["lock", "session.json"]


def test_a_missed_object_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mask is written and reported as empty; the next slice is adjacent to the hints."""
    missing = Says(hinted=-20, propagated=-20).eval()
    monkeypatch.setattr(annotate, "read_trained", lambda _: trained(missing))
    summary = call(folder, capsys, "--box", *["9", "8", "8", "21", "20", "8"])
    assert summary["next_slice"] in (7, 9)
    assert summary["reason"] == "the object was not found on any slice"
    assert "ball: not found on any slice" in str(summary["message"])
    assert not np.asarray(nib.load(str(summary["mask"])).dataobj).any()
    quality = pd.read_csv(str(summary["quality"])).set_index("slice")["quality"]
    assert quality.dropna().to_dict() == {8: 0}


def test_nothing_changes_unless_all_hints_are_usable(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No hints are used, not even on a usable slice, and no round is undone."""
    summary = call(folder, capsys, "--nothing", "12")
    assert summary["message"] == ("ball: not found on any slice; mark it where it is clear.")
    # Nothing is known of slices without marks.
    quality = pd.read_csv(str(summary["quality"])).set_index("slice")["quality"]
    assert quality.dropna().to_dict() == {12: 1}
    before = sorted((folder / "session").glob("step_*"))
    (folder / "points.csv").write_text("x,y,z,kind\n15,14,8,inside\n15,14,40,inside\n", encoding="utf-8")
    with pytest.raises(CaseError, match="outside the scan, which has 32 × 32 × 16 voxels"):
        call(folder, capsys, "--undo", "--points", str(folder / "points.csv"))
    assert sorted((folder / "session").glob("step_*")) == before


def test_files_of_another_hand_are_not_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mask edited elsewhere, a table, the scan itself; refused before any change."""
    box = ["--box", *["9", "8", "8", "21", "20", "8"]]
    mask = Path(str(call(folder, capsys, *box)["mask"]))
    call(folder, capsys, "--nothing", "12")  # its own files are replaced
    write_volume(Volume(np.full((32, 32, 16), 3, np.uint8), AFFINE), mask)
    (folder / "mine.csv").write_text("a,b\n", encoding="utf-8")
    files = {path: path.read_bytes() for path in (mask, folder / "mine.csv", folder / "scan.nii.gz")}
    moved = ["--mask", str(folder / "moved.nii.gz")]
    for given in (
        [],
        ["--mask", str(folder / "scan.nii.gz")],
        [*moved, "--quality", str(folder / "mine.csv")],
    ):
        with pytest.raises(
            CaseError, match=r"not written by this session, or was changed since|the scan and --mask are both"
        ):
            call(folder, capsys, *given, "--nothing", "3")
    assert {path: path.read_bytes() for path in files} == files
    assert call(folder, capsys, *moved, "--nothing", "3")["steps"] == 3


def test_a_user_s_folder_is_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The session's folder may contain other things, e.g. one called `prepared`."""
    kept = folder / "session" / "prepared" / "notes.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine", encoding="utf-8")
    call(folder, capsys, "--nothing", "12")
    assert kept.read_text(encoding="utf-8") == "mine"


def test_a_volume_of_one_slice(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_volume(Volume(np.arange(64, dtype=np.int16).reshape(8, 8, 1), AFFINE), folder / "flat.nii.gz")
    with pytest.raises(CaseError, match="one slice"):
        call(folder, capsys, "--nothing", "0", scan="flat.nii.gz")


def test_a_real_model_s_file(tmp_path: Path) -> None:
    network = write_model(tmp_path / "model.pt")
    found = read_trained(tmp_path / "model.pt")
    for name, weight in network.state_dict().items():
        assert np.array_equal(found.network.state_dict()[name].cpu().numpy(), weight.numpy())


def test_weights_of_another_trunk(tmp_path: Path) -> None:
    write_model(tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    state["settings"]["trunk"]["name"] = "resnet34"
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(CaseError, match="do not fit its trunk resnet34"):
        read_trained(tmp_path / "model.pt")
    state["system"] = "segmentation"
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(CaseError, match="expected one of the interactive system"):
        read_trained(tmp_path / "model.pt")


def test_a_session_replaces_nothing_that_is_not_its_own(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session, scan = folder / "session", (folder / "scan.nii.gz").read_bytes()
    for name in ("step_0001.npz", "undone_0002.npz"):
        session.mkdir(exist_ok=True)
        (session / name).write_text("mine")
        with pytest.raises(CaseError, match=f"{name}: not part of a session"):
            call(folder, capsys, "--nothing", "0")
        assert {path.name: path.read_text() for path in session.iterdir()} == {"lock": "", name: "mine"}
        (session / name).unlink()
    (session / "prepared").mkdir()
    (session / "prepared" / "notes.txt").touch()
    call(folder, capsys, "--nothing", "0")
    assert (session / "prepared" / "notes.txt").exists()
    with pytest.raises(CaseError, match=r"the scan and --mask are both .*scan\.nii\.gz"):
        call(folder, capsys, "--nothing", "0", "--mask", str(folder / "scan.nii.gz"))
    assert (folder / "scan.nii.gz").read_bytes() == scan


def test_an_answer_that_is_not_finite(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Bright().eval()
    monkeypatch.setattr(annotate, "read_trained", lambda _: trained(network))
    segment = network.segment
    monkeypatch.setattr(network, "segment", lambda *given: segment(*given) * float("nan"))
    (folder / "points.csv").write_text("x,y,z,kind\n15,14,8,inside\n", encoding="utf-8")
    with pytest.raises(CaseError, match="the networks return NaN or infinite values"):
        call(folder, capsys, "--points", str(folder / "points.csv"))
    assert not list((folder / "session").glob("step_*"))


def test_words_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(annotate, "annotate", lambda **values: given.update(values))
    words = "a.nii b.nii --model m.pt --session s --box -1 2 3 4.5 6 7 --object cyst --undo --port 8080"
    app(["annotate", *words.split()], standalone_mode=False)
    assert given["volumes"] == [Path("a.nii"), Path("b.nii")]
    assert given["box"] == (-1, 2, 3, 4.5, 6, 7)
    assert (given["object_"], given["undo"], given["port"], given["serve"]) == ("cyst", True, 8080, False)


def test_an_output_is_no_input(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = str(folder / "scan.nii.gz")
    words = [scan, "--model", "m.pt", "--session", str(folder / "session"), "--nothing", "3"]
    with pytest.raises(CaseError, match=r"the scan and --mask are both|--mask and the scan are both"):
        app(["annotate", *words, "--mask", scan], standalone_mode=False)
    assert not (folder / "session").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--serve --nothing 0", "--nothing: is not for --serve"),
        ("--serve --undo", "--undo: is not for --serve"),
        ("--nothing 3 --object ball", "--object: is for --box alone"),
    ],
)
def test_no_option_is_passed_over(
    folder: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    with pytest.raises(CaseError, match=message):
        call(folder, capsys, *words.split())
    assert not (folder / "session").exists()


def test_impossible_port(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.BadParameter, match="65535"):
        call(folder, capsys, "--serve", "--port", "99999")


def test_a_packed_model_of_another_system(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is named as the user names it, not by the place where it is unpacked."""
    empty: dict[str, Any] = {"task": {}, "prepared": {}, "settings": {}, "chosen": {}, "beside": {}}
    texts = {"foldwise": "1", "name": "cl", "experiment": "x", "system": "surgical", "package": "foldwise"}
    facts = {"format": 1, **texts, **empty, "folds": {"fold0.pt": {}}, "hashes": {"fold0.pt": "0"}}
    with zipfile.ZipFile(folder / "cl.foldwise", "w") as archive:
        archive.writestr("model.json", json.dumps(facts))
    with pytest.raises(
        CaseError, match=r"^\S+/cl\.foldwise: a model of the system surgical; expected one of"
    ):
        call(folder, capsys, "--nothing", "3", "--model", str(folder / "cl.foldwise"))


def test_a_label_map_as_the_start(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its objects join those of the session; a value of 257 is kept; marks come after it."""
    labels = np.zeros((32, 32, 16), np.int16)
    labels[3:9, 3:9, 3:9], labels[20:22, 20:22, 2] = 257, 3
    write_volume(Volume(labels, AFFINE), folder / "start.nii.gz")
    (folder / "start.tsv").write_text("index\tname\n257\tcyst\n3\tBALL\n", encoding="utf-8")
    (folder / "points.csv").write_text("x,y,z,kind,object\n4,4,4,outside,cyst\n", encoding="utf-8")
    given = ["--start", str(folder / "start.nii.gz"), "--engine", "classical"]
    summary = call(folder, capsys, *given, "--points", str(folder / "points.csv"))
    found = np.asarray(nib.load(str(summary["mask"])).dataobj)
    # A click in its middle takes away most of it; at the corners it keeps its value.
    assert found[4, 4, 4] == 0
    assert found[3, 3, 3] in (0, 257)
    assert (found == 257).any()
    # The session's ball, of value 1.
    assert np.array_equal(found == 1, labels == 3)
    with pytest.raises(CaseError, match="has steps, which it would replace"):
        call(folder, capsys, *given, "--nothing", "3")


def test_an_object_is_removed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Marks of the same call are of the objects that are left; the others keep their values."""
    call(folder, capsys, "--objects", "a,b,c", "--nothing", "3", "--engine", "classical")
    (folder / "points.csv").write_text("x,y,z,kind,object\n4,4,4,inside,c\n", encoding="utf-8")
    given = ["--objects", "a,c", "--engine", "classical", "--points", str(folder / "points.csv")]
    with pytest.raises(CaseError, match="--remove d: there is no such object; use one of a, b, c"):
        call(folder, capsys, "--remove", "d", *given)
    summary = call(folder, capsys, "--remove", "b", *given)
    assert summary["steps"] == 3
    found = np.asarray(nib.load(str(summary["mask"])).dataobj)
    assert found[4, 4, 4] == 3
    assert set(pd.read_csv(str(summary["quality"]))["object"]) == {"a", "c"}
    (folder / "points.csv").write_text("x,y,z,kind,object\n4,4,4,inside,b\n", encoding="utf-8")
    with pytest.raises(CaseError, match="object 'b'; use one of a, c"):
        call(folder, capsys, *given)


def test_a_start_on_another_grid(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coarse = np.zeros((16, 16, 8), np.uint8)
    coarse[4:8, 4:8, 2:4] = 1
    write_volume(Volume(coarse, AFFINE @ np.diag([2.0, 2, 2, 1])), folder / "start.nii.gz")
    given = ["--start", str(folder / "start.nii.gz"), "--mask", str(folder / "out.nii.gz")]
    with pytest.raises(CaseError, match="grid"):
        call(folder, capsys, *given)
    call(folder, capsys, *given, "--resample", "--session", str(folder / "other"))
    found = np.asarray(nib.load(folder / "out.nii.gz").dataobj) > 0
    assert found.sum() == pytest.approx(8 * coarse.sum(), rel=0.3)


def test_objects_as_dicom(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only of a DICOM scan; read again, they are the same voxels."""
    write_series(folder / "series", Grid())
    shape = tuple(read_header(folder / "series").shape)
    (folder / "points.csv").write_text("x,y,z,kind\n2,2,1,inside\n3,2,1,inside\n", encoding="utf-8")
    words = ["--points", str(folder / "points.csv"), "--engine", "classical", "--axis", "z"]
    for form, name in (("rtstruct", "rtstruct.dcm"), ("dicom-seg", "seg.dcm")):
        session = folder / form
        more = ["--format", form, "--session", str(session)]
        summary = call(folder, capsys, *words, *more, scan="series")
        assert Path(str(summary["mask"])) == session / name
        found = read_objects(session / name, folder / "series", read_header(folder / "series"))
        assert found.labels.shape == shape
        assert {found.labels[2, 2, 1], found.labels[3, 2, 1]} == {1}
        assert found.listed[0].name == "ball"
    with pytest.raises(CaseError, match=r"give --format dicom-seg or rtstruct, too"):
        call(folder, capsys, *words, "--mask", str(folder / "a.dcm"), scan="series")
    with pytest.raises(CaseError, match="DICOM"):
        call(folder, capsys, "--nothing", "3", "--format", "dicom-seg", "--engine", "classical")


def test_a_program_s_proposal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A command of the person's own: its label map is the first round, and marks correct it."""
    program = folder / "bright.py"
    program.write_text(
        "import sys, nibabel, numpy\nscan = nibabel.load(sys.argv[1])\n"
        "mask = (numpy.asarray(scan.dataobj) > 100).astype(numpy.uint8) * 4\n"
        "nibabel.save(nibabel.Nifti1Image(mask, scan.affine), sys.argv[2])\n",
        encoding="utf-8",
    )
    command = f"{shlex.quote(sys.executable)} {shlex.quote(str(program))} {{scan}} {{mask}}"
    summary = call(folder, capsys, "--automatic", command, "--propose")
    bright = np.asarray(nib.load(folder / "scan.nii.gz").dataobj) > 0
    found = np.asarray(nib.load(str(summary["mask"])).dataobj)
    (value,) = set(np.unique(found).tolist()) - {0}
    assert value != 1
    assert np.array_equal(found == value, bright)
