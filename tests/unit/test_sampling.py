"""How busy a job's GPUs were: means worked out by hand, and where they are kept."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pandas as pd
import pytest
import torch

import trainings
from fake_nvml import Install, gpu
from foldwise import sampling
from foldwise.command import FREE, Output, stage
from foldwise.device import device_text, log_device
from foldwise.files import write_json
from foldwise.gpus import VISIBLE, taken, usable_gpus
from foldwise.provenance import provenance
from foldwise.report.page import _resources
from foldwise.report.usage import usage
from foldwise.sampling import Sampler, gpu_job, joined, read_from, sampled
from foldwise.training.attempts import Attempts
from synthetic import write_cached_set

# A training whose GPUs are sampled all the time.
OFTEN = """
import foldwise.sampling
foldwise.sampling.INTERVAL_S = 0.01
from foldwise.command import run
from foldwise.stages.train import train
run(train.main)
"""


def test_means_over_samples_and_gpus(machine: Install) -> None:
    first, second = gpu(rate=100, used=1000), gpu(rate=50, used=4000)
    machine(first, second, gpu(rate=100, used=9000))
    sampler = Sampler(usable_gpus()[:2])
    assert sampler.facts is None
    sampler.sample()
    machine({**first, "rate": 20, "used": 7000}, {**second, "rate": 10}, gpu())
    sampler.sample()
    # (0.75 + 0.15) / 2
    assert sampler.facts == {"busy": 0.45, "peak_mib": 7000, "samples": 2}
    machine({"broken": True}, {"broken": True}, gpu())
    sampler.sample()
    assert sampler.facts == {"busy": 0.45, "peak_mib": 7000, "samples": 2}


def test_a_part_of_a_divided_gpu_tells_its_memory_alone(machine: Install) -> None:
    machine(gpu(parts=[{"uuid": "MIG-1", "name": "part", "mib": 9728, "used": 5000}]))
    sampler = Sampler(usable_gpus())
    sampler.sample()
    assert sampler.facts == {"busy": None, "peak_mib": 5000, "samples": 1}


def test_jobs_are_joined_by_their_number_of_samples() -> None:
    parts = [
        {"busy": 0.9, "peak_mib": 100, "samples": 30},
        None,
        {"busy": 0.1, "peak_mib": 300, "samples": 10},
        {"busy": None, "peak_mib": 200, "samples": 60},
    ]
    assert joined(parts) == {"busy": pytest.approx(0.7), "peak_mib": 300, "samples": 100}
    assert joined([None]) is None


@pytest.mark.parametrize("rate", [{"rate": 62}, {}])
def test_the_log_says_what_provenance_says(
    machine: Install, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, rate: dict[str, int]
) -> None:
    monkeypatch.setattr(sampling, "INTERVAL_S", 0.01)
    caplog.set_level(logging.INFO)
    part = {"uuid": "MIG-a", "name": "part", "mib": 9728, "used": 1234, **rate}
    machine(gpu(parts=[part]))
    with gpu_job(1, take=False):
        until_sampled()
        kept = provenance(None, [])["gpu"]
        # A further process, or a job within this one, watches nothing.
        with gpu_job(1, take=True):
            pass
    assert kept["busy"] == (rate["rate"] / 100 if rate else None)
    assert kept["peak_mib"] == 1234
    (read,) = read_from(caplog.text)
    assert {**read, "samples": 0} == {**kept, "samples": 0}
    assert read["samples"] >= kept["samples"]
    assert sampled() is None


def until_sampled() -> None:
    end = time.monotonic() + 30
    while not sampled():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_without_a_gpu_there_is_no_thread(machine: Install, caplog: pytest.LogCaptureFixture) -> None:
    machine()
    before = threading.active_count()
    for take in (True, False):
        with gpu_job(1, take=take):
            assert threading.active_count() == before
    assert provenance(None, [])["gpu"] is None
    assert caplog.text == ""


def test_a_stage_takes_gpus_only_where_they_are_shared(
    machine: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that was submitted to a cluster keeps what it got, whatever others hold."""
    monkeypatch.setattr(sampling, "INTERVAL_S", 0.01)
    machine(gpu(), gpu(rate=40))
    names = [one.uuid for one in usable_gpus()]
    monkeypatch.setenv(VISIBLE, names[1])

    @stage(gpus=lambda values: values["number"])
    def work(*, number: Annotated[int, "GPUs"], out: Annotated[Output, "to write"]) -> None:
        if number:
            until_sampled()
        write_json(out, {"gpu": sampled(), "visible": os.environ[VISIBLE]})

    def call(*words: str) -> dict[str, Any]:
        out = tmp_path / "out.json"
        monkeypatch.setattr(sys, "argv", ["work", f"--out={out}", *words])
        work.main()
        return dict(json.loads(out.read_text(encoding="utf-8")))

    given = call("--number=1")
    assert (given["gpu"]["busy"], given["visible"]) == (0.4, names[1])
    assert call("--number=0")["gpu"] is None
    with taken(1):
        assert call("--number=1")["visible"] == names[1]
    monkeypatch.setenv(VISIBLE, "0,1")
    free = call("--number=1", f"--gpus={FREE}")
    assert (free["gpu"]["busy"], free["visible"]) == (0, names[0])


