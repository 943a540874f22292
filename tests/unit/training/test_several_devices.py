"""One training on two devices: real processes, equal weights, and a common end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import trainings
from experiments import unread
from foldwise.files import CaseError
from foldwise.settings import Training, validate
from foldwise.systems.interactive.settings import Model as InteractiveModel
from foldwise.training.parallel import make_fabric
from foldwise.training.steps import StepSampler, step_seed
from synthetic import write_cached_set
from trainings import CHECKPOINT, SETTINGS, assert_same, finish, weights

TRAINING = {
    "epochs": 2,
    "steps_per_epoch": 4,
    "batch": 2,
    "gpus": 2,
    "schedule_by": "step",
    "warmup": 2,
    "validate_every": 1,
    "examples": 0,
    "validation": {"samples": 2},
}
TWO: dict[str, Any] = {**SETTINGS, "training": TRAINING}
# Fails only in the second process.
BROKEN = """
import os
from foldwise.command import run
from foldwise.stages.train import train
from foldwise.systems.segmentation.learner import SegmentationLearner

loss, calls = SegmentationLearner.loss, []

def broken(*args):
    calls.append(1)
    if len(calls) == 3 and os.environ["LOCAL_RANK"] == "1":
        raise ValueError("this one is broken")
    return loss(*args)

SegmentationLearner.loss = broken
run(train.main)
"""


def command(*args: Any, **more: Any) -> list[str]:
    """Not warm: with processes that belong to their session."""
    return [sys.executable, *trainings.command(*args, **more)[1:]]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cached_set(tmp_path_factory.mktemp("set"))


def start(arguments: list[str], **more: str) -> subprocess.Popen[str]:
    """In a separate session, so that leftover processes can be found."""
    return subprocess.Popen(
        arguments,
        env={**os.environ, **more},
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )


def assert_nothing_left(session: int) -> None:
    for _ in range(600):
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.killpg(session, signal.SIGKILL)
    pytest.fail("processes were left behind")


def until(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    read = []
    for line in process.stderr:
        read.append(line)
        if words in line:
            return
    pytest.fail("".join(read))


@pytest.mark.slow
def test_two_devices_learn_what_one_does(index: Path, tmp_path: Path) -> None:
    """Without randomness within a pass or dependence on other samples, up to rounding."""
    base = {
        **SETTINGS,
        "network": {"name": "BasicUNet", "features": [4, 4, 8, 8, 8, 4]},
        "optimiser": {"name": "SGD", "lr": 0.01},
        "augmentation": None,
    }
    for gpus in (1, 2):
        training = {**TRAINING, "epochs": 1, "steps_per_epoch": 3, "accumulate": 2, "gpus": gpus}
        settings = {**base, "training": training}
        done = finish(trainings.command(index, tmp_path / str(gpus), settings=settings))
        assert done.returncode == 0, done.stderr
    one, two = weights(tmp_path / "1"), weights(tmp_path / "2")
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=1e-5), name
    rows = [(tmp_path / str(gpus) / "log.csv").read_text().splitlines()[1].split(",") for gpus in (1, 2)]
    assert float(rows[0][2]) == pytest.approx(float(rows[1][2]), abs=1e-5), "the loss of the whole batch"
    # Only one process wrote the history.
    events = [json.loads(line)["event"] for line in (tmp_path / "2" / "state" / "attempts.jsonl").open()]
    assert events == ["start", "finished"]


@pytest.mark.slow
def test_stopped_and_killed_it_ends_bit_equal(index: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = finish(trainings.command(index, whole, "--workers", "0", settings=TWO))
    assert done.returncode == 0, done.stderr

    process = start(command(index, parts, "--checkpoint-min", "60", settings=TWO))
    until(process, "epoch 1/2")
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=900)
    assert process.returncode == 75, rest
    assert rest.count("SIGTERM received: saved at step") == 1
    assert_nothing_left(process.pid)
    (saved,) = parts.glob(CHECKPOINT)
    assert 4 <= torch.load(saved, weights_only=True)["step"] < 8

    process = start(command(index, parts, "--workers", "0", settings=TWO))
    until(process, "resumed at")
    process.kill()
    process.wait()
    assert_nothing_left(process.pid)

    done = finish(trainings.command(index, parts, "--workers", "0", settings=TWO))
    assert done.returncode == 0, done.stderr
    assert_same(parts, whole)


@pytest.mark.slow
def test_an_exception_of_the_second_process_ends_all(index: Path, tmp_path: Path) -> None:
    (tmp_path / "broken_train.py").write_text(BROKEN)
    arguments = [
        word.replace("foldwise.stages.train", "broken_train")
        for word in command(index, tmp_path, "--workers", "0", settings=TWO)
    ]
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process = start(arguments, PYTHONPATH=path)
    _, text = process.communicate(timeout=900)
    assert process.returncode == 1, text
    assert text.count("Traceback") == 1, text
    assert text.count("ValueError: this one is broken") == 1
    assert "process 1 of 2 failed" in text
    assert_nothing_left(process.pid)
    last = json.loads((tmp_path / "state" / "attempts.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["step"]) == ("error", 2)
    assert "this one is broken" in last["traceback"]


@pytest.mark.parametrize(("batch", "count"), [(1, 1), (4, 2), (6, 3), (8, 8)])
def test_every_sample_is_used_once_and_in_order(batch: int, count: int) -> None:
    shares = [list(StepSampler(3, 9, batch, (number, count))) for number in range(count)]
    for whole, *parts in zip(StepSampler(3, 9, batch), *shares, strict=True):
        assert sum(parts, []) == whole  # noqa: RUF017
        assert {len(part) for part in parts} == {batch // count}


def test_processes_draw_different_numbers() -> None:
    assert step_seed((0, 1), 7, 0) == step_seed((0, 1), 7)
    assert len({step_seed((0, 1), n, rank) for n in range(50) for rank in range(4)}) == 200


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(CaseError, match="batch 3 is not a multiple of gpus: 2"):
        validate(Training, {"batch": 3, "gpus": 2})
    with pytest.raises(CaseError, match="several samples"):
        validate(InteractiveModel, {"training": {"batch": 2, "gpus": 2}})


def test_each_process_gets_its_memory() -> None:
    """At least the memory of a GPU's driver and libraries for each, and for several a fifth more."""
    models = {f"m{gpus}": {"training": {"batch": 4, "gpus": gpus}} for gpus in (1, 2, 4)}
    jobs = unread(models=models).jobs
    asked = [jobs.mib("train", name) for name in models]
    assert asked[0] >= 3000
    assert asked[1] >= 2 * asked[0] - 300
    assert asked[2] - asked[1] == pytest.approx(2 * 1.2 * 3000, abs=100)
    assert len({jobs.mib("test", name) for name in models}) == 1


def test_too_few_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(CaseError, match=r'sees 1;.*set-resources: train: gres: "gpu:2"'):
        make_fabric(Training(gpus=2))
