"""Small generated data sets, in the layouts that the shipped experiments and the importers expect."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import aff2axcodes
from PIL import Image

from dicom_files import Grid, write_rtstruct, write_series
from foldwise.metrics.video import CHOLEC80_PHASES
from foldwise.systems.surgical.annotations import write_phases, write_tools
from foldwise.systems.surgical.settings import CHOLEC80_TOOLS
from foldwise.volumes.phantom import make_phantom
from foldwise.volumes.volume import Volume, write_volume
from synthetic import ball
from ultrasound import CLASSES, frames_of
from videos import write_video

ROOT = Path(__file__).parents[2]
SECONDS = 6
# Coarse, but the lungs can be found.
SPACING = (4.0, 4.0, 5.0)
RAS = np.diag([1.0, 1, 1, 1])
# The keys of 3DUnetCNN's BraTS 2020 example, with a smaller network.
UNET3D_BRATS: dict[str, Any] = {
    "model": {
        "name": "DynUNet",
        "in_channels": 4,
        "out_channels": 3,
        "spatial_dims": 3,
        "deep_supervision": False,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "filters": [8, 16, 32],
        "kernel_size": [[3, 3, 3]] * 3,
        "upsample_kernel_size": [[2, 2, 2]] * 2,
    },
    "optimizer": {"name": "Adam", "lr": 0.001},
    "loss": {"name": "DiceLoss", "include_background": True, "sigmoid": True},
    "cross_validation": {"n_folds": 5, "random_seed": 25},
    "scheduler": {"name": "ReduceLROnPlateau", "patience": 10, "factor": 0.5, "min_lr": 1e-08},
    "dataset": {
        "name": "SegmentationDatasetPersistent",
        "desired_shape": [32, 32, 32],
        "labels": [2, 1, 4],
        "setup_label_hierarchy": True,
        "normalization": "NormalizeIntensityD",
        "normalization_kwargs": {"channel_wise": True, "nonzero": False},
        "resample": True,
        "crop_foreground": True,
    },
    "training": {
        "batch_size": 1,
        "validation_batch_size": 1,
        "amp": False,
        "early_stopping_patience": None,
        "n_epochs": 250,
        "save_every_n_epochs": 50,
        "save_last_n_models": 3,
        "save_best": True,
    },
}


def copy_phantoms(folder: Path) -> None:
    """The demo's sheet; the workflow generates the scans."""
    (folder / "experiments").mkdir()
    shutil.copy(ROOT / "experiments" / "phantom.csv", folder / "experiments")


def write_exports(folder: Path) -> None:
    """Chest CTs as DICOM series, one folder each, with an RTSTRUCT in which the tumours are GTV-1."""
    folder = folder / "exports"
    # Patients whose number is a multiple of five are stored obliquely, which is not needed here.
    for patient in ("p01", "p02", "p03", "p04", "p06"):
        phantom = make_phantom(patient, spacing=SPACING)
        pixels, label = (_lps(volume) for volume in (phantom.image, phantom.label))
        grid = Grid(shape=pixels.shape, spacing=SPACING)
        images = write_series(folder / patient, grid, patient=patient, stored=pixels)
        contours = []
        for z in np.flatnonzero(label.any((0, 1))):
            x, y = np.nonzero(label[:, :, z])
            (left, right), (front, back) = ((v.min() - 0.4, v.max() + 0.4) for v in (x, y))
            corners = [(left, front, z), (right, front, z), (right, back, z), (left, back, z)]
            contours.append(("CLOSED_PLANAR", grid.mm(np.array(corners))))
        write_rtstruct(folder / patient / "rs.dcm", images, {"GTV-1": contours})


def _lps(volume: Volume) -> np.ndarray:
    """The voxels with x running to the patient's left and y to the back."""
    canonical = nib.as_closest_canonical(nib.Nifti1Image(volume.data, volume.affine))
    assert aff2axcodes(canonical.affine) == ("R", "A", "S")
    return np.asarray(canonical.dataobj)[::-1, ::-1]


