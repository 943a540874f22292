"""Imports of Decathlon, nnU-Net and BraTS folders: rows, classes and refusals."""

from __future__ import annotations

import csv
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from foldwise.commands import app
from foldwise.commands.importing import FORMATS
from foldwise.files import CaseError
from foldwise.importers import brats, decathlon
from foldwise.importers.brats import meaning, patient
from foldwise.importers.sheets import clean, column_names, group_of

AFFINE = np.diag([1.0, 1, 2, 1])

NUMBERS = map(str, itertools.count())


def volume(path: Path, values: int | list[int] = 0, channels: int = 0, shift: float = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.zeros((6, 5, 4, channels) if channels else (6, 5, 4), np.uint8)
    listed = [values] if isinstance(values, int) else values
    data.reshape(-1)[: len(listed)] = listed
    affine = AFFINE.copy()
    affine[0, 3] = shift
    image = nib.Nifti1Image(data, affine)
    image.header["descrip"] = next(NUMBERS)  # no two scans are the same file
    nib.save(image, path)


def describe(folder: Path, about: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(about))


def run(
    monkeypatch: pytest.MonkeyPatch, module: Any, folder: Path, *options: str
) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Run an importer; returns its sheet and experiment."""
    sheet = folder.parent / "out" / "sheet.csv"
    monkeypatch.setattr(sys, "argv", ["importer", str(folder), "--sheet", str(sheet), *options])
    module.main()
    with sheet.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return rows, yaml.safe_load(sheet.with_suffix(".yaml").read_text())


def cases_in(sheet: Path) -> list[str]:
    with sheet.open(newline="") as file:
        return [row["case"] for row in csv.DictReader(file)]


def decathlon_task(folder: Path, modality: dict[str, str], channels: int = 0, cases: int = 5) -> None:
    training = []
    for i in range(cases):
        volume(folder / f"imagesTr/brain_{i}.nii.gz", channels=channels)
        volume(folder / f"labelsTr/brain_{i}.nii.gz", [1, 2])
        training.append({"image": f"./imagesTr/brain_{i}.nii.gz", "label": f"./labelsTr/brain_{i}.nii.gz"})
    volume(folder / "imagesTs/brain_9.nii.gz", channels=channels)
    # Archives from a Mac contain this for every file.
    (folder / "imagesTr/._brain_0.nii.gz").write_bytes(b"\0\5\x16\7")
    training.append({"image": "./imagesTr/._brain_0.nii.gz", "label": "./labelsTr/._brain_0.nii.gz"})
    labels = {"0": "background", "1": "edema", "2": "non-enhancing tumor"}
    test = ["./imagesTs/brain_9.nii.gz"]
    describe(folder, {"modality": modality, "labels": labels, "training": training, "test": test})


def test_a_decathlon_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decathlon_task(tmp_path / "Task01", {"0": "CT"})
    rows, experiment = run(monkeypatch, decathlon, tmp_path / "Task01")
    assert [row["case"] for row in rows] == [*(f"brain_{i}" for i in range(5)), "brain_9"]
    assert rows[0] == {
        "case": "brain_0",
        "group": "brain_0",
        "image": "../Task01/imagesTr/brain_0.nii.gz",
        "label": "../Task01/labelsTr/brain_0.nii.gz",
        "split": "",
    }
    assert (rows[-1]["label"], rows[-1]["split"]) == ("", "")
    assert experiment["data"]["labels"] == {"edema": 1, "non-enhancing_tumor": 2}
    # A CT keeps the default window, everything else is normalised case by case.
    assert "models" not in experiment


def test_four_channels_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decathlon_task(tmp_path / "Task01", {"0": "FLAIR", "1": "T1w"}, channels=2)
    rows, experiment = run(monkeypatch, decathlon, tmp_path / "Task01")
    assert rows[0]["image"].endswith("brain_0.nii.gz")
    assert experiment["plan"] == {"memory": "medium", "ct": False}


def test_a_missing_channel_or_shifted_label_of_a_4d_image_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decathlon_task(tmp_path / "Task01", {"0": "FLAIR", "1": "T1w", "2": "T2w"}, channels=3)
    volume(tmp_path / "Task01/imagesTr/brain_1.nii.gz", channels=2)
    volume(tmp_path / "Task01/labelsTr/brain_3.nii.gz", 1, shift=1)
    with pytest.raises(CaseError) as caught:
        run(monkeypatch, decathlon, tmp_path / "Task01")
    assert "without 2 case(s)" in str(caught.value)
    assert "case brain_1" in str(caught.value)
    assert "2 channel(s), but the other cases have 3" in str(caught.value)
    assert "labelsTr/brain_3.nii.gz: its affine differs from the image's" in str(caught.value)
    assert cases_in(tmp_path / "out/sheet.csv") == ["brain_0", "brain_2", "brain_4", "brain_9"]


def nnunet(folder: Path, about: dict[str, Any], channels: int = 2, cases: int = 4) -> None:
    for i in range(cases):
        for channel in range(channels):
            volume(folder / f"imagesTr/p{i // 2}_{i}_{channel:04d}.nii.gz")
        volume(folder / f"labelsTr/p{i // 2}_{i}.nii.gz", [1, 2, 3])
    describe(folder, {"file_ending": ".nii.gz", **about})


def test_an_nnunet_folder_with_regions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing": 3}
    nnunet(
        tmp_path / "Dataset001",
        {
            "channel_names": {"0": "T1 (native)", "1": "T2"},
            "labels": labels,
            "regions_class_order": [1, 2, 3],
        },
    )
    for channel in range(2):
        volume(tmp_path / f"Dataset001/imagesTs/p9_0_{channel:04d}.nii.gz")
    (tmp_path / "Dataset001/imagesTr/._p0_0_0000.nii.gz").touch()
    rows, experiment = run(monkeypatch, decathlon, tmp_path / "Dataset001", "--group-regex", r"^(p\d+)_")
    assert list(rows[0]) == ["case", "group", "image_T1_native", "image_T2", "label", "split"]
    assert rows[3]["image_T2"] == "../Dataset001/imagesTr/p1_3_0001.nii.gz"
    assert [row["group"] for row in rows] == ["p0", "p0", "p1", "p1", "p9"]
    assert [bool(row["label"]) for row in rows] == [True] * 4 + [False]
    assert experiment["data"]["labels"] == {"label_1": 1, "label_2": 2, "enhancing": 3}
    assert experiment["data"]["regions"] == {
        "whole_tumor": ["label_1", "label_2", "enhancing"],
        "tumor_core": ["label_2", "enhancing"],
        "enhancing": ["enhancing"],
    }
    # Two patients: no fold could have a validation share.
    assert experiment["split"] == {"folds": 2, "validation": 0}


def test_labelled_test_cases_become_the_test_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nnunet(tmp_path / "D", {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}}, channels=1)
    volume(tmp_path / "D/imagesTs/p9_0_0000.nii.gz")
    volume(tmp_path / "D/labelsTs/p9_0.nii.gz", 1)
    rows, _ = run(monkeypatch, decathlon, tmp_path / "D")
    assert (rows[-1]["case"], rows[-1]["split"]) == ("p9_0", "test")
    assert rows[-1]["label"].endswith("labelsTs/p9_0.nii.gz")


def test_what_is_missing_is_named_for_all_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nnunet(tmp_path / "D", {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "a": 1}})
    (tmp_path / "D/imagesTr/p0_1_0001.nii.gz").unlink()
    (tmp_path / "D/labelsTr/p1_2.nii.gz").unlink()
    with pytest.raises(CaseError) as caught:
        run(monkeypatch, decathlon, tmp_path / "D")
    assert "case p0_1: channel T2" in str(caught.value)
    assert "case p1_2: label" in str(caught.value)
    assert "without 2 case(s)" in str(caught.value)
    assert cases_in(tmp_path / "out/sheet.csv") == ["p0_0", "p1_3"]


def test_nnunet_cases_listed_in_the_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {}
    for i in range(3):
        volume(tmp_path / f"elsewhere/{i}/t1.nii.gz")
        volume(tmp_path / f"elsewhere/{i}/seg.nii.gz", 1)
        listed[f"c{i}"] = {
            "images": [f"../elsewhere/{i}/t1.nii.gz"],
            "label": str(tmp_path / f"elsewhere/{i}/seg.nii.gz"),
        }
    labels = {"background": 0, "a": 1}
    describe(tmp_path / "D", {"channel_names": {"0": "T1"}, "labels": labels, "dataset": listed})
    rows, _ = run(monkeypatch, decathlon, tmp_path / "D")
    assert [row["image"] for row in rows] == [f"../elsewhere/{i}/t1.nii.gz" for i in range(3)]


def test_the_first_nnunet_is_read_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nnunet(tmp_path / "Task1", {})
    training = [{"image": "./imagesTr/p0_0.nii.gz", "label": "./labelsTr/p0_0.nii.gz"}]
    labels = {"0": "background", "1": "a"}
    describe(tmp_path / "Task1", {"modality": {"0": "T1", "1": "T2"}, "labels": labels, "training": training})
    rows, _ = run(monkeypatch, decathlon, tmp_path / "Task1")
    assert len(rows) == 4
    assert rows[0]["image_T2"].endswith("p0_0_0001.nii.gz")


@pytest.mark.parametrize("labels", [{"a": 1.5}, {"1.5": "a"}, {"a": [1, 1.5]}])
def test_label_values_are_whole_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: dict[str, Any]
) -> None:
    nnunet(tmp_path / "D", {"channel_names": {"0": "T1", "1": "T2"}, "labels": labels})
    with pytest.raises(CaseError, match=r"label value '?1\.5'? is not an integer"):
        run(monkeypatch, decathlon, tmp_path / "D")


def test_several_values_to_ignore_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nnunet(tmp_path / "D", {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"a": 1, "ignore": [2, 3]}})
    with pytest.raises(CaseError, match=r"`ignore` has the values \[2, 3\]; expected one"):
        run(monkeypatch, decathlon, tmp_path / "D")


def test_voxels_to_ignore_are_a_label_and_belong_to_no_region(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for labels, regions in (
        ({"a": 1, "ignore": 2}, None),
        ({"all": [1, 2], "a": 1, "ignore": 3}, {"all": ["a", "label_2"], "a": ["a"]}),
    ):
        nnunet(tmp_path / "D", {"channel_names": {"0": "T1", "1": "T2"}, "labels": labels})
        _, experiment = run(monkeypatch, decathlon, tmp_path / "D", "--force")
        assert experiment["data"]["labels"]["ignore"] == labels["ignore"]
        assert experiment["data"].get("regions") == regions


def test_every_file_of_an_nnunet_folder_is_taken_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "D"
    about = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "numTraining": 9}
    nnunet(raw, about, channels=1, cases=2)
    for name in ("c_0000.NII.GZ", "BraTS20_0001.nii.gz", "e_0000.nii.gz", "p0_0_0001.nii.gz", "f.nrrd"):
        volume(tmp_path / "v.nii.gz")
        (tmp_path / "v.nii.gz").rename(raw / "imagesTr" / name)
    for name in ("c.NII.GZ", "BraTS20_0001.nii.gz"):
        volume(tmp_path / "v.nii.gz", 1)
        (tmp_path / "v.nii.gz").rename(raw / "labelsTr" / name)
    for name in ("t1.nii.gz", "scan_2021.nii.gz"):
        volume(raw / "imagesTs" / name)
    (raw / "imagesTr" / ".DS_Store").touch()
    (raw / "README.md").touch()
    with pytest.raises(CaseError, match=r"without 1 case\(s\).*\n.*e: label: .*e_0000.nii.gz is left out"):
        run(monkeypatch, decathlon, raw)
    with (tmp_path / "out/sheet.csv").open(newline="") as file:
        found = {row["case"]: (Path(row["image"]).name, bool(row["label"])) for row in csv.DictReader(file)}
    assert found == {
        "p0_0": ("p0_0_0000.nii.gz", True),
        "p0_1": ("p0_1_0000.nii.gz", True),
        "c": ("c_0000.NII.GZ", True),
        "BraTS20_0001": ("BraTS20_0001.nii.gz", True),
        "t1": ("t1.nii.gz", False),
        "scan_2021": ("scan_2021.nii.gz", False),
    }
    printed = capsys.readouterr().out
    for line in (
        "left out: imagesTr/p0_0_0001.nii.gz: channel 0001, but dataset.json names 1 channel(s)",
        "left out: imagesTr/f.nrrd: its ending is not the .nii.gz of dataset.json",
        "left out: imagesTr/.DS_Store: hidden",
        "left out: README.md: not named in dataset.json",
        "numTraining is 9, but there are 4 training cases with a label",
        "6 cases of 6 patients: 4 with a label, 0 of them the test set; 2 only predicted",
    ):
        assert line in printed


def test_a_suffix_is_a_channel_only_with_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two channels, the patients BraTS20_0000 and BraTS20_0001 are not one; here by the labels."""
    nnunet(tmp_path / "D", {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"a": 1}})
    volume(tmp_path / "D/imagesTr/BraTS20_0001.nii.gz")
    volume(tmp_path / "D/labelsTr/BraTS20_0001.nii.gz", 1)
    with pytest.raises(CaseError) as caught:
        run(monkeypatch, decathlon, tmp_path / "D")
    assert "case BraTS20: channel T1" in str(caught.value)
    assert "case BraTS20_0001: channel T1" in str(caught.value)
    assert len(cases_in(tmp_path / "out/sheet.csv")) == 4


