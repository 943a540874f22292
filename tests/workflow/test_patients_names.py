"""From DICOM to the report and a prediction, no file names a patient but those that are made for it."""

from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

import numpy as np
import pydicom

from dicom_files import Grid, write_rtstruct, write_series
from experiments import EXPERIMENT, snakemake
from synthetic import scan
from warm import python

# Name, ID and date of birth: in the headers, and in the names of the folders they came in.
KNOWN = ("winterbottom", "griselda", "mrn-77", "19491103")
GRID = Grid(shape=(24, 22, 20), spacing=(2, 2, 3))


def admit(folder: Path, number: int, label: bool) -> None:
    def edit(z: int, one: pydicom.Dataset) -> None:
        one.PatientBirthDate = "19491103"

    image, ball = scan(number, GRID.shape)
    images = write_series(
        folder / "ct", GRID, f"MRN-77{number}", "Winterbottom^Griselda", stored=image, edit=edit
    )
    if label:
        inner = np.argwhere(ball)
        (x0, y0, z0), (x1, y1, z1) = inner.min(0) - 0.5, inner.max(0) + 0.5
        corners = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
        drawn = [
            ("CLOSED_PLANAR", GRID.mm(np.array([[x, y, z] for x, y in corners])))
            for z in range(round(z0 + 0.5), round(z1 + 0.5))
        ]
        write_rtstruct(folder / "rs.dcm", images, {"GTV": drawn})


def texts(folder: Path) -> dict[Path, bytes]:
    """The name and content of every file and link, in lower case; the targets of links are left out."""
    found = {}
    for path in folder.rglob("*"):
        text = str(path.relative_to(folder)).encode()
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            text += gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        found[path] = text.lower()
    return found


def test_no_file_names_a_patient(tmp_path: Path) -> None:
    work, archive = tmp_path / "work", tmp_path / "Winterbottom Griselda 19491103"
    work.mkdir()
    for number in range(5):
        admit(archive / f"MRN-77{number}", number, label=number < 4)
    command = [
        "-m",
        "foldwise.importers.dicom",
        str(archive),
        "--sheet",
        "lung.csv",
        "--structures",
        "GTV=ball",
    ]
    done = subprocess.run([python(), *command], cwd=work, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    experiment = {**EXPERIMENT, "data": {"sheet": "lung.csv", "labels": {"ball": 1}}}
    printed = snakemake(work, experiment)
    printed += snakemake(work, experiment, "predict", "--config", "predict=lung.csv")
    table = work / "lung.patients.csv"
    written = texts(work)
    assert all(known.encode() in written[table] for known in KNOWN)
    named = {
        str(path.relative_to(work)): known
        for path, text in written.items()
        for known in KNOWN
        if known.encode() in text and path != table
    }
    assert named == {}
    assert not any(known in printed.lower() for known in KNOWN)
    assert (work / "results/tiny/report.html").exists()
    assert len(list(work.glob("results/tiny/unet/predicted-*/*.nii.gz"))) == 10  # masks and probabilities
    # The links lead to the originals.
    links = [path for path in work.rglob("*.dcm") if path.is_symlink()]
    assert len(links) == 100
    assert all(link.readlink().is_relative_to(archive) for link in links)