def test_the_report_shows_busy_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs, data, benchmarks = tmp_path / "x/logs", tmp_path / "data/logs", tmp_path / "x/benchmarks"
    lines = {
        logs / "test/unet_fold0.log": "12:00:00 INFO GPU: busy 80 %, at most 3000 MiB, 10 samples\n",
        logs / "test/unet_fold1.log": "12:00:00 INFO GPU: busy 20 %, at most 5000 MiB, 30 samples\n",
        logs / "predict/unet_0of1.log": "12:00:00 INFO GPU: at most 700 MiB, 3 samples\n",
        # A training's last job alone; its history tells more.
        logs / "train/unet_fold0.log": "12:00:00 INFO GPU: busy 1 %, at most 1 MiB, 1 samples\n",
        data / "encode/a_b.log": "12:00:00 INFO case b\n",
        benchmarks / "train/unet_fold0.tsv": "s\tmax_pss\n60\t900\n",
        benchmarks / "test/unet_fold0.tsv": "s\tmax_pss\n30\t800\n",
    }
    for path, text in lines.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    history = Attempts(tmp_path / "x/state/unet/fold0/attempts.jsonl", 1, "print")
    for busy in (0.5, 0.9):
        facts = {"busy": busy, "peak_mib": 1000, "samples": 20}
        monkeypatch.setattr("foldwise.training.attempts.sampled", lambda facts=facts: facts)
        history.start(0)
        history.note("stopped", 1)
    assert history.gpu == {"busy": 0.7, "peak_mib": 1000, "samples": 40}
    assert [row.get("gpu") is None for row in history.rows()] == [True, False, True, False]
    table = usage(tmp_path / "x", tmp_path / "data").set_index("rule")
    # (10 · 0.8 + 30 · 0.2) / 40
    assert table["gpu_busy"].dropna().to_dict() == {"train": 0.7, "test": pytest.approx(0.35)}
    assert table["gpu_mib"].to_dict() == {"train": 1000, "test": 5000, "predict": 700}
    assert table["minutes"].dropna().to_dict() == {"train": 1, "test": 0.5}
    page = _resources(table.reset_index())
    assert [column.title for column in page.columns][-2:] == ["GPU busy (%)", "GPU (MiB)"]
    assert {row["rule"]: row["gpu_busy"] for row in page.rows if pd.notna(row["gpu_busy"])} == {
        "train": pytest.approx(70),
        "test": pytest.approx(35),
    }


def test_the_device_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log_device(torch.device("cpu"), "32-true")
    assert re.search(r"device: CPU, \d+ threads, precision 32-true", caplog.text)
    assert device_text(torch.device("cpu"), 2).startswith("2 × CPU")


def test_a_gpu_is_described_in_one_line(
    machine: Install, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    machine(gpu())
    facts = SimpleNamespace(name="Fake", total_memory=16384 * 2**20)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts)
    log_device(torch.device("cuda", 0), "16-mixed")
    assert caplog.messages == ["device: Fake, 16384 MiB, driver 999.1, precision 16-mixed"]


@pytest.mark.slow
def test_provenance_of_a_training_on_two_gpus_counts_all_its_attempts(
    machine: Install, tmp_path: Path
) -> None:
    index = write_cached_set(tmp_path / "set")
    machine(gpu(rate=20, used=1000), gpu(rate=100, used=9000), gpu(rate=40, used=2000))
    training = {"epochs": 1, "steps_per_epoch": 4, "batch": 2, "gpus": 2, "validate_every": 1, "examples": 0}
    words = trainings.command(
        index,
        tmp_path,
        "--workers=0",
        f"--gpus={FREE}",
        settings={**trainings.SETTINGS, "training": training},
    )
    (tmp_path / "often.py").write_text(OFTEN, encoding="utf-8")

    def train(*more: str) -> int:
        call = [*words[:2], "often", *words[3:], *more]
        path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(call, capture_output=True, encoding="utf-8", timeout=900, env=environment)
        # Once, not by each of the two processes, for the two GPUs with the most free memory.
        assert re.findall(r"on GPU (\d) .*, (\d) \(", done.stderr) == [("0", "2")]
        assert len(read_from(done.stderr)) == 1
        return done.returncode

    assert train("--budget-min", "0.001") == 75
    assert train() == 0
    found = json.loads((tmp_path / "provenance.json").read_text(encoding="utf-8"))
    single = [row["gpu"] for row in found["attempts"] if row["event"] != "start"]
    assert len(single) == 2
    assert found["gpu"]["samples"] == sum(each["samples"] for each in single)
    assert (found["gpu"]["busy"], found["gpu"]["peak_mib"]) == (pytest.approx(0.3), 2000)
