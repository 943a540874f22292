"""Lists of clips to a sheet and an experiment."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from foldwise.files import CaseError
from foldwise.importers import clip_lists
from foldwise.settings import parse
from foldwise.systems.clips.settings import Settings
from foldwise.systems.clips.sheet import read_sheet
from ultrasound import CLASSES, frames_of
from videos import write_video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("pat1/a", "pat1/b", "pat2/a", "pat3/c d", "pat4/e")):
        path = tmp_path / "videos" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, frames_of("high", seed, count=3))
    (tmp_path / "map.json").write_text(json.dumps(CLASSES), encoding="utf-8")
    (tmp_path / "classes.txt").write_text("This is high.\nThis is low.\n", encoding="utf-8")
    (tmp_path / "train.txt").write_text("pat1/a.mp4,0\npat1/b.mp4\t0\npat2/a.mp4 1\n", encoding="utf-8")
    (tmp_path / "val.txt").write_text("pat3/c d.mp4 0\n\npat4/e.mp4, 1\n", encoding="utf-8")
    return tmp_path


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    words = [
        str(folder / "videos"),
        "--train",
        str(folder / "train.txt"),
        "--classes",
        str(folder / "map.json"),
    ]
    words += ["--sheet", str(folder / "out.csv"), "--force", *more]
    monkeypatch.setattr(sys, "argv", ["clip_lists", *words])
    clip_lists.main()


def test_lists_to_sheet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = ("--validation", str(folder / "val.txt"), "--sentences", str(folder / "classes.txt"))
    run(folder, monkeypatch, *more, "--group-regex", "(pat[0-9])")
    settings = parse(Settings, str(folder / "out.yaml"))
    cases = read_sheet(settings.data).cases
    found = [(case.name, case.group, case.label, case.split) for case in cases]
    assert found == [
        ("pat1_a", "pat1", "high", ""),
        ("b", "pat1", "high", ""),
        ("pat2_a", "pat2", "low", ""),
        ("c_d", "pat3", "high", "test"),
        ("e", "pat4", "low", "test"),
    ]
    assert all(case.video.exists() for case in cases)


@pytest.mark.parametrize(
    ("list_name", "text", "message"),
    [
        ("train.txt", "pat1/a.mp4,2\n", r"train.txt: line 1: pat1/a.mp4: label '2' is not in 0 … 1"),
        ("train.txt", "pat1/a.mp4\n", r"line 1: 'pat1/a.mp4' is not `path,label`"),
        ("train.txt", "pat1/none.mp4,0\n", r"none.mp4: no such file"),
        ("train.txt", "\n", r"train.txt: contains no clips"),
    ],
)
def test_without_any_clip_nothing_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, list_name: str, text: str, message: str
) -> None:
    (folder / list_name).write_text(text, encoding="utf-8")
    with pytest.raises(CaseError, match=message):
        run(folder, monkeypatch, "--group-regex", "(pat[0-9])")
    assert not (folder / "out.csv").exists()
    assert not (folder / "out.yaml").exists()


@pytest.mark.parametrize(
    ("train", "validation", "kept", "message"),
    [
        ("pat2/a.mp4,1\npat1/a.mp4,2\n", "", ["pat2/a"], r"train.txt: line 2: pat1/a.mp4: label '2'"),
        ("pat2/a.mp4,1\npat1/none.mp4,0\n", "", ["pat2/a"], r"none.mp4: no such file"),
        (
            "pat1/a.mp4,0\npat2/a.mp4,1\npat1/a.mp4,0\n",
            "",
            ["pat1/a", "pat2/a"],
            r"train.txt: line 3: .* is already listed in .*train.txt: line 1",
        ),
        # Where listings disagree, none is believed.
        ("pat1/a.mp4,0\npat2/a.mp4,1\n", "pat1/a.mp4,0\n", ["pat2/a"], r"val.txt: line 1: .* already listed"),
        ("pat1/a.mp4,0\npat2/a.mp4,1\npat1/a.mp4,1\n", "", ["pat2/a"], r"line 3: .* is already listed"),
        (
            "pat1/a.mp4,0\npat2/a.mp4,1\n",
            "pat1/b.mp4,0\n",
            ["pat1/a", "pat2/a"],
            "patient pat1 is in the fixed test set and also in training",
        ),
        ("pat1/a.mp4,0\npat1/b.mp4,1\n", "", ["pat1/a"], "patient pat1 is low here and high in case a"),
    ],
)  # fmt: skip
def test_lines_that_cannot_be_used_leave_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch, train: str, validation: str, kept: list[str], message: str
) -> None:
    (folder / "train.txt").write_text(train, encoding="utf-8")
    (folder / "val.txt").write_text(validation, encoding="utf-8")
    more = ("--validation", str(folder / "val.txt"), "--group-regex", "(pat[0-9])")
    with pytest.raises(CaseError, match=rf"(?s)is written, but without 1 case.*{message}"):
        run(folder, monkeypatch, *more)
    cases = read_sheet(parse(Settings, str(folder / "out.yaml")).data).cases
    assert [str(case.video.with_suffix(""))[-len("pat1/a") :] for case in cases] == kept
    run(folder, monkeypatch, *more, "--skip-broken")


def test_sentence_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "classes.txt").write_text("This is high.\n", encoding="utf-8")
    with pytest.raises(CaseError, match="the sentence of class low is missing"):
        run(folder, monkeypatch, "--sentences", str(folder / "classes.txt"))
