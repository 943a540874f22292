"""Short trainings of a small network in this process, as Snakemake's jobs would run them."""

import json
from pathlib import Path
from typing import Any

import torch

from foldwise.index import Index
from foldwise.settings import validate
from foldwise.systems import system_of
from foldwise.systems.segmentation.settings import Model
from foldwise.training.budget import Budget
from foldwise.training.job import Job, Made, train_fold
from trainings import assert_same

NETWORK = {"name": "UNet", "channels": [4, 8], "strides": [2], "dropout": 0.1}
PER_EPOCH = 2
OUTPUTS = ("model.pt", "log.csv", "provenance.json")


class StopsAfter(Budget):
    """A time limit that is reached after some steps, validations and checkpoints."""

    def __init__(self, pieces: float) -> None:
        super().__init__(None)
        self.left = pieces

    def spent_on(self, seconds: float) -> None:
        self.left -= 1

    @property
    def reason(self) -> str | None:
        return "stopped" if self.left <= 0 else None


def train(
    index: Path,
    folder: Path,
    epochs: int,
    *,
    scheduler: Any = None,
    pieces: float = float("inf"),
    prepared: Any = None,
    labels: float = 1,
    **training: Any,
) -> bool:
    """A job of a training, after Snakemake has deleted its outputs; whether it finished."""
    folder.mkdir(exist_ok=True)
    for name in OUTPUTS:
        (folder / name).unlink(missing_ok=True)
    loop = {
        "epochs": epochs,
        "steps_per_epoch": PER_EPOCH,
        "batch": 1,
        "validate_every": 2,
        "keep_state": True,
        "validation": {"samples": 2},
    }
    loop |= training
    settings = {
        "network": NETWORK,
        "patch": [16, 16, 16],
        "optimiser": {"name": "AdamW", "lr": 0.01},
        "scheduler": scheduler,
        "labels": labels,
        "training": loop,
    }
    job = Job(
        system=system_of("segmentation"),
        settings=validate(Model, settings),
        prepared=prepared or {},
        index=Index.read(index),
        index_path=index,
        features=None,
        fold=0,
        seed=0,
        state=folder / "state",
        workers=0,
        checkpoint_min=60,
        attempt=1,
        stage_caches=False,
    )
    return train_fold(job, StopsAfter(pieces), Made.within(folder)) == 0


def starts(folder: Path) -> list[int]:
    """The step at which each job started to train."""
    rows = [json.loads(line) for line in (folder / "state" / "attempts.jsonl").open()]
    return [row["step"] for row in rows if row["event"] == "start"]


def assert_equal(folder: Path, other: Path) -> None:
    assert_same(folder, other)
    best, expected = (torch.load(one / "model.pt", weights_only=True) for one in (folder, other))
    assert (best["epoch"], best["score"]) == (expected["epoch"], expected["score"])