def test_a_case_that_the_workflow_would_refuse_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nnunet(tmp_path / "D", {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}}, channels=1)
    volume(tmp_path / "D/labelsTr/p1_2.nii.gz", 1, shift=3)
    with pytest.raises(CaseError, match=r"without 1 case.*\n.*p1_2.*its affine differs from the image's"):
        run(monkeypatch, decathlon, tmp_path / "D")
    rows, _ = run(monkeypatch, decathlon, tmp_path / "D", "--force", "--skip-broken")
    assert [row["case"] for row in rows] == ["p0_0", "p0_1", "p1_3"]
    assert "warning: case p1_2: " in capsys.readouterr().out
    for name in ("p0_0", "p0_1", "p1_3"):
        (tmp_path / f"D/labelsTr/{name}.nii.gz").write_bytes(b"broken")
    (tmp_path / "out/sheet.csv").unlink()
    with pytest.raises(CaseError, match=r"not written, since no case can be used: 4 problem\(s\)"):
        run(monkeypatch, decathlon, tmp_path / "D", "--force")
    assert not (tmp_path / "out/sheet.csv").exists()


@pytest.mark.parametrize("name", ["""ü's "q" [1] (2) & ; #%$(touch X)""", "a {b}", "c <d>"])
def test_folders_with_hostile_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Names that Snakemake would fill in are refused here already."""
    about = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}}
    nnunet(tmp_path / name, about, channels=1)
    if name[0] == "ü":
        rows, _ = run(monkeypatch, decathlon, tmp_path / name)
        assert rows[0]["image"] == f"../{name}/imagesTr/p0_0_0000.nii.gz"
        return
    with pytest.raises(CaseError, match=r"case p0_0: .* contains '.*', which Snakemake would replace"):
        run(monkeypatch, decathlon, tmp_path / name)
    assert not (tmp_path / "out/sheet.csv").exists()


def test_nothing_is_overwritten_unless_forced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nnunet(tmp_path / "D", {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}}, channels=1)
    run(monkeypatch, decathlon, tmp_path / "D")
    (tmp_path / "out/sheet.yaml").write_text("mine")
    with pytest.raises(CaseError, match="--force"):
        run(monkeypatch, decathlon, tmp_path / "D")
    assert (tmp_path / "out/sheet.yaml").read_text() == "mine"
    run(monkeypatch, decathlon, tmp_path / "D", "--force")
    assert (tmp_path / "out/sheet.yaml").read_text() != "mine"


def brats_case(folder: Path, separator: str, names: list[str], values: list[int]) -> None:
    for name in names:
        volume(folder / f"{folder.name}{separator}{name}.nii.gz", values if name == "seg" else 0)


OLD, NEW = ["t1", "t1ce", "t2", "flair", "seg"], ["t1n", "t1c", "t2w", "t2f", "seg"]


def test_brats_until_2021(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(3):
        brats_case(tmp_path / f"in/HGG/BraTS20_Training_{i:03d}", "_", OLD, [1, 2, 4])
    # The one misnamed file of 2020, and a modality in a separate folder.
    case = tmp_path / "in/HGG/BraTS20_Training_001"
    (case / "BraTS20_Training_001_seg.nii.gz").rename(case / "W39_1998.09.19_Segm.nii.gz")
    (case / "BraTS20_Training_001_flair.nii").mkdir()
    (case / "BraTS20_Training_001_flair.nii.gz").rename(
        case / "BraTS20_Training_001_flair.nii/00000057.nii.gz"
    )
    rows, experiment = run(monkeypatch, brats, tmp_path / "in")
    assert list(rows[0])[2:6] == ["image_t1", "image_t1ce", "image_t2", "image_flair"]
    assert [row["case"] for row in rows] == [f"BraTS20_Training_{i:03d}" for i in range(3)]
    assert rows[1]["label"].endswith("W39_1998.09.19_Segm.nii.gz")
    assert rows[1]["image_flair"].endswith("_flair.nii/00000057.nii.gz")
    assert experiment["data"]["labels"] == {"necrosis": 1, "oedema": 2, "enhancing": 4}
    assert experiment["data"]["regions"] == {
        "whole_tumour": ["oedema", "necrosis", "enhancing"],
        "tumour_core": ["necrosis", "enhancing"],
        "enhancing": ["enhancing"],
    }


def test_brats_from_2023_keeps_a_patients_time_points_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BraTS-GLI-00005-000", "BraTS-GLI-00005-001", "BraTS-GLI-00006-000", "BraTS-GLI-00007-000"):
        brats_case(tmp_path / "in" / name, "-", NEW, [1, 2, 3])
    brats_case(tmp_path / "in/BraTS-GLI-00008-000", "-", NEW[:-1], [])
    rows, experiment = run(monkeypatch, brats, tmp_path / "in")
    assert [row["group"][-5:] for row in rows] == ["00005", "00005", "00006", "00007", "00008"]
    assert rows[0]["image_t1ce"].endswith("-t1c.nii.gz")
    assert rows[0]["image_flair"].endswith("-t2f.nii.gz")
    assert rows[-1]["label"] == ""
    assert experiment["data"]["labels"]["enhancing"] == 3
    assert experiment["split"] == {"folds": 3}


def test_brats_until_2015(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(3):
        case = tmp_path / f"in/HGG/brats_tcia_pat10{i}_0001"
        for number, kind in enumerate(("MR_T1", "MR_T1c", "MR_T2", "MR_Flair")):
            volume(case / f"VSD.Brain.XX.O.{kind}.5{number}/VSD.Brain.XX.O.{kind}.5{number}.nii")
        volume(case / f"VSD.Brain_3more.XX.XX.OT.6{i}/VSD.Brain_3more.XX.XX.OT.6{i}.nii", [1, 2, 3, 4])
    rows, experiment = run(monkeypatch, brats, tmp_path / "in")
    assert [row["group"] for row in rows] == [f"brats_tcia_pat10{i}" for i in range(3)]
    assert "MR_T1c.51" in rows[0]["image_t1ce"]
    assert experiment["data"]["labels"]["non_enhancing"] == 3
    assert "non_enhancing" in experiment["data"]["regions"]["tumour_core"]


def test_brats_without_a_modality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(3):
        brats_case(tmp_path / f"in/BraTS20_Training_{i:03d}", "_", OLD[: 5 - i], [1, 2, 4])
    with pytest.raises(CaseError, match="case BraTS20_Training_002: flair missing; found t1, t1ce, t2"):
        run(monkeypatch, brats, tmp_path / "in")


@pytest.mark.parametrize(
    ("case", "values", "enhancing", "core"),
    [
        ("BraTS2021_00000", {1, 2}, 4, {1, 4}),
        ("BraTS-GLI-00001-000", {1, 2, 3}, 3, {1, 3}),
        ("BraTS-GLI-02405-100", {1, 2, 3, 4}, 3, {1, 3}),  # 4: the resection cavity
        ("BraTS-PED-00001-000", {1, 2, 3, 4}, 1, {1, 2, 3}),  # 4: oedema
        ("brats_2013_pat0001_1", {1, 2, 3, 4}, 4, {1, 3, 4}),
    ],
)
def test_the_meaning_of_values_by_year(case: str, values: set[int], enhancing: int, core: set[int]) -> None:
    classes, regions = meaning([case], values)
    assert classes["enhancing"] == enhancing
    assert {classes[name] for name in regions["tumour_core"]} == core
    assert regions["whole_tumour"][0] == "oedema"


def test_values_that_do_not_tell_the_year() -> None:
    with pytest.raises(CaseError, match="--enhancing"):
        meaning(["BraTS20_Training_001"], {1, 2, 3})
    assert meaning(["BraTS20_Training_001"], {1, 2, 3}, enhancing=3)[0]["enhancing"] == 3


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("BraTS-MET-00123-001", "BraTS-MET-00123"),
        ("Brats18_TCIA10_103_1", "Brats18_TCIA10_103"),
        ("brats_tcia_pat105_0180", "brats_tcia_pat105"),
        ("BraTS2021_00123", "BraTS2021_00123"),
        ("BraTS20_Training_001", "BraTS20_Training_001"),
    ],
)
def test_patients_of_brats(case: str, expected: str) -> None:
    assert patient(case) == expected


def test_names() -> None:
    assert clean(" whole tumor/core ") == "whole_tumor_core"
    assert column_names(["CT"]) == [""]
    assert column_names(["T1 (Gd)", "noNorm", "noNorm"]) == ["T1_Gd", "noNorm_1", "noNorm_2"]
    with pytest.raises(CaseError, match="finds no patient"):
        group_of("a_1", r"^(b)_")
    with pytest.raises(CaseError, match="must have one group"):
        group_of("a_1", "^a")


def test_the_command_is_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`foldwise import decathlon` writes what `python -m foldwise.importers.decathlon` writes."""
    decathlon_task(tmp_path / "Task01", {"0": "CT"})
    rows, experiment = run(monkeypatch, decathlon, tmp_path / "Task01")
    sheet = tmp_path / "out" / "again.csv"
    words = ["import", "decathlon", str(tmp_path / "Task01"), "--sheet", str(sheet), "--name", "sheet"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    again = yaml.safe_load(sheet.with_suffix(".yaml").read_text())
    assert again["data"].pop("sheet") == sheet.as_posix()
    experiment["data"].pop("sheet")
    assert again == experiment
    with sheet.open(newline="") as file:
        assert list(csv.DictReader(file)) == rows


def test_each_importer_is_a_command_that_is_listed_without_its_libraries() -> None:
    modules = {
        path.stem for path in Path(decathlon.__file__).parent.glob("*.py") if "script(" in path.read_text()
    }
    assert {name.replace("-", "_") for name in FORMATS} == modules - {"arguments"}
    code = (
        "import sys; sys.argv = ['foldwise', 'import', '--help']\n"
        "from foldwise.commands import app\n"
        "try: app()\n"
        "finally: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert all(name in done.stdout for name in FORMATS)
    assert {"torch", "pydicom", "pandas"} & set(done.stdout.split()) == set()
    for name in FORMATS:
        shown = CliRunner().invoke(app, ["import", name, "--help"])
        assert shown.exit_code == 0
        assert "--skip-broken" in shown.output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--config", "SHEET"], "--sheet and --config are both"),
        (["--config", "SOURCE"], "--config and the source are both"),
        (["--sheet", "SOURCE"], "--sheet and the source are both"),
    ],
)
def test_no_path_has_two_uses(
    more: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decathlon_task(tmp_path / "Task01", {"0": "CT"})
    paths = {"SHEET": str(tmp_path / "out" / "sheet.csv"), "SOURCE": str(tmp_path / "Task01")}
    with pytest.raises(CaseError, match=message):
        run(monkeypatch, decathlon, tmp_path / "Task01", *(paths.get(word, word) for word in more))
