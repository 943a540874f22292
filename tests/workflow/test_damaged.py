"""Stored files that are damaged: a stage that reads one refuses it by name, and leaves all others alone."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bad_inputs import called
from experiments import EXPERIMENT, add_case, snakemake
from foldwise.command import Stage
from foldwise.experiment.configs import read_configs
from foldwise.front_door import front_door
from foldwise.volumes.volume import Volume, write_volume
from synthetic import scan

SETTINGS = {**EXPERIMENT, "split": {"folds": 2, "validation": 0}, "predict": "new"}
# What an interrupted copy, a full disk or an edit by mistake leaves of a file; None: nothing.
DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda data: None,
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "noise": lambda data: bytes(range(256)) * 9,
}
# Stage → files that it cannot do without.
READ = {
    "crop": ["c?.nii.gz", "c?_label.nii.gz"],
    "cache": ["crop.json", "crop-*/*/label.nii.gz"],
    "train": ["index.pkl"],
    "test": ["index.pkl", "unet/fold?/model.pt"],
    "ensemble": ["fold0/model.pt", "fold1/model.pt", "c4/crop.json", "cache-*/c4.h5"],
    "score": ["index.pkl", "fold?/predictions/c?.h5"],
    "choose": ["fold0/scores/*/rows.json", "fold1/scores/*/rows.json"],
    "metrics": ["index.pkl", "fold?/scores/*/rows.json"],
    "export": ["index.pkl", "fold?/choice.json", "fold?/predictions/c?.h5"],
    "report": ["check.json", "unet/fold0/provenance.json", "unet/fold0/choice.json"],
    "predict": ["fold0/model.pt", "fold1/model.pt"],
    "publish": ["choice.json", "predictions-*/part0of1.json", "part0of1.pkl", "part0of1/n.h5"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with four labelled cases, one without a label, and a new one."""
    folder = tmp_path_factory.mktemp("run")
    for number in range(4):
        add_case(folder, number)
    add_case(folder, 4, label=False)
    write_volume(Volume(scan(9, (24, 22, 20))[0], np.eye(4)), folder / "new" / "n.nii.gz")
    snakemake(folder, SETTINGS, "all", "predict")
    return folder


def commands(run: Path) -> dict[str, list[str]]:
    """Stage → the words of one of its jobs, that of the first fold if it has one."""
    text = snakemake(run, SETTINGS, "all", "predict", "--dry-run", "--forceall", "--printshellcmds")
    found: dict[str, list[str]] = {}
    jobs = re.findall(r"python -m foldwise\.stages\.(\w+) (.*?) (?:2>&1|> )", text)
    for stage, words in sorted(jobs, key=lambda job: ("fold0/" not in job[1], job[1])):
        found.setdefault(stage, shlex.split(words))
    return found


def files_of(folder: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".snakemake" not in path.parts
    }


@pytest.mark.slow
def test_stages_refuse_damaged_files(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    good, words = files_of(run), commands(run)
    faults, count = [], 0
    for name, patterns in READ.items():
        module = importlib.import_module(f"foldwise.stages.{name}")
        stage = next(one for one in vars(module).values() if isinstance(one, Stage))
        for pattern in patterns:
            # Of several, the one that the request names; of those of cases, the first.
            named = [path for path in sorted(good) if path.match(pattern)]
            file = next(path for path in named if any(is_in(path, word) for word in words[name]))
            for kind, damage in DAMAGE.items():
                data, what = damage(good[file]), f"{name}: {file.relative_to(run)}: {kind}"
                file.unlink()
                if data is not None:
                    file.write_bytes(data)
                try:
                    code, text = called(stage.main, *words[name])
                except Exception as error:
                    code, text = 1, f"Traceback: {error!r}"
                after = files_of(run)
                count += 1
                if code == 0 or "Traceback" in text or file.name not in text:
                    faults.append(f"{what}: {code}: {text[-300:]}")
                elif name != "publish":  # which removes what is outdated, since it cannot be made again
                    faults += [f"{what}: lost {path}" for path in good.keys() - {file} - after.keys()]
                restore(good, after)
    assert not faults, "\n".join(faults)
    assert count > 80


@pytest.mark.slow
def test_the_front_door_takes_no_damaged_file_for_a_result(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept between calls may be lost; of results, those that are damaged are stale, or refused."""
    monkeypatch.chdir(run)
    # A process that imports torch would try the models again wherever the memory of it is lost.
    monkeypatch.setattr("foldwise.experiment.open.remembered", lambda *words, **more: None)
    good, faults, count = files_of(run), [], 0
    kept = {"known.json", "forecast.json", "attempts.jsonl", "checkpoint.pt", "check.json", "report.html"}
    suffixes = {".json", ".pkl", ".h5", ".pt", ".csv", ".jsonl", ".html", ".yaml"}
    # One of each name.
    files = {path.name: path for path in good if "results" in path.parts and path.suffix in suffixes}
    for name, file in sorted(files.items()):
        for kind, damage in DAMAGE.items():
            data, what = damage(good[file]), f"{file.relative_to(run)}: {kind}"
            file.unlink()
            if data is not None:
                file.write_bytes(data)
            try:
                code, text = called(front_door_of("experiment.yaml"))
            except Exception as error:
                code, text = 1, f"Traceback: {error!r}"
            count += 1
            if "Traceback" in text or (code and name not in text) or (code and name in kept):
                faults.append(f"{what}: {code}: {text[-300:]}")
            restore(good, files_of(run))
    assert not faults, "\n".join(faults)
    assert count > 60


def front_door_of(file: str) -> Callable[[], None]:
    def main() -> None:
        front_door(read_configs([Path(file)]), main=True)

    return main


def is_in(path: Path, word: str) -> bool:
    """Whether a word of a request names a file, or a folder that it is in."""
    value = word.partition("=")[2]
    return bool(value) and path.is_relative_to(Path(value).absolute())


def restore(good: dict[Path, bytes], after: dict[Path, bytes]) -> None:
    for path in after.keys() - good.keys():
        path.unlink()
    for path, content in good.items():
        if after.get(path) != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
