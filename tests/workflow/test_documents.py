"""The documents: links lead somewhere, every command exists, and the tutorial runs as it stands."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import typer.main
from snakemake.cli import parse_args

from experiments import ROOT
from foldwise.commands import app
from foldwise.files import write_json
from warm import python

DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        ROOT / "config" / "README.md",
        ROOT / "benchmarks" / "README.md",
    ]
)
# Programs of others, whose arguments are not ours to check.
OTHERS = {"apptainer", "cat", "cd", "git", "head", "pip", "python", "sbatch", "sed", "source", "tar"}
COMMAND = typer.main.get_command(app)


def blocks(text: str) -> Iterator[str]:
    """Bash code of a document."""
    yield from re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[list[str]]:
    """Words of each command of the document's code; texts of `cat <<` are left out."""
    for block in blocks(text):
        code = re.sub(r"<<'END'\n.*?^END$", "", block, flags=re.MULTILINE | re.DOTALL)
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line.replace("<this repository>", "repository"), comments=True)
            while words:
                end = words.index("&&") if "&&" in words else len(words)
                yield words[:end]
                words = words[end + 1 :]


CASES = [
    pytest.param(words, id=f"{path.relative_to(ROOT)}: {shlex.join(words)[:60]}")
    for path in DOCUMENTS
    for words in commands(path.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("words", CASES)
def test_a_command_exists_and_takes_these_words(words: list[str]) -> None:
    words = words[: words.index(">>")] if ">>" in words else words
    name, rest = words[0], words[1:]
    if name == "foldwise":
        command: Any = COMMAND
        while hasattr(command, "get_command") and not rest[0].startswith("-"):
            name, *rest = rest
            command = command.get_command(click.Context(command), name)
            assert command is not None, f"no command {name}"
        if rest not in (["--help"], ["--install-completion"]):
            made = command.make_context(name, list(rest))
            if name == "run":
                snakemake([*made.args, "--configfile", rest[0]])
    elif name == "snakemake":
        snakemake(rest)
    elif name == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets)
    elif name == "python" and rest[0] == "-m":
        assert importlib.util.find_spec(rest[1])
    else:
        assert name in OTHERS
        for word in rest:
            if re.match(r"(profiles|envs|experiments)/", word) and not word.endswith((".sif", "mine")):
                assert (ROOT / word).exists()


def snakemake(words: list[str]) -> None:
    parse_args(words)  # ends the program if a word is none of its own


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        if not re.match(r"https?://", link):
            assert (path.parent / link).exists(), link


def test_the_chinese_readme_has_the_same_code_and_links() -> None:
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md"))

    def code(text: str) -> list[str]:
        return [line.partition("#")[0].strip() for block in blocks(text) for line in block.splitlines()]

    def links(text: str) -> set[str]:
        return set(re.findall(r"\]\(([^)]+)\)", text)) - {"README.md", "README.zh.md"}

    assert code(english) == code(chinese)
    assert links(english) == links(chinese)


def write_task(folder: Path) -> None:
    """Six tiny volumes with two classes, and one without a label, packed as the Decathlon's tasks are."""
    task, random = folder / "Task04_Hippocampus", np.random.default_rng(0)
    names = [f"hippocampus_{number:03}.nii.gz" for number in range(7)]
    for name in names:
        labels = np.zeros((18, 22, 16), np.uint8)
        low = random.integers(1, 5, 3)
        labels[tuple(slice(n, n + 8) for n in low)] = 1
        labels[low[0] : low[0] + 8, low[1] + 8 : low[1] + 14, low[2] : low[2] + 8] = 2
        image = (50 * labels + random.normal(100, 5, labels.shape)).astype(np.float32)
        for kind, data in (("images", image), ("labels", labels)):
            part = "Ts" if name in names[6:] else "Tr"
            (task / f"{kind}{part}").mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(data, np.eye(4)), task / f"{kind}{part}" / name)
    for path in (task / "labelsTs").iterdir():
        path.unlink()
    (task / "labelsTs").rmdir()
    pairs = [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names[:6]]
    about = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "Anterior", "2": "Posterior"}}
    tests = [f"./imagesTs/{name}" for name in names[6:]]
    write_json(task / "dataset.json", {**about, "training": pairs, "test": tests})
    with tarfile.open(folder / "Task04_Hippocampus.tar", "w") as archive:
        archive.add(task, "Task04_Hippocampus")


@pytest.mark.slow
def test_the_tutorial_runs_as_it_stands(tmp_path: Path) -> None:
    """On tiny volumes, with a shorter training."""
    write_task(tmp_path)
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    short = "epochs: 6, steps_per_epoch: 50, validate_every: 3"
    assert short in text
    text = text.replace(short, "epochs: 6, steps_per_epoch: 1, validate_every: 3, validation: {samples: 1}")
    # Commands and jobs need not import everything again.
    warm, bin_ = Path(python()), tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "foldwise").write_text(f'#!/bin/sh\nexec {shlex.quote(str(warm))} -m foldwise "$@"\n')
    (bin_ / "foldwise").chmod(0o755)
    outputs = []
    for block in blocks(text):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=tmp_path,
            env={
                **os.environ,
                "PATH": os.pathsep.join([str(bin_), str(warm.parent), os.environ["PATH"]]),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        # The doctor of a test machine may find what is wrong with it.
        assert done.returncode == 0 or "foldwise doctor" in block, (block, done.stdout[-4000:])
        outputs.append(done.stdout)
    assert (tmp_path / "results" / "hippocampus" / "report.html").exists()
    longer, back = outputs[-5:-3] if "runner.py" in outputs[-1] else outputs[5:7]
    assert re.search(r"^train +2$", longer, re.MULTILINE)
    assert not re.search(r"^(crop|cache|index) +\d+$", longer, re.MULTILINE)
    assert "Nothing to be done" in back
    table = pd.read_csv(tmp_path / "predicted" / "measurements.csv")
    assert sorted(set(table["class"])) == ["Anterior", "Posterior"]
    masks = sorted(path.name for path in (tmp_path / "predicted").glob("*.nii.gz"))
    assert masks == ["hippocampus_006.nii.gz"]
    for name in masks:
        ours, theirs = (nib.load(tmp_path / folder / name) for folder in ("predicted", "predicted_onnx"))
        np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
        np.testing.assert_allclose(ours.affine, theirs.affine)
