"""Trainings as processes: their command, and a check that two of them ended with the same model and log."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import torch

from warm import python

SETTINGS = {
    "network": {"name": "BasicUNet", "features": [4, 4, 8, 8, 8, 4], "dropout": 0.1},
    "patch": [32, 32, 32],
    "optimiser": {"name": "AdamW", "lr": 0.01},
    "training": {
        "epochs": 5,
        "steps_per_epoch": 12,
        "batch": 2,
        "validate_every": 2,
        "validation": {"samples": 2},
    },
}
# The newest checkpoint of each training in the folder of `command`.
CHECKPOINT = "state/*/checkpoint.pt"
TIMINGS = ("seconds", "validation_seconds", "data_wait", "peak_mib", "peak_gpu_mib")


def command(index: Path, folder: Path, *more: str, settings: object = SETTINGS) -> list[str]:
    return [
        *(python(), "-m", "foldwise.stages.train", "--settings", json.dumps(settings)),
        *("--index", str(index), "--fold", "0", "--state", str(folder / "state")),
        *("--model", str(folder / "model.pt"), "--log", str(folder / "log.csv")),
        *("--provenance", str(folder / "provenance.json"), "--checkpoint-min", "0.005", *more),
    ]


def finish(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=900)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(folder / "model.pt", weights_only=True)
    return dict(state["network"])


def log(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in TIMINGS} for row in csv.DictReader(file)]


def assert_same(folder: Path, undisturbed: Path) -> None:
    expected, found = weights(undisturbed), weights(folder)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    assert log(folder) == log(undisturbed)
