"""GPUs of a machine: which may be used, and that no two processes hold the same one, whatever ends them."""

from __future__ import annotations

import importlib
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

import fake_nvml
from fake_nvml import Install, gpu
from foldwise import gpus
from foldwise.gpus import VISIBLE, jobs_at_once, taken, usable_gpus, waited_s
from foldwise.training.budget import Budget

# Takes GPUs, says which, and holds them until its input ends.
HOLD = """
import logging, os, sys
from foldwise.gpus import taken
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
with taken(int(sys.argv[1])) as mine:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ",".join(gpu.uuid for gpu in mine)
    print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.read()
"""


class Holder:
    """A process that takes GPUs."""

    def __init__(self, wanted: int = 1, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(wanted)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, **environment},
        )

    def held(self) -> list[str]:
        """The GPUs, once it holds them."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip().split(",")

    def waits(self) -> str:
        """What it says while it waits."""
        assert self.process.stderr is not None
        return self.process.stderr.readline()

    def end(self) -> str:
        """Let it end; returns the rest of its log."""
        _, log = self.process.communicate("", timeout=60)
        assert self.process.returncode == 0, log
        return log

    def kill(self) -> None:
        """As a user, or the kernel when memory runs out."""
        self.process.kill()
        self.process.communicate()


def numbers(found: list[gpus.Gpu]) -> list[int]:
    return [one.number for one in found]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("2,0", [2, 0]),
        (" 1 , 2", [1, 2]),
        ("1,1", []),
        # As for CUDA, what follows a wrong name does not count.
        ("0,9,1", [0]),
        ("GPU-bb", [1]),
        ("GPU-bbbb2222,GPU-aaaa", [1, 0]),
        # Two begin so.
        ("GPU-", []),
    ],
)
def test_cuda_visible_devices_is_respected(
    machine: Install, monkeypatch: pytest.MonkeyPatch, given: str | None, expected: list[int]
) -> None:
    machine(*(gpu(uuid=uuid) for uuid in ("GPU-aaaa1111", "GPU-bbbb2222", "GPU-cccc3333")))
    if given is not None:
        monkeypatch.setenv(VISIBLE, given)
    assert numbers(usable_gpus()) == expected
    assert jobs_at_once() == max(1, len(expected))


def test_a_display_is_left_out_unless_it_is_named(machine: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(gpu(mib=2048), gpu(mib=40960), {"broken": True}, gpu(mib=24576))
    assert numbers(usable_gpus()) == [1, 3]
    holder = Holder()
    assert holder.held()
    assert "with too little memory, unless named in CUDA_VISIBLE_DEVICES: GPU 0" in holder.end()
    monkeypatch.setenv(VISIBLE, "0")
    assert numbers(usable_gpus()) == [0]


def test_parts_of_a_divided_gpu_count_one_by_one(machine: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [{"uuid": f"MIG-{n}", "name": "part", "mib": 9728, "used": 0} for n in range(3)]
    machine(gpu(mib=16384), gpu(parts=parts))
    assert [one.uuid for one in usable_gpus()][1:] == ["MIG-0", "MIG-1", "MIG-2"]
    # As an interactive session of Slurm names them.
    monkeypatch.setenv(VISIBLE, "MIG-2,MIG-0")
    assert [one.uuid for one in usable_gpus()] == ["MIG-2", "MIG-0"]
    assert jobs_at_once() == 2


@pytest.mark.parametrize("driver", [[], ["mismatch"]])
def test_without_a_gpu_nothing_changes(machine: Install, driver: list[str]) -> None:
    machine(*driver)
    assert jobs_at_once() == 1
    with taken(2) as mine:
        assert mine == []
        assert VISIBLE not in os.environ


def test_an_empty_list_stays_empty(machine: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(gpu())
    monkeypatch.setenv(VISIBLE, "")
    with taken(1) as mine:
        assert mine == []
        assert os.environ[VISIBLE] == ""


def test_two_processes_hold_different_gpus_and_a_third_waits(machine: Install) -> None:
    machine(gpu(), gpu())
    both = [one.uuid for one in usable_gpus()]
    first, second = Holder(), Holder()
    assert sorted(first.held() + second.held()) == sorted(both)
    third = Holder()
    assert "waiting for 1 free GPU(s)" in third.waits()
    time.sleep(3 * gpus.WAIT_S)
    first.end()
    (given,) = third.held()
    log = third.end()
    # It said once that it waits.
    assert "waiting" not in log
    assert f"{given})" in log
    second.end()


def test_a_killed_process_frees_its_gpu(machine: Install) -> None:
    machine(gpu())
    first = Holder()
    held = first.held()
    second = Holder()
    assert "waiting" in second.waits()
    first.kill()
    assert second.held() == held
    # Not even a process that was only stopped loses it.
    os.kill(second.process.pid, signal.SIGSTOP)
    third = Holder()
    assert "waiting" in third.waits()
    os.kill(second.process.pid, signal.SIGCONT)
    second.end()
    assert third.held() == held
    third.end()


def test_several_gpus_are_taken_together_or_not_at_all(machine: Install) -> None:
    machine(gpu(), gpu())
    both = sorted(one.uuid for one in usable_gpus())
    single = Holder()
    single.held()
    double = Holder(2)
    assert "waiting for 2 free GPU(s)" in double.waits()
    # What the waiting one cannot use is left to others.
    other = Holder()
    assert len(other.held()) == 1
    single.end()
    other.end()
    assert sorted(double.held()) == both
    double.end()
    # More than there are: all, and the training says that they are too few.
    many = Holder(3)
    assert sorted(many.held()) == both
    many.end()


def test_the_time_of_waiting_is_known(machine: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(gpu())
    before = waited_s()
    monkeypatch.setattr(gpus, "WAIT_S", 0.01)
    other = Holder()
    other.held()
    threading.Timer(0.5, other.kill).start()
    with taken(1):
        waited = waited_s() - before
    assert waited >= 0.4


def test_waiting_does_not_count_as_training(monkeypatch: pytest.MonkeyPatch) -> None:
    process = SimpleNamespace(create_time=lambda: time.time() - 40)
    monkeypatch.setattr("foldwise.training.budget.psutil.Process", lambda: process)
    monkeypatch.setattr(signal, "signal", lambda *given: None)
    # Of a minute, half is left for saving.
    assert Budget(1).reason is not None
    monkeypatch.setattr("foldwise.training.budget.waited_s", lambda: 20)
    assert Budget(1).reason is None


def test_an_allocation_of_slurm_is_shared_among_its_jobs(machine: Install) -> None:
    """Within `salloc --gres=gpu:2`, where Slurm has set the variable, by UUIDs or by numbers."""
    machine(gpu(), gpu(), gpu())
    every = [one.uuid for one in usable_gpus()]
    given = ",".join(every[1:])
    jobs = [Holder(CUDA_VISIBLE_DEVICES=given, SLURM_JOB_ID="7") for _ in range(2)]
    assert sorted(name for job in jobs for name in job.held()) == sorted(every[1:])
    third = Holder(CUDA_VISIBLE_DEVICES="1,2", SLURM_JOB_ID="7")
    assert "waiting" in third.waits()
    jobs[0].end()
    assert third.held()[0] in every[1:]
    jobs[1].end()
    third.end()


def test_gpus_that_other_programs_use_come_last(machine: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(gpu(used=9000), gpu(used=300), gpu(used=0))
    with taken(1) as one:
        assert numbers(one) == [1]
    with taken(2) as two:
        assert numbers(two) == [1, 2]
        assert os.environ[VISIBLE] == ",".join(each.uuid for each in two)
    assert VISIBLE not in os.environ
    monkeypatch.setenv(VISIBLE, "0")
    with taken(1) as named:
        assert numbers(named) == [0]
    assert os.environ[VISIBLE] == "0"


def test_the_stand_in_is_called_as_nvidias_library() -> None:
    pynvml = importlib.import_module("pynvml")
    own = {name: each for name, each in vars(fake_nvml).items() if name.startswith("nvml")}
    assert own
    for name, each in own.items():
        theirs = inspect.signature(getattr(pynvml, name))
        assert list(inspect.signature(each).parameters)[: len(theirs.parameters)] == list(theirs.parameters)
    for error in (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        assert issubclass(error, pynvml.NVMLError)
    assert pynvml.NVML_DEVICE_MIG_DISABLE == fake_nvml.NVML_DEVICE_MIG_DISABLE


@pytest.mark.slow
def test_no_import_starts_cuda() -> None:
    """CUDA reads the variable when it starts, so a stage must be able to set it after all imports."""
    code = """
import torch
def started(*args): raise AssertionError("CUDA was started")
torch._C._cuda_getDeviceCount = torch._C._cuda_init = started
import foldwise.stages.train, foldwise.stages.test, foldwise.stages.ensemble, foldwise.stages.features
import foldwise.stages.encode, foldwise.stages.predict, foldwise.stages.roi
import foldwise.systems.segmentation.learner, foldwise.systems.interactive.learner
"""
    subprocess.run([sys.executable, "-c", code], check=True)
