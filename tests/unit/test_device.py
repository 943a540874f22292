"""A job that holds a GPU and cannot use it stops; one without a GPU, or with a stand-in alone, runs.

On a machine without a real GPU: PyTorch fails on the stand-ins, and their device files are ordinary ones.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import trainings
from fake_nvml import Install, gpu
from foldwise import cuda, gpus
from foldwise.cuda import Build, advice, idle_gpus, torch_build
from foldwise.device import chosen_device
from foldwise.experiment.settings import Device
from foldwise.files import CaseError
from foldwise.gpus import VISIBLE, held
from foldwise.sampling import gpu_job
from synthetic import write_cached_set

CUDA_13 = Build("2.15.0", "13.2")
# A training whose GPUs have the device files of a folder.
WITH_DEVICES = """
import sys
from pathlib import Path
from foldwise import gpus
gpus.DEVICES = Path(sys.argv.pop(1)) / "nvidia"
from foldwise.command import run
from foldwise.stages.train import train
run(train.main)
"""


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of device files, with that of one GPU, number 0."""
    folder = tmp_path / "dev"
    folder.mkdir()
    (folder / "nvidia0").touch()
    monkeypatch.setattr(gpus, "DEVICES", folder / "nvidia")
    monkeypatch.setattr(gpus, "WINDOWS", folder / "dxg")
    return folder


