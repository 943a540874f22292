"""Importers on data sets that are not as they should be: each is refused by name, and nothing is lost."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest

from bad_inputs import NO_JSON, NO_TEXT, called, contents, mutations
from dicom_files import Grid, write_series
from foldwise.importers import bids, brats, cholec80, cholect50, clip_lists, decathlon, dicom, unet3d_config
from stand_ins import UNET3D_BRATS
from videos import flat_frames, write_video

NUMBERS = map(str, itertools.count())
TOOLS = "Frame\tGrasper\tHook\n0\t1\t0\n25\t0\t1\n"
PHASE = "Frame\tPhase\n" + "".join(f"{frame}\tPreparation\n" for frame in range(50))


class Import(NamedTuple):
    """A data set that can be imported, and the file in it that a test spoils."""

    main: Callable[[], int | None]
    words: tuple[str, ...]
    file: str


def volume(path: Path, values: tuple[int, ...] = (0,)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.zeros((5, 4, 3), np.uint8)
    data.reshape(-1)[: len(values)] = values
    image = nib.Nifti1Image(data, np.eye(4))
    image.header["descrip"] = next(NUMBERS)  # no two scans are the same file
    nib.save(image, path)


def put(path: Path, what: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(what if isinstance(what, str) else json.dumps(what), encoding="utf-8")


def decathlon_task(ds: Path) -> Import:
    training = []
    for name in ("b0", "b1", "b2"):
        volume(ds / f"imagesTr/{name}.nii.gz")
        volume(ds / f"labelsTr/{name}.nii.gz", (1, 2))
        training.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
    volume(ds / "imagesTs/b9.nii.gz")
    about = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "edema", "2": "core"},
        "numTraining": 3,
        "training": training[:1],
        "test": ["./imagesTs/b9.nii.gz"],
    }
    put(ds / "dataset.json", {**about, "training": training})
    return Import(decathlon.main, (str(ds),), "dataset.json")


def nnunet(ds: Path) -> Import:
    for name in ("b0", "b1", "b2"):
        volume(ds / f"imagesTr/{name}_0000.nii.gz")
        volume(ds / f"labelsTr/{name}.nii.gz", (1, 2))
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    about = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 3, "file_ending": ".nii.gz"}
    put(ds / "dataset.json", about)
    return Import(decathlon.main, (str(ds),), "dataset.json")


def nnunet_lists(ds: Path) -> Import:
    listed = {}
    for name in ("b0", "b1", "b2"):
        volume(ds / f"some/{name}_0000.nii.gz")
        volume(ds / f"other/{name}.nii.gz", (1,))
        listed[name] = {"images": [f"some/{name}_0000.nii.gz"], "label": f"other/{name}.nii.gz"}
    about = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "core": 1}, "dataset": listed}
    put(ds / "dataset.json", {**about, "file_ending": ".nii.gz"})
    return Import(decathlon.main, (str(ds),), "dataset.json")


def unet3d(ds: Path) -> Import:
    cases = []
    for name in ("P0", "P1", "P2"):
        volume(ds / f"{name}/{name}_t1.nii.gz")
        volume(ds / f"{name}/{name}_seg.nii.gz", (1, 2, 4))
        cases.append({"image": [f"{name}/{name}_t1.nii.gz"], "label": f"{name}/{name}_seg.nii.gz"})
    augmented = {
        "spatial_augmentations": [
            {"name": "RandFlipD", "prob": 0.5},
            {"name": "RandRotateD", "range_x": 0.2},
        ],
        "intensity_augmentations": [
            {"name": "RandShiftIntensityD", "offsets": 0.1, "prob": 1.0},
            {"name": "RandZoomD", "max_zoom": 1.2},
            {"name": "RandScaleIntensityD", "factors": [0.1, 0.2]},
            {"name": "RandGaussianNoiseD", "std": 0.1},
        ],
    }
    values = json.loads(json.dumps(UNET3D_BRATS))
    values["dataset"] |= {"training": augmented, "normalization_kwargs": {"nonzero": True}}
    values["inference"] = {"name": "SlidingWindowInferer", "overlap": 0.25, "sw_batch_size": 4}
    values["cross_validation"] = {"n_folds": 3, "random_seed": 7}
    put(ds / "config.json", {**values, "training_filenames": cases})
    return Import(unet3d_config.main, (str(ds / "config.json"),), "config.json")


def cholec80_folder(ds: Path) -> Import:
    for name in ("video01", "video02"):
        (ds / "videos").mkdir(parents=True, exist_ok=True)
        write_video(ds / f"videos/{name}.mp4", flat_frames(50) + np.uint8(name[-1]))
        put(ds / f"phase_annotations/{name}-phase.txt", PHASE)
        put(ds / f"tool_annotations/{name}-tool.txt", TOOLS)
    return Import(cholec80.main, (str(ds),), "phase_annotations/video01-phase.txt")


def cholec80_tools(ds: Path) -> Import:
    return cholec80_folder(ds)._replace(file="tool_annotations/video01-tool.txt")


def cholect50_folder(ds: Path) -> Import:
    from PIL import Image

    for number, name in enumerate(("VID01", "VID02")):
        (ds / f"videos/{name}").mkdir(parents=True)
        for second in range(2):
            Image.new("RGB", (8, 8), (number * 99, second * 99, 0)).save(
                ds / f"videos/{name}/{second:06d}.png"
            )
        rows = {str(second): [[0, 1, 0, 0, 0, 0, 0, second]] for second in range(2)}
        names = {"instrument": {"0": "grasper", "1": "hook"}, "phase": {"0": "preparation", "1": "other"}}
        put(ds / f"labels/{name}.json", {"categories": names, "annotations": rows})
    return Import(cholect50.main, (str(ds),), "labels/VID01.json")


def bids_folder(ds: Path) -> Import:
    for name in ("01", "02", "03"):
        volume(ds / f"sub-{name}/anat/sub-{name}_T1w.nii.gz")
        volume(ds / f"derivatives/m/sub-{name}/anat/sub-{name}_dseg.nii.gz", (1, 2))
    put(ds / "derivatives/m/dseg.tsv", "index\tname\n0\tbackground\n1\tedema\n2\tcore\n")
    put(ds / "participants.tsv", "participant_id\tage\nsub-01\t4\nsub-02\t5\nsub-03\t6\n")
    return Import(bids.main, (str(ds), "--images", "T1w"), "derivatives/m/dseg.tsv")


def bids_participants(ds: Path) -> Import:
    return bids_folder(ds)._replace(file="participants.tsv")


def brats_folder(ds: Path) -> Import:
    for name in ("BraTS19_A_1", "BraTS19_B_1", "BraTS19_C_1"):
        for kind in ("t1", "t1ce", "t2", "flair"):
            volume(ds / f"{name}/{name}_{kind}.nii.gz")
        volume(ds / f"{name}/{name}_seg.nii.gz", (1, 2, 4))
    return Import(brats.main, (str(ds),), "BraTS19_A_1/BraTS19_A_1_seg.nii.gz")


def clips(ds: Path) -> Import:
    for number, name in enumerate("abcd"):
        (ds / "videos").mkdir(parents=True, exist_ok=True)
        write_video(ds / f"videos/{name}.mp4", flat_frames(4) + number)
    put(ds / "map.json", ["high", "low"])
    put(ds / "classes.txt", "This is high.\nThis is low.\n")
    put(ds / "train.txt", "a.mp4,0\nb.mp4,1\nc.mp4,0\nd.mp4,1\n")
    words: tuple[str, ...] = ("--train", str(ds / "train.txt"), "--classes", str(ds / "map.json"))
    words += ("--sentences", str(ds / "classes.txt"))
    return Import(clip_lists.main, (str(ds / "videos"), *words), "map.json")


def clip_list(ds: Path) -> Import:
    return clips(ds)._replace(file="train.txt")


def clip_sentences(ds: Path) -> Import:
    return clips(ds)._replace(file="classes.txt")


def dicom_boxes(ds: Path) -> Import:
    images = write_series(ds / "in", Grid(shape=(12, 10, 6)))
    box = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>6</xmax><ymax>7</ymax></bndbox>"
    size = "<size><width>12</width><height>10</height></size>"
    text = f"<annotation>{size}<object><name>A</name>{box}</object></annotation>"
    uid = images[2].SOPInstanceUID
    put(ds / f"boxes/{uid}.xml", text)
    return Import(dicom.main, (str(ds / "in"), "--boxes", str(ds / "boxes")), f"boxes/{uid}.xml")


def dicom_slice(ds: Path) -> Import:
    write_series(ds / "in", Grid(shape=(12, 10, 6)))
    first = min((ds / "in").iterdir()).name
    return Import(dicom.main, (str(ds / "in"),), f"in/{first}")


SETS = [
    *(decathlon_task, nnunet, nnunet_lists, unet3d, cholec80_folder, cholec80_tools, cholect50_folder),
    *(
        bids_folder,
        bids_participants,
        brats_folder,
        clips,
        clip_list,
        clip_sentences,
        dicom_boxes,
        dicom_slice,
    ),
]
DESCRIBED = [decathlon_task, nnunet, nnunet_lists, unet3d, cholect50_folder, clips]
Made = Callable[[Callable[[Path], Import]], tuple[Import, Path]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The data set of a function, written once; what an import makes of it is removed by whoever calls."""
    written: dict[Any, tuple[Import, Path]] = {}

    def get(write: Callable[[Path], Import]) -> tuple[Import, Path]:
        if write not in written:
            folder = tmp_path_factory.mktemp("set") / "ds"
            folder.mkdir()
            written[write] = write(folder), folder
        return written[write]

    return get


