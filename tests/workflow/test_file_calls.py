"""How often a call looks at files, which users of network file systems wait for, counted by strace."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import yaml

from every_system import clips, interactive, segmentation, surgical
from experiments import ROOT, add_case
from file_calls import Call, available, calls_of
from many_cases import Scans
from warm import python

# Continuous integration installs strace, and fails if a test is skipped.
pytestmark = pytest.mark.skipif(not available(), reason="strace is not installed, or may not trace here")
PATH = {"PYTHONPATH": str(ROOT / "workflow"), "OMP_NUM_THREADS": "1"}
# Calls per case of a dry run, with two source files and two outputs per case, nothing or everything made.
# Foldwise's share is one per file and three per folder; Snakemake's, two per file and three per folder.
MOST = {"planned": 9, "made": 18}
# What the Snakefile does before any rule, but for trying networks.
FRONT_DOOR = """
import json, sys
from pathlib import Path
from foldwise.experiment.open import open_experiment
from foldwise.experiment.stale import judge, settle
from foldwise.looks import looking_once

with looking_once():
    opened = open_experiment(json.loads(sys.argv[1]), main=True)
    opened.new_cases
    settle(judge(opened, opened.memory), Path(opened.paths.stale))
    opened.memory.save()
"""


def dry_run(scans: Scans) -> list[Call]:
    """The second one: the first reads headers, and tries the network."""
    words = ["-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--dry-run", "--cores", "1"]
    words += ["--configfile", "experiment.yaml"]
    subprocess.run([python(), *words], cwd=scans.folder, check=True, capture_output=True)
    # Without the working folder in Python's path, as `snakemake` runs.
    return calls_of([sys.executable, "-P", *words], scans.folder, PATH)


@pytest.mark.slow
@pytest.mark.parametrize("made", [False, True])
def test_each_file_is_looked_at_once(made: bool, tmp_path: Path) -> None:
    counts = {}
    for cases in (20, 60):
        scans = Scans(tmp_path / str(cases), cases)
        if made:
            scans.make()
        calls = [call for call in dry_run(scans) if call.inner]
        assert ("Nothing to be done" in (scans.folder / "output").read_text()) == made
        opened = [call.path for call in calls if call.path.startswith("data/") and call.name == "openat"]
        assert not opened
        counts[cases] = len(calls)
        # What is looked at most often, for the message.
        often = Counter(call.path for call in calls).most_common(12)
    assert (counts[60] - counts[20]) / 40 <= MOST["made" if made else "planned"], (counts, often)


def slicer(folder: Path) -> dict[str, Any]:
    """The same scans, with labels as segmentations of 3D Slicer, weights and new cases."""
    settings = segmentation(folder)
    for path in folder.glob("*_label.nii.gz"):
        label = sitk.ReadImage(str(path))
        for key, value in {"ID": "Segment_1", "Name": "ball", "LabelValue": "5", "Layer": "0"}.items():
            label.SetMetaData(f"Segment0_{key}", value)
        sitk.WriteImage(label, str(path.with_name(path.name.replace(".nii.gz", ".seg.nrrd"))), True)
        path.unlink()
    sheet = folder / "cases.csv"
    sheet.write_text(sheet.read_text().replace("_label.nii.gz", "_label.seg.nrrd"))
    (folder / "new").mkdir()
    add_case(folder / "new", 9, label=False)
    return {**settings, "predict": {"source": "new/cases.csv"}}


def metaimage(folder: Path) -> dict[str, Any]:
    """The same scans as MetaImages, the voxels in a file of their own."""
    settings = segmentation(folder)
    for path in folder.glob("c*.nii.gz"):
        sitk.WriteImage(sitk.ReadImage(str(path)), str(folder / path.name.replace(".nii.gz", ".mhd")))
        path.unlink()
    sheet = folder / "cases.csv"
    sheet.write_text(sheet.read_text().replace(".nii.gz", ".mhd"))
    return settings


def masked_clips(folder: Path) -> dict[str, Any]:
    """Clips with a mask each."""
    settings = clips(folder)
    sheet = folder / settings["data"]["sheet"]
    header, *rows = sheet.read_text(encoding="utf-8").splitlines()
    assert "mask" not in header
    mask = sitk.GetImageFromArray(np.ones((48, 64), np.uint8))
    for number in range(len(rows)):
        sitk.WriteImage(mask, str(folder / f"mask{number}.png"))
    rows = [f"{row},mask{number}.png" for number, row in enumerate(rows)]
    sheet.write_text("\n".join([f"{header},mask", *rows]) + "\n", encoding="utf-8")
    return settings


@pytest.mark.parametrize("data", [segmentation, interactive, surgical, masked_clips, slicer, metaimage])
def test_a_second_call_opens_no_source(data: Callable[[Path], dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    settings = yaml.safe_load(yaml.safe_dump(data(folder)))
    sources = {path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".csv"}
    command = [sys.executable, "-c", FRONT_DOOR, json.dumps(settings)]
    opened = []
    for _ in range(2):
        calls = calls_of(command, folder, PATH)
        opened.append({Path(call.path).name for call in calls if call.name == "openat"} & sources)
    assert opened[0]
    assert not opened[1]
