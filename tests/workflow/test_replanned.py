"""What the next call plans after an edit of a source or of the sheet, for each kind of source."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dicom_files import Grid, write_series
from experiments import EXPERIMENT, add_case, planned, snakemake
from foldwise.files import read_json
from foldwise.hdf5 import open_hdf5
from foldwise.index import Index
from foldwise.systems.clips.cache import label_of
from foldwise.volumes.volume import Volume, read_volume, write_volume
from surgical_data import FPS, operation, settings_of, write_operations
from synthetic import scan
from ultrasound import settings_of as clips_of
from ultrasound import write_clips

PREPARED = ("prepared", "results/tiny/index.pkl")


def overwritten(path: Path, content: bytes) -> None:
    """Other content in place, with an older time; the time of a folder that holds the file stays, too."""
    seconds = path.stat().st_mtime - 1000
    folder = path.parent.stat()
    path.write_bytes(content)
    os.utime(path, (seconds, seconds))
    assert path.parent.stat().st_mtime_ns == folder.st_mtime_ns


def last_bit_flipped(path: Path) -> bytes:
    content = path.read_bytes()
    return content[:-1] + bytes([content[-1] ^ 1])


class Kept:
    """Puts a file back, with its time."""

    def __init__(self, path: Path) -> None:
        self._path, self._content, self._facts = path, path.read_bytes(), path.stat()

    def __enter__(self) -> Path:
        return self._path

    def __exit__(self, *_: object) -> None:
        self._path.write_bytes(self._content)
        os.utime(self._path, ns=(self._facts.st_atime_ns, self._facts.st_mtime_ns))


def jobs_of(folder: Path, experiment: dict[str, Any], case: str, *targets: str) -> dict[str, int]:
    """Planned jobs, of which those for single cases are all for one case."""
    text = snakemake(folder, experiment, "--dry-run", *targets)
    cases = {line.split("case=")[1].split(",")[0] for line in text.splitlines() if "wildcards: case=" in line}
    assert cases == {case}
    return planned(folder, experiment, *targets)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on volumes; the case without a label is a DICOM series."""
    folder = tmp_path_factory.mktemp("scans")
    for number in range(4):
        add_case(folder, number)
    write_series(folder / "series", Grid())
    with (folder / "cases.csv").open("a") as sheet:
        sheet.write("d,d,series,,\n")
    snakemake(folder, EXPERIMENT)
    return folder


@pytest.mark.slow
class TestScans:
    def test_an_older_label(self, scans: Path) -> None:
        with Kept(scans / "c1_label.nii.gz") as label:
            overwritten(label, (scans / "c2_label.nii.gz").read_bytes())
            assert jobs_of(scans, EXPERIMENT, "c1") == {
                **{"check": 1, "crop": 1, "cache": 1, "index": 1, "train": 2, "test": 4, "ensemble": 1},
                **{"score": 5, "metrics": 3, "export": 3, "choose": 1, "report": 1},
            }
        assert planned(scans, EXPERIMENT) == {}

    def test_a_slice_of_a_series(self, scans: Path) -> None:
        with Kept(scans / "series" / "IM900") as image:
            overwritten(image, last_bit_flipped(image))
            assert jobs_of(scans, EXPERIMENT, "d") == {
                **{"check": 1, "crop": 1, "cache": 1, "ensemble": 1},
                **{"score": 1, "metrics": 1, "export": 1, "report": 1},
            }
        assert planned(scans, EXPERIMENT) == {}

    def test_a_new_scan(self, scans: Path) -> None:
        """Its mask is that of the scan that is there now."""
        new, experiment = scans / "new", {**EXPERIMENT, "predict": {"source": "new"}}
        new.mkdir()
        affine = np.diag([-2.0, 2.0, 3.0, 1.0])
        for path, shape in ((new / "p.nii.gz", (24, 22, 20)), (scans / "b.nii.gz", (20, 23, 21))):
            write_volume(Volume(scan(9, shape)[0], affine), path)
        snakemake(scans, experiment, "predict")
        assert planned(scans, experiment, "predict") == {}
        overwritten(new / "p.nii.gz", (scans / "b.nii.gz").read_bytes())
        jobs = {"predict": 1, "predict_part": 1, "publish": 1}
        assert planned(scans, experiment, "predict") == jobs
        snakemake(scans, experiment, "predict")
        (scans / "other").mkdir()
        (scans / "other" / "p.nii.gz").symlink_to(scans / "b.nii.gz")
        snakemake(scans, {**EXPERIMENT, "predict": {"source": "other"}}, "predict")
        for name in ("p.nii.gz", "p_ball_probability.nii.gz"):
            found, expected = (
                read_volume(path)
                for source in ("new", "other")
                for path in scans.glob(f"results/tiny/unet/predicted-{source}-*/{name}")
            )
            assert found.data.shape == (20, 23, 21)
            assert np.array_equal(found.data, expected.data)


