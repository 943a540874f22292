"""GPUs of a workstation: how many jobs Snakemake runs at a time, and on which GPUs they run."""

from __future__ import annotations

import copy
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import EXPERIMENT, add_case, command
from fake_nvml import Install, gpu
from foldwise.gpus import VISIBLE, usable_gpus
from sam_weights import tiny_weights
from ultrasound import SMALL, settings_of, write_clips
from warm import python


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    for number in range(4):
        add_case(folder, number)
    return folder


def call(folder: Path, experiment: dict[str, Any], *more: str, **environment: str) -> str:
    words = command(folder, experiment, *more)
    words[words.index("--cores") + 1] = "16"
    # What is not the stand-in's is found anyway, and the warm interpreter must not find itself twice.
    stand_in = os.environ["PYTHONPATH"].split(os.pathsep)[0]
    done = subprocess.run(
        words,
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": stand_in, **environment},
    )
    text = done.stdout + done.stderr
    assert done.returncode == 0, text[-5000:]
    return text


def devices(text: str) -> str | None:
    """The number that Snakemake reckons with, as it prints it before it runs jobs."""
    found = re.search(r"^Provided resources: .*\bdevice=\D*(\d+)", text, re.MULTILINE)
    return found[1] if found else None


@pytest.mark.slow
def test_folds_run_side_by_side_on_the_gpus_of_an_allocation(machine: Install, folder: Path) -> None:
    """Within `salloc --gres=gpu:2`, on a machine with three GPUs."""
    machine(gpu(), gpu(), gpu())
    every = [one.uuid for one in usable_gpus()]
    longer = copy.deepcopy(EXPERIMENT)
    longer["models"]["unet"]["training"] |= {"steps_per_epoch": 10}
    allocation = {VISIBLE: ",".join(every[1:]), "SLURM_JOB_ID": "7"}
    text = call(folder, longer, "--until", "test", **allocation)
    assert devices(text) == "2"
    # Validation cases choose the post-processing, so they are predicted, too.
    for rule, count in (("train", 2), ("test", 4)):
        logs = sorted(folder.glob(f"results/tiny/logs/{rule}/*.log"))
        used = [re.findall(r"on GPU \d \(Fake, (\S+)\)", log.read_text(encoding="utf-8")) for log in logs]
        assert len(used) == count
        if rule == "train":
            assert sorted(used) == [[name] for name in sorted(every[1:])]
        else:
            assert all(len(names) == 1 and names[0] in every[1:] for names in used)


def test_as_many_jobs_as_gpus_unless_the_user_says_otherwise(machine: Install, folder: Path) -> None:
    def device(*more: str, **environment: str) -> str | None:
        return devices(call(folder, EXPERIMENT, "check", *more, **environment))

    machine()
    assert device() == "1"
    machine(gpu(), gpu())
    assert device("--forceall") == "2"
    assert device("--forceall", **{VISIBLE: ""}) == "1"
    assert device("--forceall", "--resources", "device=5") == "5"


def test_a_training_takes_as_many_gpus_as_it_uses(machine: Install, folder: Path) -> None:
    machine(gpu(), gpu(), gpu())
    double = copy.deepcopy(EXPERIMENT)
    double["models"]["unet"]["training"] |= {"gpus": 2, "batch": 2}
    text = call(folder, double, "--dry-run")
    jobs = {rule: text.split(f"rule {rule}:")[1].split("\n\n")[0] for rule in ("train", "test", "crop")}
    assert "device=2" in jobs["train"]
    assert "device=1" in jobs["test"]
    assert "device" not in jobs["crop"]


def test_jobs_of_a_cluster_are_not_told_to_take_any(machine: Install, folder: Path) -> None:
    """Slurm has given them theirs."""
    machine(gpu(), gpu())
    assert "--gpus=free" in call(folder, EXPERIMENT, "--dry-run", "--printshellcmds")
    words = [
        *(python(), "-m", "snakemake", "--snakefile", command(folder, EXPERIMENT)[4]),
        *("--executor", "cluster-generic", "--cluster-generic-submit-cmd", "sh", "--jobs", "2"),
        *("--dry-run", "--printshellcmds", "--configfile", "experiment.yaml"),
    ]
    done = subprocess.run(words, cwd=folder, capture_output=True, encoding="utf-8", check=True)
    assert "foldwise.stages.train" in done.stdout
    assert "--gpus" not in done.stdout


@pytest.mark.parametrize("method", ["fan", "medsam"])
def test_preparation_takes_a_gpu_where_a_network_helps(machine: Install, tmp_path: Path, method: str) -> None:
    """A part's job takes one for all of its cases; where each case has jobs, those with a network do."""
    machine(gpu(), gpu())
    sheet = write_clips(tmp_path, cases=4)
    header, *rows = sheet.read_text(encoding="utf-8").split()
    sheet.write_text("\n".join([f"{header},box", *(f"{row},5 5 25 25" for row in rows)]), encoding="utf-8")
    regions = {"method": method}
    if method == "medsam":
        regions["weights"] = "medsam.pth"
        torch.save({"model": tiny_weights()}, tmp_path / "medsam.pth")
    experiment = {**settings_of(sheet, prepare={"regions": regions}), "models": {"small": SMALL}}
    single = call(tmp_path, experiment, "--dry-run", "prepared")
    (roi,) = {int(count) for count in re.findall(r"rule roi:.*?device=(\d)", single, re.DOTALL)}
    assert roi == (method == "medsam")
    parts = call(tmp_path, experiment, "--dry-run", "--printshellcmds", "index", "--set-scatter=prepare=2")
    rule = "prepare_part_gpu" if method == "medsam" else "prepare_part"
    jobs = re.findall(rf"^rule {rule}:\n(.*?)^$", parts, re.DOTALL | re.MULTILINE)
    assert jobs
    for job in jobs:
        assert f"--devices={roi}" in job
        assert ("device=1" in job) == (roi == 1)
