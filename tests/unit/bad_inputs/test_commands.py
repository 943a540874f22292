"""What people type, with words and files that cannot be used: one message each, and nothing is lost."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from bad_inputs import NO_TEXT, refused
from foldwise import cluster
from foldwise.commands import app
from foldwise.systems.interactive import model as interactive_model
from foldwise.volumes.targets import Targets
from foldwise.volumes.volume import Volume, write_volume
from interactive_scans import settings as interactive_settings
from interactive_scans import write_ball, write_model
from synthetic import task
from untrained import write_untrained

EXPERIMENT = "experiment: x\ndata: {sheet: cases.csv, labels: {ball: 1}}\nmodels: {u: {}}\n"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files that commands can use, and spoilt ones."""
    folder = tmp_path_factory.mktemp("good")
    mask = write_ball(folder / "scan.nii.gz")
    write_volume(Volume(mask.astype(np.uint8), np.eye(4)), folder / "elsewhere.nii.gz")
    write_model(folder / "model.pt")
    write_untrained(folder / "other.pt", task(Targets({"ball": 1})))
    (folder / "points.csv").write_text("x,y,z,kind\n15,14,8,inside\n")
    (folder / "e.yaml").write_text(EXPERIMENT)
    with zipfile.ZipFile(folder / "empty.foldwise", "w"):
        pass
    with zipfile.ZipFile(folder / "list.foldwise", "w") as file:
        file.writestr("model.json", "[1]")
    (folder / "noise").write_bytes(NO_TEXT["noise"])
    for name in ("noise.pt", "noise.foldwise", "noise.nii.gz"):
        (folder / name).write_bytes(NO_TEXT["noise"])
    for name in ("scan.nii.gz", "model.pt"):
        data = (folder / name).read_bytes()
        (folder / f"half-{name}").write_bytes(data[: len(data) // 2])
    return folder


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return interactive_model.build_network(interactive_settings(), 1)


@pytest.fixture
def folder(tmp_path: Path, good: Path, network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> Path:
    for path in good.iterdir():
        os.link(path, tmp_path / path.name)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "dangling").symlink_to("none")
    monkeypatch.chdir(tmp_path)
    # Building it takes a second; its weights are loaded each time.
    monkeypatch.setattr(interactive_model, "build_network", lambda *given: network)
    return tmp_path


SCAN, MODEL, SESSION = "scan.nii.gz", "--model model.pt", "--session s"
POINTS = "--points points.csv"
# The words, and what the message must say.
WORDS: list[tuple[str, str]] = [
    ("annotat", "No such command 'annotat'"),
    ("annotate", "Missing argument"),
    (f"annotate none.nii.gz {MODEL} {SESSION} {POINTS}", "none.nii.gz"),
    (f"annotate nothing {MODEL} {SESSION} {POINTS}", "nothing"),
    (f"annotate dangling {MODEL} {SESSION} {POINTS}", "dangling"),
    (f"annotate noise.nii.gz {MODEL} {SESSION} {POINTS}", "noise.nii.gz"),
    (f"annotate half-scan.nii.gz {MODEL} {SESSION} {POINTS}", "half-scan.nii.gz"),
    (f"annotate e.yaml {MODEL} {SESSION} {POINTS}", "e.yaml"),
    (f"annotate {SCAN} {SCAN} {MODEL} {SESSION} {POINTS}", "channel"),
    (f"annotate {SCAN} --model none.pt {SESSION} {POINTS}", "none.pt"),
    (f"annotate {SCAN} --model noise.pt {SESSION} {POINTS}", "noise.pt"),
    (f"annotate {SCAN} --model half-model.pt {SESSION} {POINTS}", "half-model.pt"),
    (f"annotate {SCAN} --model other.pt {SESSION} {POINTS}", "other.pt"),
    (f"annotate {SCAN} --model nothing {SESSION} {POINTS}", "nothing"),
    (f"annotate {SCAN} --model e.yaml {SESSION} {POINTS}", "e.yaml"),
    (f"annotate {SCAN} --model noise.foldwise {SESSION} {POINTS}", "noise.foldwise"),
    (f"annotate {SCAN} {MODEL} --session e.yaml {POINTS}", "e.yaml"),
    (f"annotate {SCAN} {MODEL} --session e.yaml/s {POINTS}", "e.yaml"),
    (f"annotate {SCAN} {MODEL} --session dangling {POINTS}", "dangling"),
    (f"annotate {SCAN} {MODEL} --session {'s' * 300} {POINTS}", "too long"),
    (f"annotate {SCAN} {MODEL} {SESSION} --serve --undo", "--undo: is not for --serve"),
    (f"annotate {SCAN} {SESSION} {POINTS} --engine memory", "give --model"),
    (f"annotate {SCAN} {SESSION} {POINTS} --engine magic", "magic"),
    (f"annotate {SCAN} {SESSION} {POINTS} --axis w", "--axis w"),
    (f"annotate {SCAN} {SESSION} {POINTS} --objects a,a", "one of this name already"),
    (f"annotate {SCAN} {SESSION} --start none.nii.gz --mask out.nii.gz", "none.nii.gz"),
    (f"annotate {SCAN} {SESSION} --start noise.nii.gz --mask out.nii.gz", "noise.nii.gz"),
    (f"annotate {SCAN} {SESSION} {POINTS} --format png", "png"),
    (f"annotate {SCAN} {SESSION} {POINTS} --resample", "--resample: is for --start alone"),
    (f"annotate {SCAN} {SESSION} --automatic false{{scan}} --propose", "must contain"),
    (f"annotate {SCAN} {MODEL} {SESSION} --points none.csv", "none.csv"),
    (f"annotate {SCAN} {MODEL} {SESSION} --points nothing", "nothing"),
    (f"annotate {SCAN} {MODEL} {SESSION} --scribble none.nii.gz", "none.nii.gz"),
    (f"annotate {SCAN} {MODEL} {SESSION} --scribble noise.nii.gz", "noise.nii.gz"),
    (f"annotate {SCAN} {MODEL} {SESSION} --scribble elsewhere.nii.gz", "elsewhere.nii.gz"),
    (f"annotate {SCAN} {MODEL} {SESSION} --scribble points.csv", "points.csv"),
    (f"annotate {SCAN} {MODEL} {SESSION} --box 1 1 1 5 5", "--box"),
    (f"annotate {SCAN} {MODEL} {SESSION} --box 1 1 1 5 5 x", "--box"),
    (f"annotate {SCAN} {MODEL} {SESSION} --box 1 1 1 5 5 9", "box"),
    (f"annotate {SCAN} {MODEL} {SESSION} --box 1 1 99 5 5 99", "(1, 1, 99) is outside"),
    (f"annotate {SCAN} {MODEL} {SESSION} --box nan 1 8 5 5 8", "the box: its coordinates"),
    (f"annotate {SCAN} {MODEL} {SESSION} --box 1 1 inf 5 5 inf", "the box: its coordinates"),
    (f"annotate {SCAN} {MODEL} {SESSION} --box 1 1 8 5 5 8 --object liver", "liver"),
    (f"annotate {SCAN} {MODEL} {SESSION} --nothing 99", "99"),
    (f"annotate {SCAN} {MODEL} {SESSION} --nothing -1", "-1"),
    (f"annotate {SCAN} {MODEL} {SESSION} --undo", "undo"),
    (f"annotate {SCAN} {MODEL} {SESSION} {POINTS} --region none.nii.gz", "region"),
    (f"annotate {SCAN} {MODEL} {SESSION} {POINTS} --mask scan.nii.gz", "scan.nii.gz"),
    (f"annotate {SCAN} {MODEL} {SESSION} {POINTS} --mask nothing", "nothing"),
    (f"annotate {SCAN} {MODEL} {SESSION} {POINTS} --mask mask.txt", "mask.txt"),
    (f"annotate {SCAN} {MODEL} {SESSION} {POINTS} --quality points.csv", "points.csv"),
    (f"annotate {SCAN} {MODEL} {SESSION} {POINTS} --quality e.yaml", "e.yaml"),
    ("status none.yaml", "none.yaml: no such file"),
    ("status nothing", "nothing: is a folder"),
    ("status dangling", "dangling: no such file"),
    ("status", "config.yaml: no such file"),
    ("status e.yaml", "cases.csv: no such sample sheet"),
    ("status points.csv", "points.csv: expected settings"),
    ("status e.yaml --every x", "--every"),
    ("run none.yaml -n", "none.yaml: no such file"),
    ("run nothing -n", "nothing: is a folder"),
    ("run noise -n", "noise"),
    ("run points.csv -n", "points.csv: expected settings"),
    ("run", "Missing argument"),
    ("run -n e.yaml", "-n: the experiment comes before Snakemake's options"),
    ("run --profile slurm e.yaml", "--profile: the experiment comes before"),
    ("predict", "Missing argument"),
    ("predict none.pt scan.nii.gz out", "none.pt"),
    ("predict noise.pt nothing out", "noise.pt"),
    ("predict half-model.pt nothing out", "half-model.pt"),
    ("predict noise.foldwise nothing out", "noise.foldwise"),
    ("predict empty.foldwise nothing out", "empty.foldwise"),
    ("predict list.foldwise nothing out", "list.foldwise"),
    ("predict nothing nothing out", "nothing"),
    ("predict other.pt none out", "none: no such file or folder"),
    ("predict other.pt dangling out", "dangling: no such file or folder"),
    ("predict other.pt nothing out", "nothing"),
    ("predict other.pt e.yaml out", "e.yaml"),
    ("predict other.pt noise out", "noise"),
    ("predict other.pt scan.nii.gz out --export [", "--export"),
    ("predict other.pt nothing out --export {probabilites:true}", "--export"),
    ("export none model.foldwise", "none"),
    ("export nothing model.foldwise", "nothing"),
    ("export nothing model.zip", "model.zip"),
    ("export e.yaml model.foldwise", "e.yaml"),
    ("export none.yaml Dataset001_X --nnunet", "none.yaml: no such file"),
    ("export nothing Dataset001_X --nnunet", "nothing: is a folder"),
    ("export noise.pt Dataset001_X --nnunet", "noise.pt"),
    ("export e.yaml Dataset001_X --nnunet --fold 0", "--fold: is for models"),
    ("export none onnx --onnx", "none: no such model"),
    ("export noise.pt bundle --bundle", "noise.pt"),
    ("export nothing x --onnx --bundle", "give one of them"),
    ("export nothing x.foldwise --channel T1", "--channel: is for --nnunet alone"),
    ("run e.yaml --configfile other.yaml", "--configfile: `foldwise run` gives it itself"),
    ("import", "Commands"),
    ("import nrrd x --sheet s.csv", "No such command 'nrrd'"),
    *((f"import {name} none --sheet s.csv", "none: no such file") for name in ("brats", "bids", "dicom")),
    *(
        (f"import {name} nothing --sheet s.csv", "nothing")
        for name in ("brats", "bids", "dicom", "decathlon")
    ),
    *((f"import {name} nothing --sheet s.csv", "nothing") for name in ("cholec80", "cholect50")),
    *((f"import {name} e.yaml --sheet s.csv", "e.yaml") for name in ("brats", "bids", "dicom", "decathlon")),
    *(
        (f"import {name} e.yaml --sheet s.csv", "e.yaml")
        for name in ("cholec80", "cholect50", "unet3d-config")
    ),
    ("import brats nothing --sheet s.xlsx", "s.xlsx: the name of a sheet must end in .csv or .tsv"),
    ("import brats nothing --sheet s.csv --config scan.nii.gz", "scan.nii.gz: exists already"),
    ("predict other.pt scan.nii.gz out --export [1]", "--export"),
    ("predict other.pt scan.nii.gz out --export null", "--export"),
    ("import brats nothing --enhancing 5", "--enhancing"),
    ("import dicom nothing --sheet s.csv --thickness thin", "--thickness 'thin'"),
    ("import dicom nothing --sheet s.csv --structures lung", "--structures"),
    ("import bids nothing --sheet s.csv --images T1w/FLAIR", "--images"),
]
# Text of a file of points, and what the message must say.
PLACES: dict[str, tuple[str, str]] = {
    "no header": ("15,14,8\n", "no column"),
    "no z": ("x,y,kind\n1,1,inside\n", "no column `z`"),
    "a column twice": ("x,x,y,z\n1,1,1,1\n", "appears twice: 'x'"),
    "only a header": ("x,y,z,kind\n", "contains no points"),
    "ragged": ("x,y,z,kind\n1,1\n", "line 2: 2 cells"),
    "a word": ("x,y,z\n1,one,1\n", "line 2: x, y and z must be numbers"),
    "nothing": ("x,y,z\n1,,1\n", "line 2: x, y and z must be numbers"),
    "not a number": ("x,y,z\nnan,1,1\n", "line 2"),
    "infinite": ("x,y,z\n1,1,inf\n", "line 2"),
    "decimal commas": ("x;y;z\n1,5;1;8\n", "line 2: x, y and z must be numbers"),
    "an unknown kind": ("x,y,z,kind\n1,1,8,insde\n", "line 2: kind 'insde'"),
    "an unknown object": ("x,y,z,object\n1,1,8,liver\n", "line 2: object 'liver'"),
    "outside of the scan": ("x,y,z\n1,1,99\n", "99"),
    "far outside of a slice": ("x,y,z\n1,999,8\n", "999"),
    "one corner of a box": ("x,y,z,kind\n1,1,8,box\n", "box"),
    "an open quote": ('x,y,z,kind\n1,1,8,"inside\n2,2,8,inside\n', "line 2: not readable as a table"),
}


@pytest.mark.parametrize(("words", "expected"), WORDS, ids=[words for words, _ in WORDS])
def test_words(words: str, expected: str, folder: Path) -> None:
    assert expected in refused(app, folder, *words.split())


@pytest.mark.parametrize("name", [*PLACES, *NO_TEXT])
def test_points(name: str, folder: Path) -> None:
    text, expected = PLACES.get(name, (None, "p.csv"))
    (folder / "p.csv").write_bytes(NO_TEXT[name] if text is None else text.encode())
    words = f"annotate {SCAN} {MODEL} {SESSION} --points p.csv"
    assert expected in refused(app, folder, *words.split())


@pytest.mark.parametrize("name", NO_TEXT)
@pytest.mark.parametrize("command", ["status", "run"])
def test_settings(command: str, name: str, folder: Path) -> None:
    (folder / "bad.yaml").write_bytes(NO_TEXT[name])
    assert "bad.yaml" in refused(app, folder, command, "bad.yaml")


def test_no_cluster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    assert "is this a login node" in refused(cluster.main, folder, "profile")