def write_brats(folder: Path, cases: int = 5) -> None:
    """Heads with a tumour of three kinds of voxels, named as in BraTS 2020."""
    folder = folder / "MICCAI_BraTS2020_TrainingData"
    shape = (44, 40, 36)
    for number in range(1, cases + 1):
        random = np.random.default_rng(number)
        brain = ball(shape, (22, 20, 18), 16)
        label = np.zeros(shape, np.uint8)
        centre = tuple(random.uniform(16, 22, 3))
        for radius, value in ((7, 2), (5, 4), (3, 1)):
            label[ball(shape, centre, radius)] = value
        name = f"BraTS20_Training_{number:03}"
        for place, channel in enumerate(("t1", "t1ce", "t2", "flair")):
            grey = random.normal(300 + 100 * ((label.astype(int) + place) % 4), 20) * brain
            write_volume(Volume(grey.astype(np.int16), RAS), folder / name / f"{name}_{channel}.nii.gz")
        write_volume(Volume(label, RAS), folder / name / f"{name}_seg.nii.gz")


def write_hippocampus(folder: Path, cases: int = 5) -> None:
    """The Decathlon's Task04: one MR channel, two parts."""
    folder = folder / "Task04_Hippocampus"
    names = [f"hippocampus_{number:03}" for number in range(cases)]
    for number, name in enumerate(names):
        image, label = _hippocampus(number)
        write_volume(Volume(image, RAS), folder / "imagesTr" / f"{name}.nii.gz")
        write_volume(Volume(label, RAS), folder / "labelsTr" / f"{name}.nii.gz")
    about = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "training": [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names
        ],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(about), encoding="utf-8")


def write_nnunet(folder: Path, cases: int = 5) -> None:
    """nnU-Net's raw layout: one CT channel, and regions."""
    folder = folder / "Dataset003_Liver"
    for number in range(cases):
        image, label = _hippocampus(number)
        write_volume(Volume(image - np.int16(700), RAS), folder / "imagesTr" / f"liver_{number}_0000.nii.gz")
        write_volume(Volume(label, RAS), folder / "labelsTr" / f"liver_{number}.nii.gz")
    about = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": [1, 2], "tumour": 2},
        "regions_class_order": [1, 2],
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(about), encoding="utf-8")


def write_bids(folder: Path, cases: int = 5) -> None:
    """A BIDS data set: T1-weighted images, discrete segmentations in derivatives, and their lookup table."""
    folder = folder / "ds000001"
    made = folder / "derivatives" / "manual"
    for number in range(cases):
        image, label = _hippocampus(number)
        place = Path(f"sub-{number:02d}", "anat")
        write_volume(Volume(image, RAS), folder / place / f"sub-{number:02d}_T1w.nii.gz")
        write_volume(Volume(label, RAS), made / place / f"sub-{number:02d}_dseg.nii.gz")
    (made / "dseg.tsv").write_text("index\tname\n1\tanterior\n2\tposterior\n", encoding="utf-8")
    listed = "".join(f"sub-{number:02d}\n" for number in range(cases))
    (folder / "participants.tsv").write_text(f"participant_id\n{listed}", encoding="utf-8")


def _hippocampus(number: int) -> tuple[np.ndarray, np.ndarray]:
    shape = (36, 44, 32)
    random = np.random.default_rng(number)
    label = np.zeros(shape, np.uint8)
    label[ball(shape, (18, 15, 16), 6)], label[ball(shape, (18, 27, 16), 6)] = 1, 2
    return (random.normal(400, 40, shape) + 150 * label).astype(np.int16), label


def write_unet3d_config(folder: Path) -> None:
    """3DUnetCNN's BraTS 2020 example, with the cases of `write_brats`."""
    write_brats(folder)
    brats = folder / "MICCAI_BraTS2020_TrainingData"
    filters = [64, 96, 128, 192, 256, 384]
    levels = len(filters)
    cases = [
        {
            "image": [
                str(case / f"{case.name}_{channel}.nii.gz") for channel in ("flair", "t1", "t1ce", "t2")
            ],
            "label": str(case / f"{case.name}_seg.nii.gz"),
        }
        for case in sorted(brats.iterdir())
    ]
    values = {
        **UNET3D_BRATS,
        # The published size.
        "model": {
            **UNET3D_BRATS["model"],
            "strides": [[1] * 3] + [[2] * 3] * (levels - 1),
            "filters": filters,
            "kernel_size": [[3] * 3] * levels,
            "upsample_kernel_size": [[2] * 3] * (levels - 1),
        },
        "dataset": {**UNET3D_BRATS["dataset"], "desired_shape": [128, 128, 128]},
        "training_filenames": cases,
    }
    (folder / "brats2020_config.json").write_text(json.dumps(values), encoding="utf-8")


