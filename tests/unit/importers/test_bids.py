"""Imports of BIDS folders: channels, cases, labels and their lookup tables."""

from __future__ import annotations

import csv
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml

from foldwise.files import CaseError
from foldwise.importers import bids

Run = Callable[..., tuple[list[dict[str, str]], dict[str, Any]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Import `ds` to out/sheet.csv; returns its rows and the section `data`."""

    def call(*options: str) -> tuple[list[dict[str, str]], dict[str, Any]]:
        sheet = tmp_path / "out" / "sheet.csv"
        monkeypatch.setattr(
            sys, "argv", ["bids", str(tmp_path / "ds"), "--sheet", str(sheet), "--force", *options]
        )
        bids.main()
        with sheet.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return rows, yaml.safe_load(sheet.with_suffix(".yaml").read_text())["data"]

    return call


NUMBERS = map(str, itertools.count())


def volume(path: Path, values: tuple[int, ...] = (0,)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.zeros((5, 4, 3), np.uint8)
    data.reshape(-1)[: len(values)] = values
    image = nib.Nifti1Image(data, np.eye(4))
    image.header["descrip"] = next(NUMBERS)  # no two scans are the same file
    nib.save(image, path)


def subject(ds: Path, name: str, sessions: tuple[str, ...] = ("",)) -> None:
    for session in sessions:
        place, stem = ds / f"sub-{name}", f"sub-{name}"
        if session:
            place, stem = place / f"ses-{session}", f"{stem}_ses-{session}"
        volume(place / "anat" / f"{stem}_T1w.nii.gz")
        volume(place / "anat" / f"{stem}_acq-3d_FLAIR.nii.gz")


def test_a_dseg_with_its_lookup_table(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    ds = tmp_path / "ds"
    for name in ("01", "02", "03"):
        subject(ds, name, ("a", "b") if name == "01" else ("",))
    made = ds / "derivatives" / "seg"
    volume(made / "sub-01/ses-a/anat/sub-01_ses-a_space-orig_dseg.nii.gz", (3, 7))
    volume(made / "sub-02/anat/sub-02_desc-lesion_dseg.nii.gz", (3,))
    volume(made / "sub-02/anat/sub-02_desc-preproc_T1w.nii.gz")
    (made / "dseg.tsv").write_text(
        "index\tname\tcolor\n0\tBackground\t#0\n3\tWhite matter\t#1\n7\tLesion\t#2\n"
    )
    (ds / "participants.tsv").write_text("participant_id\tage\nsub-01\t30\nsub-02\t40\nsub-09\t50\n")
    with pytest.raises(CaseError, match=r"give --images, .*found 4 × FLAIR, 4 × T1w"):
        run()
    rows, data = run("--images", "T1w,acq-3d_FLAIR")
    assert [(row["case"], row["group"], Path(row["label"]).name) for row in rows] == [
        ("sub-01_ses-a", "sub-01", "sub-01_ses-a_space-orig_dseg.nii.gz"),
        ("sub-01_ses-b", "sub-01", ""),
        ("sub-02", "sub-02", "sub-02_desc-lesion_dseg.nii.gz"),
        ("sub-03", "sub-03", ""),
    ]
    assert rows[0]["image_T1w"].endswith("sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz")
    assert rows[2]["image_FLAIR"].endswith("sub-02/anat/sub-02_acq-3d_FLAIR.nii.gz")
    assert data["labels"] == {"White_matter": 3, "Lesion": 7}
    printed = capsys.readouterr().out
    for line in (
        "sub-09 has no such images",
        "sub-03 is not listed",
        "desc-preproc_T1w.nii.gz: neither of dseg",
    ):
        assert line in printed
    rows, _ = run("--images", "FLAIR")
    assert rows[0]["case"] == "sub-01_ses-a_acq-3d"
    assert "left out, not in --images: 4 × T1w" in capsys.readouterr().out


def test_masks_are_chosen_by_their_entities(tmp_path: Path, run: Run) -> None:
    ds = tmp_path / "ds"
    for name in ("01", "02", "03"):
        subject(ds, name)
        for what in ("brain", "lesion"):
            volume(ds / f"derivatives/m/sub-{name}/anat/sub-{name}_label-{what}_mask.nii.gz", (1,))
    with pytest.raises(
        CaseError, match=r"two labels, .*choose with --labels, e\.g\. label-lesion_mask or label-brain_mask"
    ):
        run("--images", "T1w")
    rows, data = run("--images", "T1w", "--labels", "label-lesion_mask")
    assert all("label-lesion" in row["label"] for row in rows)
    assert data["labels"] == {"lesion": 1}


def test_a_derived_data_set_in_one_tree(tmp_path: Path, run: Run) -> None:
    """Images and masks in a space, as in ATLAS; without a table, the values are the classes."""
    for name in ("r001s001", "r001s002"):
        place = tmp_path / f"ds/sub-{name}/ses-1/anat"
        for space in ("MNI", "orig"):
            volume(place / f"sub-{name}_ses-1_space-{space}_desc-T1_T1w.nii.gz")
            volume(place / f"sub-{name}_ses-1_space-{space}_desc-T1lesion_dseg.nii.gz", (2, 5))
    rows, data = run()
    assert [row["case"] for row in rows][:2] == [
        f"sub-r001s001_ses-1_space-{space}_desc-T1" for space in ("MNI", "orig")
    ]
    for row in rows:
        assert ("space-MNI" in row["image"]) is ("space-MNI" in row["label"])
    assert data["labels"] == {"label_2": 2, "label_5": 5}


def test_what_fails_is_named_and_leaves_the_others(tmp_path: Path, run: Run) -> None:
    ds = tmp_path / "ds"
    for name in ("01", "02", "03"):
        subject(ds, name)
    (ds / "sub-02/anat/sub-02_acq-3d_FLAIR.nii.gz").unlink()
    volume(ds / "sub-03/anat/sub-03_acq-3d_FLAIR.nii")
    with pytest.raises(CaseError) as caught:
        run("--images", "T1w,acq-3d_FLAIR")
    assert "case sub-02: FLAIR missing; left out: " in str(caught.value)
    assert "case sub-03: two images for FLAIR" in str(caught.value)
    with (tmp_path / "out/sheet.csv").open(newline="") as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["sub-01"]


def test_tables_that_contradict_each_other(tmp_path: Path, run: Run) -> None:
    ds = tmp_path / "ds"
    for name, what in (("01", "liver"), ("02", "spleen")):
        subject(ds, name)
        place = ds / f"derivatives/seg/sub-{name}/anat/sub-{name}_dseg.nii.gz"
        volume(place, (1,))
        place.with_name(f"sub-{name}_dseg.tsv").write_text(f"index\tname\n1\t{what}\n")
    with pytest.raises(CaseError, match="the value 1 is spleen, but liver in other labels"):
        run("--images", "T1w")
    (ds / "derivatives/seg/sub-02/anat/sub-02_dseg.tsv").write_text("value\tname\n1\tliver\n")
    with pytest.raises(
        CaseError, match=r"sub-02_dseg\.tsv: line 1: no column `index`; found 'value', 'name'"
    ):
        run("--images", "T1w")
