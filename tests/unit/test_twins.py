"""The same recording as two cases: found by content, under any name and in any format."""

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from dicom_files import Grid, write_series
from foldwise import twins
from foldwise.check import Checked
from foldwise.files import CaseError, read_json
from foldwise.hdf5 import identity_of
from foldwise.index import Entry
from foldwise.settings import validate
from foldwise.store import Memory
from foldwise.systems.segmentation.settings import Settings
from foldwise.systems.segmentation.system import Segmentation
from foldwise.twins import refuse_twins
from foldwise.video.decode import Frame
from foldwise.video.store import write_frames
from foldwise.volumes.crop import crop_case
from foldwise.volumes.settings import Crop
from foldwise.volumes.sheet import read_sheet
from foldwise.volumes.volume import Volume, write_volume
from synthetic import scan

GRID = Grid((6, 5, 4))


def check(folder: Path, twin: str, memory: Path | None = None) -> Checked:
    """Check three scans and a fourth row."""
    rows = [f"c{n},g{n},{n}.nii.gz,{n}_l.nii.gz," for n in range(3)]
    for number in range(3):
        image, label = scan(number)
        for data, name in ((image, f"{number}.nii.gz"), (label, f"{number}_l.nii.gz")):
            if not (folder / name).exists():
                write_volume(Volume(data, np.eye(4)), folder / name)
    (folder / "cases.csv").write_text("\n".join(["case,group,image,label,split", *rows, twin]))
    values = {"experiment": "x", "data": {"sheet": str(folder / "cases.csv")}, "split": {"folds": 3}}
    settings, known = validate(Settings, values), Memory(memory)
    checked = Segmentation().check(settings, read_sheet(settings.data), deep=False, memory=known)
    known.save()
    return checked


@pytest.mark.parametrize("link", [shutil.copy, os.link, os.symlink], ids=["copy", "hard link", "link"])
def test_a_scan_under_two_patients(tmp_path: Path, link: Callable[[Path, Path], object]) -> None:
    check(tmp_path, "")
    link(tmp_path / "1.nii.gz", tmp_path / "twin.nii.gz")
    (problem,) = check(tmp_path, "t,g9,twin.nii.gz,2_l.nii.gz,").problems
    assert problem.startswith("line 5: case t: ")
    assert "has the same content as" in problem
    assert "1.nii.gz of case c1, of another patient (g1, here g9)" in problem


@pytest.mark.parametrize(
    "row",
    ["t,g1,1.nii.gz,1_l.nii.gz,", "t,g9,1.nii.gz,,"],
    ids=["one patient", "without a label"],
)
def test_a_copy_that_does_not_leak_is_a_warning(tmp_path: Path, row: str) -> None:
    checked = check(tmp_path, row)
    assert checked.problems == ()
    assert any("has the same content as" in text for text in checked.warnings)


def test_scans_of_equal_size_are_told_apart(tmp_path: Path) -> None:
    """Also if they differ in a single voxel, far from the sample."""
    data = np.random.default_rng(0).integers(0, 1000, (40, 40, 40)).astype(np.int16)
    other = data.copy()
    other[0, 0, 0] += 1
    for name, voxels in (("0.nii", data), ("3.nii", other)):
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / name)
    nib.save(nib.Nifti1Image(np.zeros(data.shape, np.uint8), np.eye(4)), tmp_path / "l.nii")
    checked = check(tmp_path, "t,g9,3.nii,l.nii,\nu,g8,0.nii,l.nii,")
    assert checked.problems == ()


def test_a_series_with_renamed_slices(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 1000, GRID.shape).astype(np.int16)
    write_series(tmp_path / "first", GRID, stored=values)
    (tmp_path / "second").mkdir()
    for number, file in enumerate(sorted((tmp_path / "first").iterdir(), reverse=True)):
        shutil.copy(file, tmp_path / "second" / f"IM{number}.dcm")
    rows = "s,gs,first,,\nt,gt,second,,"
    (warning,) = (text for text in check(tmp_path, rows).warnings if "same content" in text)
    assert warning.startswith("line 6: case t: ")


def test_the_second_call_opens_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 1000, GRID.shape).astype(np.int16)
    write_series(tmp_path / "series", GRID, stored=values)
    check(tmp_path, "")
    shutil.copy(tmp_path / "1.nii.gz", tmp_path / "twin.nii.gz")
    rows = "t,g1,twin.nii.gz,1_l.nii.gz,\ns,gs,series,,"
    first = check(tmp_path, rows, tmp_path / "known.json")

    def refuse(*arguments: object, **more: object) -> None:
        raise AssertionError("opened again")

    for module, name in ((nib, "load"), (pydicom, "dcmread"), (twins, "file_hash"), (twins, "_sample")):
        monkeypatch.setattr(module, name, refuse)
    assert check(tmp_path, rows, tmp_path / "known.json") == first
    monkeypatch.undo()
    next(iter((tmp_path / "series").iterdir())).unlink()
    changed = check(tmp_path, rows, tmp_path / "known.json")
    assert changed.problems or changed.sizes["s"] != first.sizes["s"]


class TestRecordings:
    def recording(self, folder: Path, path: Path) -> str:
        out = folder / f"{path.name}-crop"
        out.mkdir()
        crop_case([path], None, None, None, Crop(to="none"), {"tumour": 1}, out)
        return str(read_json(out / "crop.json")["recording"])

    def test_format_type_and_axes_do_not_matter(self, tmp_path: Path) -> None:
        data = scan(0)[0]
        affine = np.diag([1.0, 2, 3, 1])
        flipped = affine @ np.array(
            [[-1, 0, 0, data.shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]
        )
        image = nib.Nifti1Image(data, affine)
        nib.save(image, tmp_path / "plain.nii")
        (tmp_path / "best.nii.gz").write_bytes(gzip.compress((tmp_path / "plain.nii").read_bytes(), 9))
        nib.save(nib.Nifti1Image(data.astype(np.float32), affine), tmp_path / "float.nii")
        nib.save(nib.Nifti1Image(data[::-1], flipped), tmp_path / "flipped.nii")
        same = {self.recording(tmp_path, path) for path in sorted(tmp_path.glob("*.nii*"))}
        assert len(same) == 1
        data[3, 4, 5] += 1
        nib.save(nib.Nifti1Image(data, affine), tmp_path / "other.nii")
        assert self.recording(tmp_path, tmp_path / "other.nii") not in same

    def test_of_a_video_are_its_frames(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        frames = [Frame(n, n / 25, rng.integers(0, 255, (16, 16, 3), np.uint8)) for n in range(3)]
        for name, label in (("a", 0), ("b", 1)):
            write_frames(tmp_path / f"{name}.h5", name, frames, arrays={"label": np.array(label)})
        write_frames(tmp_path / "c.h5", "c", frames[:2], arrays={"label": np.array(0)})
        first, second, third = (identity_of(tmp_path / f"{name}.h5") for name in "abc")
        assert first.recording == second.recording != third.recording
        assert first.content != second.content

    def test_of_two_patients_are_refused(self, caplog: pytest.LogCaptureFixture) -> None:
        entries = [Entry(f"c{n}", group, {}, "", {}, 1.0) for n, group in enumerate("aab")]
        refuse_twins(entries, {"c0": "x", "c1": "x", "c2": "y"})
        assert "cases c0 and c1 are the same recording" in caplog.text
        refuse_twins(entries, {"c0": "", "c1": "", "c2": ""})
        with pytest.raises(CaseError, match=r"cases c0 and c2 are .* of the patients a and b"):
            refuse_twins(entries, {"c0": "x", "c1": "y", "c2": "x"})
