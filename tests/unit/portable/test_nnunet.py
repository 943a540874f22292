"""An experiment as a raw data set of nnU-Net, and back again through the importer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from foldwise.experiment.open import open_experiment
from foldwise.files import CaseError, read_json
from foldwise.importers.decathlon import read_dataset
from foldwise.index import Entry, make_index
from foldwise.portable.nnunet import export_nnunet
from foldwise.volumes.volume import Volume, write_volume

AFFINE = np.array([[-0.8, 0, 0, 20], [0, 0, 2.5, -7], [0, -1.1, 0, 3], [0, 0, 0, 1.0]])
SHAPE = (9, 8, 7)


def write_case(folder: Path, name: str, values: dict[int, int], seed: int = 0) -> None:
    """Two channels, and a label map with so many voxels of each value."""
    random = np.random.default_rng(seed)
    for channel in ("ct", "pet"):
        data = random.integers(-1000, 2000, SHAPE).astype(np.int16)
        write_volume(Volume(data, AFFINE), folder / f"{name}_{channel}.nii.gz")
    label = np.zeros(np.prod(SHAPE), np.int16)
    begin = 5
    for value, count in values.items():
        label[begin : begin + count] = value
        begin += count
    write_volume(Volume(label.reshape(SHAPE), AFFINE), folder / f"{name}_label.nii.gz")


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Six labelled cases of five patients, a test case, and one without a label."""
    monkeypatch.chdir(tmp_path)
    rows = ["case,group,image_ct,image_pet,label,split"]
    for number, name in enumerate(["a1", "a2", "b", "c", "d", "e", "t", "u"]):
        write_case(tmp_path, name, {7: 10 + number, 3: 20, 12: 4 if number % 2 else 0, 9: 6}, number)
        label = "" if name == "u" else f"{name}_label.nii.gz"
        rows.append(f"{name},{name[0]},{name}_ct.nii.gz,{name}_pet.nii.gz,{label},{'test' * (name == 't')}")
    (tmp_path / "cases.csv").write_text("\n".join(rows))
    labels = {"core": 7, "oedema": 3, "enhancing": 12, "ignore": 9}
    return {
        "experiment": "tiny",
        "data": {"sheet": "cases.csv", "labels": labels},
        "split": {"folds": 2, "seed": 3},
    }


def exported(experiment: dict[str, Any], folder: Path, **more: Any) -> tuple[dict[str, Any], list[str]]:
    remarks = export_nnunet(open_experiment(experiment, main=True), folder, **more)
    return read_json(folder / "dataset.json"), remarks


def test_errors_in_the_sheet_are_told(experiment: dict[str, Any], tmp_path: Path) -> None:
    """A case of a wrong row would be missing in the data set."""
    with (tmp_path / "cases.csv").open("a") as sheet:
        sheet.write("\npa tient,p,a1_ct.nii.gz,a1_pet.nii.gz,a1_label.nii.gz,")
    with pytest.raises(CaseError, match=r"cases\.csv: 1 problem.*\n.*pa tient"):
        export_nnunet(open_experiment(experiment, main=False), tmp_path / "Dataset001_X")
    assert not (tmp_path / "Dataset001_X").exists()


