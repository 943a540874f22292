"""How far a training is, in lines and tables, and the view that is refreshed until all is done."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from experiments import EXPERIMENT, add_case
from foldwise import watching
from foldwise.files import CaseError
from foldwise.status import Status, look
from foldwise.told import Told, scores, seconds_left, sentence, told_in
from foldwise.training import pulse
from foldwise.training.attempts import Attempts
from foldwise.training.pulse import Pulse
from foldwise.watching import watch

ROW = {"epoch": 1.0, "loss": 0.41237, "val_loss": 0.5, "patch_dice": 0.6234, "seconds": 60.0}


def told(rows: int, **pulse: Any) -> Told:
    return Told(Path(), (), [{**ROW, "epoch": n + 1.0} for n in range(rows)], pulse)


def test_the_time_left_includes_validations_and_the_steps_that_are_done() -> None:
    rows = [{**ROW, "validation_seconds": seconds} for seconds in (1.0, 43.6, 1.4)]
    # Two epochs of 60 s, and of 46 / 3 s on average.
    assert seconds_left(Told(Path(), (), rows, {}), 5) == pytest.approx(2 * (60 + 46 / 3))
    half = {"epoch": 4, "what": "steps", "done": 5, "of": 10, "step_seconds": 99.0}
    assert seconds_left(Told(Path(), (), rows, half), 5) == pytest.approx(2 * (60 + 46 / 3) - 30)
    # In the first epoch, by its steps: 3.5 of 4 epochs, 2 s a step.
    assert seconds_left(told(0, epoch=1, what="steps", done=5, of=10, step_seconds=2.0), 4) == 70
    assert seconds_left(told(0), 4) is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (told(0), None),
        (told(3), "epoch 3 of 12, loss 0.4124, patch Dice 0.6234, 9 min left"),
        (told(12), "epoch 12 of 12, loss 0.4124, patch Dice 0.6234"),
        (
            told(0, epoch=1, what="steps", done=25, of=60, loss=0.9, step_seconds=0.5),
            "epoch 1 of 12, step 25 of 60, loss 0.9, 6 min left",
        ),
        (told(3, epoch=4, what="cases", done=2, of=20), "epoch 4 of 12, validated cases 2 of 20, 8 min left"),
    ],
)
def test_a_training_in_a_line(given: Told, expected: str | None) -> None:
    assert sentence(given, 12) == expected


def test_the_score_of_whole_cases_comes_first() -> None:
    assert scores({**ROW, "val_dice": 0.7}) == ["loss 0.4124", "validation Dice 0.7"]
    assert scores({"loss": 1.0, "val_loss": 0.5}) == ["loss 1", "validation loss 0.5"]
    assert scores({"loss": 1.0, "validation_seconds": 3.0}) == ["loss 1"]


def test_a_pulse_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    now = [1000.0]
    monkeypatch.setattr(pulse.time, "monotonic", lambda: now[0])
    file = tmp_path / "progress.json"
    told = Pulse(tmp_path, 12, silent=False)
    # An epoch that goes on from its tenth step.
    told.begin(3)
    seen = []
    for step in range(11, 101):
        now[0] += 2
        told.step(step, 100, 0.5)
        seen.append(json.loads(file.read_text(encoding="utf-8")))
    assert seen[0] == {"epoch": 3, "what": "steps", "done": 11, "of": 100, "loss": 0.5}
    assert seen[5] == {**seen[0], "done": 16, "step_seconds": 2.0}
    # Every ten seconds in the file, every minute in the log.
    assert [one["done"] for one in seen[:7]] == [11, 11, 11, 11, 11, 16, 16]
    assert caplog.messages == [f"epoch 3/12  step {step} of 100, loss 0.5000" for step in (40, 70, 100)]
    now[0] += 100
    told.case(1, 4)
    assert json.loads(file.read_text(encoding="utf-8"))["what"] == "cases"
    assert caplog.messages[-1] == "epoch 3/12  validated cases 1 of 4"
    told.end()
    assert not file.exists()
    silent = Pulse(tmp_path, 12, silent=True)
    silent.step(1, 2, 0.5)
    silent.end()
    assert list(tmp_path.iterdir()) == []


def test_a_pulse_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    Pulse(tmp_path / "file", 12, silent=False).step(1, 2, 0.5)


def test_the_pulse_of_an_epoch_that_is_over_does_not_count(tmp_path: Path) -> None:
    Attempts(tmp_path / "attempts.jsonl", 1, "abc").start(0)
    folder = tmp_path / "abc"
    folder.mkdir()
    (folder / "log.csv").write_text("epoch,loss,val_dice,seconds\n1,2.5,,3\n", encoding="utf-8")
    for epoch, counts in ((1, False), (2, True)):
        (folder / "progress.json").write_text(json.dumps({"epoch": epoch}), encoding="utf-8")
        found = told_in(tmp_path)
        assert found.rows == [{"epoch": 1, "loss": 2.5, "seconds": 3}]
        assert bool(found.pulse) == counts
    for broken in ("{", "", "[1]", "3"):
        (folder / "progress.json").write_text(broken, encoding="utf-8")
        assert told_in(tmp_path).pulse == {}


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Status | Exception]:
    """What the next looks find."""
    found: list[Status | Exception] = []

    def next_one(configfiles: Any) -> Status:
        one = found.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    monkeypatch.setattr(watching, "look", next_one)
    monkeypatch.setattr(watching, "_now", lambda: "NOW")
    return found


def test_changes_are_printed_until_all_is_done(looks: list[Status | Exception]) -> None:
    states: list[Status | Exception] = [
        Status("a", False),
        Status("a", False),
        CaseError("oops"),
        Status("[b]", False),
        Status("c", True),
    ]
    looks += [*states, Status("never", True)]
    out = io.StringIO()
    watch(["x.yaml"], 0, Console(file=out))
    assert out.getvalue() == "NOW\na\nNOW\na\nsince then: oops\nNOW\n[b]\nNOW\nc\n"
    assert len(looks) == 1


def test_a_terminal_is_refreshed_in_place(looks: list[Status | Exception]) -> None:
    looks += [Status("first", False), Status("second", True)]
    out = io.StringIO()
    watch(["x.yaml"], 0, Console(file=out, force_terminal=True, width=80))
    text = out.getvalue()
    assert text.index("first") < text.index("\x1b[1A") < text.index("second")


def test_the_first_look_must_succeed(looks: list[Status | Exception]) -> None:
    looks += [CaseError("no such experiment")]
    with pytest.raises(CaseError, match="no such experiment"):
        watch(["x.yaml"], 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(4):
        add_case(tmp_path, number)
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT), encoding="utf-8")
    return tmp_path


@pytest.fixture
def running(folder: Path) -> Iterator[subprocess.Popen[str]]:
    words = ["status", "experiment.yaml", "--watch", "--every", "0.2"]
    (none := folder / "slurm.conf").touch()
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "foldwise", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        # Without the cluster of other tests, which may run at the same time.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "SLURM_CONF": str(none)},
        # Where the tests run in the background, Ctrl-C is ignored, by what they start as well.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    yield process
    process.kill()
    process.communicate()


def test_the_command_follows_a_training_and_ends_with_ctrl_c(
    folder: Path, running: subprocess.Popen[str]
) -> None:
    assert running.stdout is not None

    def until(word: str) -> str:
        for line in running.stdout or ():
            if word in line:
                return line
        raise AssertionError(running.communicate()[1])

    assert until("unet     0").split()[2] == "waiting"
    state = folder / "results/tiny/state/unet/fold0/train"
    Attempts(state / "attempts.jsonl", 1, "abc").start(0)
    Pulse(state / "abc", 1, silent=False).step(1, 2, 0.5)
    assert "0/1 + 1/2" in until("started")
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=30)
    assert (running.returncode, said) == (0, "")


def test_the_command_prints_what_the_library_returns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    expected = look(["experiment.yaml"])
    assert not expected.done
    done = subprocess.run(
        [sys.executable, "-m", "foldwise", "status", "experiment.yaml"],
        capture_output=True,
        encoding="utf-8",
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout == expected.text + "\n"
    missing = subprocess.run(
        [sys.executable, "-m", "foldwise", "status", "none.yaml"],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (missing.returncode, "error: none.yaml" in missing.stderr) == (1, True)