@contextmanager
def job(device: Device = "auto") -> Iterator[None]:
    with gpu_job(1, take=True, device=device), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_only_a_gpu_with_a_device_is_held(
    machine: Install, devices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(gpu(name="real", minor=0), gpu(name="declared", minor=1))
    assert held() == ["real"]
    monkeypatch.setenv(VISIBLE, "1")
    assert held() == []
    monkeypatch.setenv(VISIBLE, "0")
    assert held() == ["real"]
    (devices / "nvidia0").unlink()
    assert held() == []
    # Windows has one for all.
    (devices / "dxg").touch()
    assert held() == ["real"]


@pytest.mark.parametrize(
    ("given", "counts"),
    [(None, True), ("0", True), ("GPU-1", True), ("", False), ("-1", False), ("NoDevFiles", False)],
)
def test_without_an_answer_of_the_driver_device_files_count(
    machine: Install, devices: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, counts: bool
) -> None:
    """As in a container that was started without its option for GPUs, or after an update of the driver."""
    machine("mismatch")
    if given is not None:
        monkeypatch.setenv(VISIBLE, given)
    assert held() == ([str(devices / "nvidia0")] if counts else [])


def test_a_job_that_holds_an_idle_gpu_stops(
    machine: Install, devices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "torch_build", lambda: CUDA_13)
    machine(gpu(name="Old", minor=0, cuda=12040))
    with job(), pytest.raises(CaseError) as stopped:
        chosen_device()
    text = str(stopped.value)
    assert "holds a GPU that PyTorch cannot use, so nothing was computed: Old: " in text
    assert "PyTorch 2.15.0, built for CUDA 13.2; driver 999.1, for CUDA up to 12.4" in text
    assert "envs/requirements-cuda12.txt, or driver 580.65.06 or newer" in text
    assert "`device: cpu` in the experiment" in text
    machine("mismatch")
    with job(), pytest.raises(CaseError, match=r"nvidia0: .*NVIDIA's driver does not answer.*--nv"):
        chosen_device()


@pytest.mark.parametrize("listed", [[], [gpu()], ["mismatch"]])
def test_a_job_without_a_gpu_runs_unless_the_settings_demand_one(
    machine: Install, devices: Path, listed: list[object]
) -> None:
    """Without a driver, with a GPU that is only declared (as on a test cluster), and with a broken driver."""
    (devices / "nvidia0").unlink()
    machine(*listed)
    with job():
        assert chosen_device().type == "cpu"
    with job("gpu"), pytest.raises(CaseError, match=r"device: gpu, but this job on .* has no GPU"):
        chosen_device()


def test_the_setting_cpu_leaves_gpus_alone(
    machine: Install, devices: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine(gpu(minor=0))
    with job("cpu"):
        assert held() == []
        assert chosen_device().type == "cpu"
    assert caplog.text == ""
    assert len(held()) == 1


def test_other_commands_only_warn(machine: Install, devices: Path, caplog: pytest.LogCaptureFixture) -> None:
    machine(gpu(minor=0))
    assert chosen_device().type == "cpu"
    assert "computing on the CPU, since PyTorch cannot use the GPU" in caplog.text


def test_a_gpu_that_computes_nothing_is_found_before_the_work(
    machine: Install, devices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E.g. one that is too old for this build, of which CUDA says that it is there."""
    machine(gpu(minor=0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with job(), pytest.raises(CaseError, match="holds a GPU that PyTorch cannot use"):
        chosen_device()
    # A further process of a training leaves the first one's GPU alone.
    with job():
        assert chosen_device(tried=False).type == "cuda"


@pytest.mark.parametrize(
    ("build", "newest", "expected"),
    [
        (None, 13020, "envs/requirements.txt"),
        (None, 12020, "envs/requirements-cuda12.txt"),
        (Build("2", None), 13020, "install PyTorch with CUDA"),
        (Build("2", "13.2"), 12090, "requirements-cuda12.txt, or driver 580.65.06"),
        (Build("2", "12.9"), 11040, "requirements-cpu.txt, or driver 525.60.13"),
        (Build("2", "14.0"), 13000, "requirements.txt, or a newer driver"),
        # Drivers run what was built for older ones, and for newer ones of the same major version.
        (Build("2", "13.2"), 13000, None),
        (Build("2", "12.9"), 13000, None),
    ],
)
def test_what_helps(machine: Install, build: Build | None, newest: int, expected: str | None) -> None:
    machine(gpu(cuda=newest))
    found = advice(build)
    assert found is None if expected is None else expected in str(found)


def test_the_build_is_read_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch_build() == Build(torch.__version__, torch.version.cuda)
    code = "import sys; from foldwise.cuda import torch_build; print(torch_build(), 'torch' in sys.modules)"
    broken = tmp_path / "torch"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise RuntimeError", encoding="utf-8")
    for path, expected in (([], str(torch_build())), ([str(tmp_path)], "None")):
        paths = ":".join([*path, *sys.path])
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            encoding="utf-8",
            env={"PYTHONPATH": paths},
            check=True,
        )
        assert done.stdout.strip() == f"{expected} False"


def test_a_local_call_is_warned_before_anything_runs(
    machine: Install, devices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "torch_build", lambda: CUDA_13)
    machine(gpu(minor=7, cuda=12000))
    assert idle_gpus() is None
    machine(gpu(minor=0, cuda=13000))
    assert idle_gpus() is None
    machine(gpu(minor=0, cuda=12000))
    assert "built for CUDA 13.2; driver 999.1, for CUDA up to 12.0. What helps" in str(idle_gpus())


def test_a_training_stops_before_its_first_step(
    machine: Install, tmp_path: Path, devices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = write_cached_set(tmp_path / "set")
    machine(gpu(minor=0))
    training = {"epochs": 1, "steps_per_epoch": 1, "batch": 1, "validation": {"cases": 0, "best": "val_loss"}}
    settings = {**trainings.SETTINGS, "training": training}
    words = trainings.command(index, tmp_path, "--workers=0", "--gpus=free", settings=settings)
    (tmp_path / "with_devices.py").write_text(WITH_DEVICES, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "nvml"), str(tmp_path)]))
    call = [*words[:2], "with_devices", str(devices), *words[3:]]
    done = trainings.finish(call)
    assert done.returncode == 1
    assert "error: this job on" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "model.pt").exists()
    done = trainings.finish([*call, "--device=cpu"])
    assert done.returncode == 0, done.stderr
    first = done.stderr.splitlines()[0]
    assert re.search(r"INFO device: CPU.* parameters, all learnt; batch: 1 × patch of 32×32×32 voxels", first)
