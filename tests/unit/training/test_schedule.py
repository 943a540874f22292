"""Learning rates by epoch and by step, against torch's own schedules stepped by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as torch_schedules

from foldwise.files import CaseError
from foldwise.settings import Named, Training, validate
from foldwise.training.schedule import Schedule, length_of
from short_trainings import PER_EPOCH, assert_equal, starts, train
from synthetic import write_cached_set
from trainings import log

COSINE = {"name": "CosineAnnealingLR"}
PLATEAU = {"name": "ReduceLROnPlateau", "patience": 0, "factor": 0.5, "threshold": 0}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cached_set(tmp_path_factory.mktemp("set"))


def optimiser(*rates: float) -> torch.optim.Optimizer:
    """One group of parameters for each rate."""
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])


def schedule_of(named: Mapping[str, Any] | None, own: torch.optim.Optimizer, training: Training) -> Schedule:
    given = None if named is None else validate(Named, named)
    return Schedule(given, own, training, length_of(training))


def rates(named: Mapping[str, Any] | None, epochs: int, steps: int = 1, **given: Any) -> list[float]:
    """The rate of every optimiser step."""
    training = Training(epochs=epochs, steps_per_epoch=steps, **given)
    own = optimiser(1.0)
    schedule, found = schedule_of(named, own, training), []
    for _ in range(epochs):
        for _ in range(steps):
            found.append(own.param_groups[0]["lr"])
            own.step()
            schedule.after_step()
        schedule.after_epoch(None)
    return found


def by_torch(make: Callable[[torch.optim.Optimizer], Any], length: int) -> list[float]:
    own = optimiser(1.0)
    schedule, found = make(own), []
    for _ in range(length):
        found.append(own.param_groups[0]["lr"])
        own.step()
        schedule.step()
    return found


def test_schedules_by_name() -> None:
    assert rates({"name": "PolynomialLR"}, 4) == pytest.approx([1, 0.75, 0.5, 0.25])
    assert rates({"name": "PolynomialLR", "total_iters": 2}, 4) == pytest.approx([1, 0.5, 0, 0])
    assert rates({"name": "StepLR", "step_size": 2, "gamma": 0.1}, 4) == pytest.approx([1, 1, 0.1, 0.1])
    warm = {"name": "LinearLR", "start_factor": 0.5, "total_iters": 2}
    chain = {
        "name": "SequentialLR",
        "schedulers": [warm, {"name": "ConstantLR", "factor": 1}],
        "milestones": [2],
    }
    assert rates(chain, 4) == pytest.approx([0.5, 0.75, 1, 1])
    with pytest.raises(CaseError, match="did you mean StepLR"):
        rates({"name": "StpLR"}, 3)


@pytest.mark.parametrize(
    ("named", "make"),
    [
        (COSINE, lambda own: torch_schedules.CosineAnnealingLR(own, T_max=12)),
        ({"name": "PolynomialLR", "power": 0.9}, lambda own: torch_schedules.PolynomialLR(own, 12, 0.9)),
        (
            {"name": "OneCycleLR", "max_lr": 0.1},
            lambda own: torch_schedules.OneCycleLR(own, max_lr=0.1, total_steps=12),
        ),
        (
            {"name": "StepLR", "step_size": 5, "gamma": 0.5},
            lambda own: torch_schedules.StepLR(own, step_size=5, gamma=0.5),
        ),
        (
            {"name": "MultiStepLR", "milestones": [2, 7]},
            lambda own: torch_schedules.MultiStepLR(own, milestones=[2, 7]),
        ),
    ],
    ids=lambda one: one["name"] if isinstance(one, dict) else "",
)
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")
def test_by_step_lengths_are_in_steps(named: Any, make: Any) -> None:
    """Three epochs of four steps; by epoch, the rate is the same in all steps of one."""
    expected = by_torch(make, 12)
    assert rates(named, 3, 4, schedule_by="step") == expected
    assert len(set(expected)) > 2
    by_epoch = rates(named, 3, 4)
    assert [by_epoch[place] for place in (0, 4, 8)] == by_epoch[3::4]


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")
@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_warm_up_and_cosine_are_torch_s_sequence() -> None:
    def make(own: torch.optim.Optimizer) -> Any:
        parts = [
            torch_schedules.LinearLR(own, start_factor=0.1, total_iters=4),
            torch_schedules.CosineAnnealingLR(own, T_max=8),
        ]
        return torch_schedules.SequentialLR(own, parts, milestones=[4])

    given = rates(COSINE, 3, 4, schedule_by="step", warmup=4, warmup_from=0.1)
    assert given == pytest.approx(by_torch(make, 12), abs=1e-12)
    # The same by epoch, of which each has a rate.
    assert rates(COSINE, 12, warmup=4, warmup_from=0.1) == given


def test_warm_up_by_hand() -> None:
    assert rates(None, 1, 6, schedule_by="step", warmup=4, warmup_from=0) == [0, 0.25, 0.5, 0.75, 1, 1]
    assert rates(None, 4, 2, warmup=2, warmup_from=0.5) == [0.5, 0.5, 0.75, 0.75, 1, 1, 1, 1]
    # Each group rises to its own rate, exactly.
    own = optimiser(0.3, 0.07)
    schedule = schedule_of(None, own, Training(epochs=9, warmup=3, warmup_from=0.1))
    seen = [[group["lr"] for group in own.param_groups]]
    for _ in range(4):
        schedule.after_epoch(None)
        seen.append([group["lr"] for group in own.param_groups])
    assert seen[0] == pytest.approx([0.03, 0.007])
    assert seen[1] == pytest.approx([0.3 * 0.4, 0.07 * 0.4])
    assert seen[3] == seen[4] == [0.3, 0.07]


@pytest.mark.parametrize("by", ["step", "epoch"])
def test_a_plateau_is_judged_once_it_is_warm(by: str) -> None:
    """A warm-up to the middle of the third epoch, or to its begin; then every worse epoch halves the rate."""
    training = validate(
        Training, {"epochs": 9, "steps_per_epoch": 2, "schedule_by": by, "warmup": 5 if by == "step" else 2}
    )
    own = optimiser(1.0)
    schedule, found = schedule_of(PLATEAU, own, training), []
    for worse in range(6):
        for _ in range(2):
            own.step()
            schedule.after_step()
        schedule.after_epoch(float(worse) if worse != 4 else None)
        found.append(own.param_groups[0]["lr"])
    # The third epoch is the first to be compared with; the fifth is not validated.
    assert found[1:] == ([0.01 + 0.99 * 4 / 5, 1, 0.5, 0.5, 0.25] if by == "step" else [1, 1, 0.5, 0.5, 0.25])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 3, "warmup": 3}, "warmup: 3 epochs, but the whole training has 3.*schedule_by: step"),
        ({"epochs": 3, "steps_per_epoch": 2, "schedule_by": "step", "warmup": 7}, "7 steps, .* has 6"),
    ],
)
def test_a_warm_up_that_never_ends_is_refused(given: Any, message: str) -> None:
    with pytest.raises(CaseError, match=message):
        schedule_of(COSINE, optimiser(1.0), validate(Training, given))


def test_an_epoch_that_learns_nothing_is_refused() -> None:
    with pytest.raises(CaseError, match="the first epoch would learn nothing"):
        validate(Training, {"warmup": 2, "warmup_from": 0})


STEPPED: dict[str, Any] = {"schedule_by": "step", "warmup": 3, "warmup_from": 0.5}


@pytest.mark.parametrize("scheduler", [COSINE, PLATEAU, None], ids=["cosine", "plateau", "none"])
def test_stopped_within_epochs_it_ends_bit_equal(index: Path, tmp_path: Path, scheduler: Any) -> None:
    """A job for each step, so that the third is resumed within the warm-up and the fourth after it."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(index, whole, 3, scheduler=scheduler, steps_per_epoch=3, **STEPPED)
    jobs = 1
    while not train(index, parts, 3, scheduler=scheduler, steps_per_epoch=3, pieces=1, **STEPPED):
        jobs += 1
    assert jobs > 6
    assert_equal(parts, whole)
    written = [float(row["lr"]) for row in log(whole)]
    assert written == [float(row["lr"]) for row in log(parts)]
    # Those of the epochs' last steps, the third, sixth and ninth: warm-up from 0.005, then cosine of 6 steps.
    assert written[0] == pytest.approx(0.01 * (0.5 + 0.5 * 2 / 3))
    if scheduler is COSINE:
        turns = [0.01 * (1 + math.cos(math.pi * done / 6)) / 2 for done in (2, 5)]
        assert written[1:] == pytest.approx(turns)