def test_frames_of_a_folder(tmp_path: Path) -> None:
    sheet = write_operations(tmp_path, 4, seconds=6)
    (tmp_path / "op1-frames").mkdir()
    for number, frame in enumerate(operation(1, 6)[0]):
        Image.fromarray(frame).save(tmp_path / "op1-frames" / f"{number:03}.png")
    sheet.write_text(sheet.read_text().replace("op1.mp4", "op1-frames"))
    experiment = settings_of(sheet)
    experiment["data"]["images_fps"] = FPS
    snakemake(tmp_path, experiment, *PREPARED)
    assert planned(tmp_path, experiment, *PREPARED) == {}
    frames = sorted((tmp_path / "op1-frames").iterdir())
    overwritten(frames[5], frames[-1].read_bytes())
    assert jobs_of(tmp_path, experiment, "op1", *PREPARED) == {"frames": 1, "index": 1, "prepared": 1}


@pytest.fixture
def clips(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """Clips with boxes; the second one's region is given by a folder of masks."""
    sheet = write_clips(tmp_path, cases=4)
    (tmp_path / "masks").mkdir()
    for number in (0, 4):
        mask = np.zeros((48, 64), np.uint8)
        mask[10:30, 20 + number : 50] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    lines = sheet.read_text().splitlines()
    more = ["box,mask", "4 4 40 40,", ",masks", "4 4 40 40,", "4 4 40 40,"]
    sheet.write_text("".join(f"{line},{each}\n" for line, each in zip(lines, more, strict=True)))
    return tmp_path, clips_of(sheet, prepare={"regions": {"method": "threshold"}})


def test_masks_of_a_folder(clips: tuple[Path, dict[str, Any]]) -> None:
    folder, experiment = clips
    snakemake(folder, experiment, *PREPARED)
    assert planned(folder, experiment, *PREPARED) == {}
    masks = sorted((folder / "masks").iterdir())
    overwritten(masks[1], masks[0].read_bytes())
    assert jobs_of(folder, experiment, "k1_0", *PREPARED) == {"roi": 1, "prepared": 1}


def test_a_row_of_a_case_that_was_prepared_in_a_part(clips: tuple[Path, dict[str, Any]]) -> None:
    folder, experiment = clips
    target = ("results/tiny/index.pkl", "--set-scatter", "prepare=2")
    snakemake(folder, experiment, *target)
    assert planned(folder, experiment, *target) == {}

    def found() -> dict[str, tuple[int, str]]:
        paths = sorted((folder / "results").glob("data/*/cache-*/*.h5"))
        return {path.stem: (path.stat().st_mtime_ns, read(path, label_of)) for path in paths}

    sheet = folder / "clips.csv"
    before = found()
    assert before["k0_0"][1] == "high"
    text = sheet.read_text()
    sheet.write_text(text.replace("k0_0.mp4,high,4 4 40 40", "k0_0.mp4,low,8 8 44 44"))
    assert planned(folder, experiment, *target) == {"prepare_part": 1, "index": 1}
    said = snakemake(folder, experiment, *target)
    assert said.count("Finished jobid") == 2
    after = found()
    assert after["k0_0"][1] == "low"
    assert {case for case in after if after[case] != before[case]} == {"k0_0"}
    [facts] = (folder / "results").glob("data/*/regions-*/k0_0.json")
    # The video is 48 pixels high, the cached frames are 32.
    assert read_json(facts)["box"][1::2] == [5, 29]
    index = Index.read(folder / "results" / "tiny" / "index.pkl")
    assert index["k0_0"].classes == ("low",)
    assert planned(folder, experiment, *target) == {}


def read(path: Path, value: Callable[[Any], str]) -> str:
    with open_hdf5(path) as file:
        return value(file)