class TestDataset:
    def test_files_and_description(self, experiment: dict[str, Any], tmp_path: Path) -> None:
        folder = tmp_path / "Dataset007_Tiny"
        about, remarks = exported(experiment, folder)
        assert about["channel_names"] == {"0": "ct", "1": "pet"}
        assert about["labels"] == {"background": 0, "core": 1, "oedema": 2, "enhancing": 3, "ignore": 4}
        assert about["original_labels"] == experiment["data"]["labels"]
        assert (about["numTraining"], about["file_ending"]) == (6, ".nii.gz")
        assert "label values: core 7 → 1, oedema 3 → 2, enhancing 12 → 3, ignore 9 → 4" in remarks
        names = {part: sorted(p.name for p in (folder / part).iterdir()) for part in ("imagesTr", "imagesTs")}
        cases = ["a1", "a2", "b", "c", "d", "e"]
        assert names["imagesTr"] == [f"{case}_000{n}.nii.gz" for case in cases for n in (0, 1)]
        assert names["imagesTs"] == [f"{case}_000{n}.nii.gz" for case in "tu" for n in (0, 1)]
        assert [p.name for p in (folder / "labelsTs").iterdir()] == ["t.nii.gz"]

    def test_voxels_and_positions(self, experiment: dict[str, Any], tmp_path: Path) -> None:
        folder = tmp_path / "Dataset007_Tiny"
        exported(experiment, folder)
        for written, source in {
            "imagesTr/a1_0001.nii.gz": "a1_pet.nii.gz",
            "imagesTs/u_0000.nii.gz": "u_ct.nii.gz",
        }.items():
            found, expected = nib.load(folder / written), nib.load(tmp_path / source)
            np.testing.assert_array_equal(found.dataobj, expected.dataobj)
            np.testing.assert_allclose(found.affine, expected.affine)
        label = np.asarray(nib.load(folder / "labelsTr" / "c.nii.gz").dataobj)
        assert label.dtype == np.uint8
        # The numbers of voxels of the values 7, 3, 12 and 9 in `write_case`, of the fourth case.
        assert np.bincount(label.ravel())[1:].tolist() == [13, 20, 4, 6]

    def test_regions(self, experiment: dict[str, Any], tmp_path: Path) -> None:
        experiment["data"]["regions"] = {"inner": ["core"], "whole": ["core", "oedema"]}
        about, _ = exported(experiment, tmp_path / "Dataset007_Tiny")
        # `enhancing` is in no region, so it is background; the region that encloses the other comes first.
        assert about["labels"] == {"background": 0, "whole": [1, 2], "inner": 1, "ignore": 3}
        assert list(about["labels"]) == ["background", "whole", "inner", "ignore"]
        assert about["regions_class_order"] == [2, 1]
        label = np.asarray(nib.load(tmp_path / "Dataset007_Tiny" / "labelsTr" / "c.nii.gz").dataobj)
        assert np.bincount(label.ravel())[1:].tolist() == [13, 20, 6]

    def test_folds_are_those_of_the_experiment(self, experiment: dict[str, Any], tmp_path: Path) -> None:
        folder = tmp_path / "Dataset007_Tiny"
        exported(experiment, folder)
        splits = read_json(folder / "splits_final.json")
        opened = open_experiment(experiment, main=True)
        voxel = 0.8 * 2.5 * 1.1 / 1000
        entries = []
        for number, case in enumerate(opened.training):
            classes = ["core", "oedema", *(["enhancing"] if number % 2 else [])]
            amount = (10 + number + 20 + (4 if number % 2 else 0)) * voxel
            entries.append(Entry(case.name, case.group, {}, "", {}, amount, tuple(classes)))
        folds = make_index(entries, {}, opened.settings.split).folds
        assert [{*split["val"]} for split in splits] == [{*fold.test} for fold in folds]
        for split in splits:
            assert {*split["train"]} | {*split["val"]} == {"a1", "a2", "b", "c", "d", "e"}
            assert ("a1" in split["val"]) == ("a2" in split["val"])

    def test_back_through_the_importer(self, experiment: dict[str, Any], tmp_path: Path) -> None:
        folder = tmp_path / "Dataset007_Tiny"
        exported(experiment, folder)
        found = read_dataset(folder, group_regex="^([a-z])")
        assert found.labels == {"core": 1, "oedema": 2, "enhancing": 3, "ignore": 4}
        assert not found.failed
        opened = open_experiment(experiment, main=True)
        rows = {row.case: row for row in found.rows}
        assert rows.keys() == opened.cases.keys()
        for name, case in opened.cases.items():
            assert rows[name].group == case.group
            assert rows[name].split == case.split
            assert (rows[name].label is None) == (case.label is None)
            assert list(rows[name].images) == ["ct", "pet"]


class TestFaults:
    def test_the_name_of_the_folder(self, experiment: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(CaseError, match=r"by its name, e\.g\. Dataset501_tiny"):
            exported(experiment, tmp_path / "mine")

    def test_all_cases_that_cannot_be_written(self, experiment: dict[str, Any], tmp_path: Path) -> None:
        opened = open_experiment(experiment, main=True)
        (tmp_path / "b_ct.nii.gz").write_bytes(b"no")
        write_case(tmp_path, "e", {5: 3})
        with pytest.raises(CaseError, match=r"2 of 8 cases cannot be written") as raised:
            export_nnunet(opened, tmp_path / "Dataset007_Tiny")
        lines = str(raised.value).splitlines()[1:]
        assert [line.split(":")[0].strip() for line in lines] == ["case b", "case e"]
        assert not (tmp_path / "Dataset007_Tiny").exists()

    def test_names_of_channels(self, experiment: dict[str, Any], tmp_path: Path) -> None:
        about, _ = exported(experiment, tmp_path / "Dataset007_Tiny", channels=["CT", "SUV"])
        assert about["channel_names"] == {"0": "CT", "1": "SUV"}
        with pytest.raises(CaseError, match=r"2 channel\(s\); expected 1: CT"):
            exported(experiment, tmp_path / "Dataset008_Tiny", channels=["CT"])