def spoilt(one: Import, ds: Path, content: bytes) -> tuple[int, str]:
    """Exit code and output of an import with one file spoilt; no file is changed or left half written."""
    file, out = ds / one.file, ds.parent / "out"
    good = file.read_bytes()
    file.write_bytes(content)
    before = contents(ds)
    try:
        code, text = called(one.main, *one.words, "--sheet", str(out / "s.csv"))
        assert "Traceback" not in text, text
        assert contents(ds) == before, "the source was changed"
        halves = [path for path in out.rglob("*") if path.name.startswith(".")] if out.exists() else []
        assert [path for path in halves if path.name != ".foldwise"] == [], "a half of a file was left"
    finally:
        file.write_bytes(good)
        shutil.rmtree(out, ignore_errors=True)
    return code, text


@pytest.mark.parametrize("write", SETS, ids=lambda write: write.__name__)
def test_the_sets_themselves_are_imported(write: Callable[[Path], Import], made: Made) -> None:
    one, ds = made(write)
    code, text = spoilt(one, ds, (ds / one.file).read_bytes())
    assert code == 0, text


CONTENTS = [(write, name) for write in SETS for name in (NO_JSON if write in DESCRIBED else NO_TEXT)]


@pytest.mark.parametrize(("write", "name"), CONTENTS, ids=lambda it: getattr(it, "__name__", it))
def test_a_file_that_is_something_else_is_refused_by_name(
    write: Callable[[Path], Import], name: str, made: Made
) -> None:
    one, ds = made(write)
    code, text = spoilt(one, ds, {**NO_JSON, **NO_TEXT}[name])
    assert code != 0, text
    assert Path(one.file).name in text, text


@pytest.mark.parametrize("write", DESCRIBED, ids=lambda write: write.__name__)
def test_no_value_of_a_description_ends_in_a_traceback(write: Callable[[Path], Import], made: Made) -> None:
    one, ds = made(write)
    values = json.loads((ds / one.file).read_text())
    count, failed = 0, []
    for place, content in mutations(values):
        count += 1
        try:
            spoilt(one, ds, content)
        except Exception as error:
            failed.append(f"{place}: {error!r}")
    assert failed == []
    assert count > 10
