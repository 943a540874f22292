"""Calls of Snakemake and foldwise as people type them: a wrong input is one message, and starts nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from bad_inputs import NO_TEXT, contents
from experiments import EXPERIMENT, TINY, add_case, command
from warm import python

SHEET = "case,group,image,label\nc0,c0,c0.nii.gz,c0_label.nii.gz\nc1,c1,c1.nii.gz,c1_label.nii.gz\n"
GOOD = {**EXPERIMENT, "split": {"folds": 2, "validation": 0}}
# Name → files to write, further words, and what the message must say.
CALLS: dict[str, tuple[dict[str, bytes], tuple[str, ...], str]] = {
    "a key twice": (
        {"experiment.yaml": b"seed: 1\nseed: 2\n"},
        (),
        "line 2: the key `seed` is already on line 1",
    ),
    "Latin-1 in a note": ({"cases.csv": NO_TEXT["Latin-1"]}, (), "cases.csv: line 2: "),
    "Excel": ({"cases.csv": NO_TEXT["Excel"]}, (), "cases.csv: expected text, but this is an Excel workbook"),
    "UTF-16": ({"cases.csv": NO_TEXT["UTF-16"]}, (), "cases.csv: is text in UTF-16"),
    "an empty sheet": ({"cases.csv": b""}, (), "cases.csv: is empty"),
    "an open quote": ({"cases.csv": SHEET.replace("c1,c1", 'c1,"c1').encode()}, (), "cases.csv: line 3"),
    "results in a file": ({"full": b""}, ("--config", "results=full"), "full"),
    "new cases that are missing": ({}, ("--config", "predict=none"), "predict: none"),
    "a split file that is no JSON": (
        {"splits.json": b"{"},
        ("--config", "split={file: splits.json}"),
        "splits.json: not readable as JSON",
    ),
    "a network that does not exist": (
        {"experiment.yaml": yaml.safe_dump({**GOOD, "models": {"u": {**TINY, "network": "None"}}}).encode()},
        (),
        "models.u.network",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("how", ["snakemake", "foldwise"])
def test_a_call(name: str, how: str, tmp_path: Path) -> None:
    files, more, expected = CALLS[name]
    for number in range(2):
        add_case(tmp_path, number)
    words = command(tmp_path, GOOD, "--dry-run")
    for file, data in files.items():
        (tmp_path / file).write_bytes(data)
    if how == "foldwise":
        words = [python(), "-m", "foldwise", "run", "experiment.yaml", "--dry-run", "--cores", "1"]
    before = contents(tmp_path)
    done = subprocess.run([*words, *more], cwd=tmp_path, capture_output=True, encoding="utf-8")
    text = done.stdout + done.stderr
    assert done.returncode != 0, text
    assert expected in text
    assert "Traceback" not in text
    after = contents(tmp_path)
    assert {file: after.get(file) for file in before} == before
    assert [file for file in after if "logs/" in file and ".snakemake" not in file] == [], "a job ran"