def test_more_epochs_with_a_warm_up(index: Path, tmp_path: Path) -> None:
    """A constant rate after it does not depend on the end; a cosine does, unless told to follow."""
    assert train(index, tmp_path / "whole", 4, **STEPPED)
    for epochs in (2, 4):
        assert train(index, tmp_path / "parts", epochs, **STEPPED)
    assert starts(tmp_path / "parts") == [0, 2 * PER_EPOCH]
    assert_equal(tmp_path / "parts", tmp_path / "whole")
    # Another warm-up is another training.
    assert train(index, tmp_path / "parts", 4, **{**STEPPED, "warmup": 2})
    assert starts(tmp_path / "parts")[2:] == [0]

    cosine = tmp_path / "cosine"
    assert train(index, cosine, 4, scheduler=COSINE, **STEPPED)
    assert train(index, cosine, 5, scheduler=COSINE, **STEPPED)
    assert train(index, cosine, 6, scheduler=COSINE, extend="follow", **STEPPED)
    assert starts(cosine) == [0, 0, 5 * PER_EPOCH]
    last = float(log(cosine)[-1]["lr"])
    assert last == pytest.approx(0.01 * (1 + math.cos(math.pi * 8 / 9)) / 2), (
        "step 12: 8 of 9 after the warm-up"
    )


def test_defaults_leave_the_fingerprints_of_trainings(index: Path, tmp_path: Path) -> None:
    assert train(index, tmp_path, 1)
    assert train(index, tmp_path, 1, schedule_by="epoch", warmup=0)
    assert starts(tmp_path) == [0]
    assert train(index, tmp_path, 1, schedule_by="step")
    assert starts(tmp_path) == [0, 0]
    (row,) = (json.loads(path.read_text()) for path in tmp_path.glob("provenance.json"))
    assert row["settings"]["training"]["schedule_by"] == "step"


def test_rates_rise_and_fall_once() -> None:
    found = rates(COSINE, 5, 20, schedule_by="step", warmup=10)
    top = found.index(max(found))
    assert top == 10
    assert all(a < b for a, b in pairwise(found[: top + 1]))
    assert all(a > b for a, b in pairwise(found[top:]))