def write_cholec80(folder: Path, numbers: Sequence[int] = (1, 2, 33, 41, 42)) -> None:
    """Operations of a few seconds under Cholec80's names."""
    folder = folder / "cholec80"
    for number in numbers:
        name = f"video{number:02}"
        (folder / "videos").mkdir(parents=True, exist_ok=True)
        frames, phases, tools = _operation(number)
        write_video(folder / "videos" / f"{name}.mp4", frames.repeat(5, 0), fps=5)
        # Rows count at 25 per second, independent of the video.
        rows = 25 * np.arange(SECONDS)
        names = [CHOLEC80_PHASES[phase] for phase in phases]
        write_phases(folder / "phase_annotations" / f"{name}-phase.txt", rows, names)
        write_tools(folder / "tool_annotations" / f"{name}-tool.txt", rows, CHOLEC80_TOOLS, tools)


def write_cholect50(folder: Path, count: int = 5) -> None:
    """Frames and JSON labels as in CholecT50."""
    folder = folder / "CholecT50"
    instruments = ("grasper", "bipolar", "hook", "scissors", "clipper", "irrigator")
    phases = (
        *("preparation", "carlot-triangle-dissection", "clipping-and-cutting", "gallbladder-dissection"),
        *("gallbladder-packaging", "cleaning-and-coagulation", "gallbladder-extraction"),
    )
    categories = {
        kind: {str(number): name for number, name in enumerate(names)}
        for kind, names in (("instrument", instruments), ("phase", phases))
    }
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        name = f"VID{number:02}"
        (folder / "videos" / name).mkdir(parents=True, exist_ok=True)
        frames, phase, tools = _operation(number)
        rows = {}
        for second, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / "videos" / name / f"{second:06}.png")
            held = np.flatnonzero(tools[second, : len(instruments)]).tolist() or [-1]
            rows[str(second)] = [[-1, tool, 1, *([0] * 11), int(phase[second])] for tool in held]
        labels = {"categories": categories, "annotations": rows}
        (folder / "labels" / f"{name}.json").write_text(json.dumps(labels), encoding="utf-8")


def _operation(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames (SECONDS, 48, 64, 3) one per second, phases (SECONDS,) and tools (SECONDS, 7)."""
    random = np.random.default_rng(seed)
    phases = np.arange(SECONDS)
    tools = (random.random((SECONDS, len(CHOLEC80_TOOLS))) < 0.4).astype(int)
    frames = random.integers(40, 90, (SECONDS, 48, 64, 3)).astype(np.uint8)
    frames[..., 0] += (20 * phases).astype(np.uint8)[:, None, None]
    return frames, phases, tools


def write_ultrasound(folder: Path, patients: int = 6) -> None:
    """Clips of two classes in `videos/`, their list, and the files of the classes."""
    lines = []
    for number in range(patients):
        label = CLASSES[number % 2]
        path = folder / "videos" / f"pat{number}" / "clip.mp4"
        path.parent.mkdir(parents=True)
        write_video(path, frames_of(label, number))
        lines.append(f"pat{number}/clip.mp4,{number % 2}\n")
    (folder / "train.txt").write_text("".join(lines), encoding="utf-8")
    (folder / "data").mkdir()
    (folder / "data" / "data_class_mapping.json").write_text(json.dumps(CLASSES), encoding="utf-8")
    sentences = "".join(f"the band is {name}\n" for name in CLASSES)
    (folder / "data" / "data_classes.txt").write_text(sentences, encoding="utf-8")
