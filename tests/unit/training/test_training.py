"""Training that survives being killed: real processes, real signals, equal bits."""

import csv
import itertools
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from foldwise.evaluate import marks
from foldwise.files import CaseError
from foldwise.hdf5 import identity_of
from foldwise.index import Index
from foldwise.settings import validate
from foldwise.systems.segmentation.settings import Model
from foldwise.training import steps
from foldwise.training.attempts import Attempts
from foldwise.training.budget import Budget
from foldwise.training.loop import Run, Trainer
from foldwise.training.parallel import LostError
from foldwise.training.steps import StepSampler, batches, collate, step_seed
from foldwise.volumes.patches import Patches
from foldwise.volumes.settings import Intensity, Sampling
from synthetic import write_cached_set
from trainings import CHECKPOINT, SETTINGS, assert_same, command, finish, log, weights


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cached_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def undisturbed(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = finish(command(index, folder, "--workers", "1"))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_killed_at_random_moments_ends_bit_equal(index: Path, undisturbed: Path, tmp_path: Path) -> None:
    moments = random.Random(7)
    attempts = tmp_path / "state" / "attempts.jsonl"
    steps: list[int] = []
    for kill in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        starts = attempts.read_text().count('"start"') if attempts.exists() else 0
        # Also the number of loader processes changes from job to job.
        process = subprocess.Popen(
            command(index, tmp_path, "--workers", str(len(steps) % 3)),
            stderr=subprocess.DEVNULL,
        )
        while not attempts.exists() or attempts.read_text().count('"start"') == starts:
            time.sleep(0.02)
            assert process.poll() is None, "training ended before it could be killed"
        time.sleep(moments.uniform(0.3, 1.2))
        while not list(tmp_path.glob(CHECKPOINT)):
            time.sleep(0.02)
        process.send_signal(kill)
        code = process.wait(timeout=600)
        if code == 0:
            break
        assert code == (-signal.SIGKILL if kill == signal.SIGKILL else 75)
        (saved,) = tmp_path.glob(CHECKPOINT)
        steps.append(torch.load(saved, weights_only=True)["step"])
    assert len(steps) >= 3, steps
    assert steps == sorted(steps), "an attempt lost what an earlier one had saved"
    assert 0 < steps[0] < 60
    assert finish(command(index, tmp_path)).returncode == 0
    assert_same(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_signal_to_all_processes_saves_too(index: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Slurm's SIGTERM reaches loader workers as well; they must not end training before it has saved."""
    process = subprocess.Popen(
        command(index, tmp_path, "--workers", "2", "--checkpoint-min", "60"),
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "epoch 1/5" in line:
            break
    os.killpg(process.pid, signal.SIGTERM)
    _, rest = process.communicate(timeout=600)
    assert process.returncode == 75, rest
    assert "SIGTERM received: saved at step" in rest
    assert finish(command(index, tmp_path)).returncode == 0
    assert_same(tmp_path, undisturbed)


def in_budgets(index: Path, folder: Path, jobs: int = 20) -> list[int]:
    """Exit codes of jobs that end by their time budget, until one finishes.

    If a busy machine leaves no time for more than a few steps, the next job gets more.
    """
    codes: list[int] = []
    minutes, done = 0.05, 0
    while len(codes) < jobs and (not codes or codes[-1] != 0):
        code = finish(command(index, folder, "--budget-min", str(minutes))).returncode
        steps = [json.loads(line)["step"] for line in (folder / "state" / "attempts.jsonl").open()]
        if code == 75 and steps[-1] < done + 10:
            minutes *= 1.5
        if code == 0 or steps[-1] > done:
            codes.append(code)
        done = steps[-1]
    return codes


@pytest.mark.slow
def test_a_time_budget_cuts_training_into_jobs(index: Path, undisturbed: Path, tmp_path: Path) -> None:
    codes = in_budgets(index, tmp_path)
    assert set(codes[:-1]) == {75}
    assert len(codes) > 1
    assert_same(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_cut_off_checkpoint_is_passed_over(index: Path, undisturbed: Path, tmp_path: Path) -> None:
    assert in_budgets(index, tmp_path, jobs=1) == [75]
    (last,) = tmp_path.glob(CHECKPOINT)
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    done = finish(command(index, tmp_path))
    assert done.returncode == 0
    assert "trying the previous one" in done.stderr
    assert_same(tmp_path, undisturbed)


@pytest.mark.slow
def test_other_settings_start_afresh_and_say_so(index: Path, tmp_path: Path) -> None:
    short = {**SETTINGS, "training": {**SETTINGS["training"], "epochs": 1}}  # type: ignore[dict-item]
    assert finish(command(index, tmp_path, settings=short)).returncode == 0
    first = weights(tmp_path)
    changed = {**short, "optimiser": {"name": "SGD", "lr": 0.01}}
    done = finish(command(index, tmp_path, settings=changed))
    assert "training starts from the beginning: the last one here used other settings" in done.stderr
    assert "epoch 1/1" in done.stderr
    provenance = json.loads((tmp_path / "provenance.json").read_text())
    assert provenance["settings"]["optimiser"]["name"] == "SGD"
    assert [row["event"] for row in provenance["attempts"]].count("finished") == 2
    # With the settings restored, the finished training is found again and not repeated.
    back = finish(command(index, tmp_path, settings=short))
    assert back.returncode == 0, back.stderr
    assert "epoch 1/1" not in back.stderr
    assert all(torch.equal(tensor, first[name]) for name, tensor in weights(tmp_path).items())


@pytest.mark.slow
def test_a_bug_is_not_retried_for_ever(index: Path, tmp_path: Path) -> None:
    broken = {**SETTINGS, "optimiser": {"name": "SGD", "lr": 1e30}}
    for attempt in ("1", "2"):
        done = finish(command(index, tmp_path, "--attempt", attempt, settings=broken))
        assert done.returncode == 1
        assert "FloatingPointError" in done.stderr
    third = finish(command(index, tmp_path, "--attempt", "3", settings=broken))
    assert "two attempts failed at step" in third.stderr
    assert "FloatingPointError" in third.stderr
    # A new call of Snakemake counts from 1 again.
    fresh = finish(command(index, tmp_path, "--attempt", "1", settings=broken))
    assert "two attempts failed" not in fresh.stderr


def test_errors_that_come_later_each_time_are_progress(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path / "a.jsonl", 3)
    attempts.note("error", 5, traceback="first")
    attempts.note("error", 9, traceback="second")
    attempts.start(9)
    attempts.note("error", 9, traceback="third")
    with pytest.raises(CaseError, match="second"):
        attempts.start(0)
    Attempts(tmp_path / "a.jsonl", 1).start(0)


def test_errors_with_other_settings_do_not_count(tmp_path: Path) -> None:
    others, own = (Attempts(tmp_path / "a.jsonl", 3, fingerprint) for fingerprint in ("a", "b"))
    for _ in range(2):
        others.note("error", 5, traceback="of other settings")
    own.start(0)
    with pytest.raises(CaseError, match="of other settings"):
        others.start(0)


class Scored:
    """Replaces a system: its validations and losses are given, and it learns nothing."""

    evaluate: Any = None
    frozen = True

    def sample_text(self) -> str:
        return "number"

    def __init__(self, scores: Sequence[float], losses: Sequence[float] = ()) -> None:
        self.scores, self.losses = iter(scores), iter(losses or [1.0] * len(scores))

    def network(self) -> torch.nn.Module:
        return torch.nn.Linear(1, 1)

    def parameters(self, network: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
        return network.parameters()

    def items(self, caches: Sequence[str], seed: Sequence[int]) -> Any:
        return [{"x": torch.ones(1)}] * 100

    def loss(self, network: Any, batch: dict[str, torch.Tensor], generator: Any) -> dict[str, torch.Tensor]:
        return {"loss": 0 * network(batch["x"]).sum() + next(self.losses)}

    def examples(self, *given: Any) -> None:
        """Writes none."""

    def validation_items(self, caches: Sequence[str], seed: Sequence[int]) -> Any:
        return []

    def validate_case(self, network: Any, cache: str, number: int) -> dict[str, Any]:
        return {"dice": next(self.scores)}

    def validated(self, cases: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        return {"score": cases[0]["dice"], "val_dice": cases[0]["dice"]}


class AlwaysStops(Budget):
    """A job takes an epoch."""

    reason = "stopped"


def scored(folder: Path, system: Any, epochs: int, workers: int = 0, **more: Any) -> Trainer:
    """A training with one step per epoch, in as many jobs as epochs."""
    settings = {
        **SETTINGS,
        "training": {"epochs": epochs, "steps_per_epoch": 1, "validate_every": 1, **more.pop("training", {})},
    }
    run = Run(validate(Model, {**settings, **more}), ["a"], ["b"], (0, 0), "f", folder, workers=workers)
    while True:
        folder.mkdir(exist_ok=True)
        trainer = Trainer(run, system, Attempts(folder / "attempts.jsonl", 1), AlwaysStops(None))
        if trainer.fit():
            return trainer


NAN = float("nan")


@pytest.mark.parametrize(
    ("scores", "patience", "kept", "epochs"),
    [
        # No score is informative: the last epoch is kept, and patience has no effect.
        ([NAN] * 4, 1, 4, 4),
        # Nothing was right yet: the longest trained epoch.
        ([0, 0, 0, 0], None, 4, 4),
        ([0, 0, 0, 0], 2, 3, 3),
        # Any score is better than none, and the first of equal scores is kept.
        ([NAN, 0.2, NAN, 0.2], None, 2, 4),
        ([0, 0.5, 0.5, 0], None, 2, 4),
        ([0.5, NAN, 0.4, 0.4], 2, 1, 4),
    ],
)
def test_the_epoch_that_is_kept(
    tmp_path: Path, scores: list[float], patience: int | None, kept: int, epochs: int
) -> None:
    trainer = scored(tmp_path, Scored(scores), 4, training={"patience": patience})
    assert trainer.best is not None
    assert (trainer.best["epoch"], len(trainer.rows)) == (kept, epochs)


def test_a_score_that_is_undefined_is_said_once_and_logged_empty(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plateau = {"name": "ReduceLROnPlateau", "patience": 0, "factor": 0.5}
    trainer = scored(tmp_path, Scored([NAN] * 4, [4.0, 3.0, 2.0, 1.0]), 4, scheduler=plateau)
    assert caplog.text.count("the validation cases give no score") == 1
    with (tmp_path / "log.csv").open() as file:
        assert [row["val_dice"] for row in csv.DictReader(file)] == [""] * 4
    # Then the plateau is that of the loss, which always fell.
    assert [row["lr"] for row in trainer.rows] == [0.01] * 4


class Killed:
    """An item that kills the reading process, as when out of memory."""

    def __getitem__(self, number: int) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


class Hanging:
    """An item that never arrives."""

    def __getitem__(self, number: int) -> Any:
        time.sleep(1000)


def test_a_killed_reader_ends_the_training_as_a_killed_job(tmp_path: Path) -> None:
    system, others = Scored([1.0]), multiprocessing.active_children()
    system.items = lambda caches, seed: Killed()  # type: ignore[method-assign]
    with pytest.raises(LostError, match="most likely because memory ran out"):
        scored(tmp_path, system, 1, workers=2)
    attempts = Attempts(tmp_path / "attempts.jsonl", 1)
    assert [row["event"] for row in attempts.rows()] == ["start"]
    assert attempts.killed == 1, "so that the next job requests more memory"
    assert multiprocessing.active_children() == others


def test_a_hanging_reader_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "STALLED_S", 0.2)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)
    others = multiprocessing.active_children()
    with pytest.raises(RuntimeError, match="timed out"):
        next(batches(Hanging(), 0, 1, 1, workers=1, pin=False))
    assert multiprocessing.active_children() == others


# The first reader can be started, and ignores SIGTERM; descriptors do not suffice for all readers.
FEW_FILES = """
import os, resource, sys
import torch
from foldwise.command import run
from foldwise.training.steps import batches

class Items:
    def __getitem__(self, number):
        return {"x": torch.zeros(1)}

limit = len(os.listdir("/proc/self/fd")) + 10
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
run(lambda: print(len(list(batches(Items(), 0, 9, 1, workers=4, pin=False)))))
"""


def test_readers_that_cannot_all_be_started_end_the_training() -> None:
    done = finish([sys.executable, "-c", FEW_FILES])
    assert done.returncode == 1
    assert "cannot be started ([Errno 24] Too many open files)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: 4 loader processes")


def test_a_patch_that_the_network_cannot_take_is_named(index: Path, tmp_path: Path) -> None:
    done = finish(command(index, tmp_path, settings={**SETTINGS, "patch": [16, 16, 16]}))
    assert done.returncode == 1
    assert "cannot take patches of (16, 16, 16)" in done.stderr
    assert "Traceback" not in done.stderr


def test_steps_are_a_pure_function_of_their_number() -> None:
    whole = list(StepSampler(0, 10, 3))
    assert whole == list(StepSampler(0, 4, 3)) + list(StepSampler(4, 10, 3))
    assert whole[4] == [12, 13, 14]


def test_workers_change_nothing(index: Path) -> None:
    caches = [entry.cache for entry in Index.read(index).entries]
    items = Patches(caches, (16, 16, 16), Sampling(), [Intensity()], (3, 1))
    alone = list(batches(items, 5, 11, 2, workers=0, pin=False))
    helped = list(batches(items, 5, 11, 2, workers=2, pin=False))
    assert len(alone) == len(helped) == 6
    for first, second in zip(alone, helped, strict=True):
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_cases_of_different_types_make_one_batch() -> None:
    kinds = (torch.uint8, torch.int16, torch.float32)
    for first, second in itertools.product(kinds, kinds):
        items = [{"image": torch.tensor([200], dtype=kind)} for kind in (first, second)]
        images = collate(items)["image"]
        assert images.tolist() == [[200], [200]]
        assert images.dtype == max(first, second, key=kinds.index)


def test_seeds_differ_by_step_and_run() -> None:
    assert step_seed((0, 0), 5) == step_seed((0, 0), 5)
    seeds = {step_seed((a, b), n) for a in range(5) for b in range(5) for n in range(100)}
    assert len(seeds) == 2500


@pytest.mark.slow
def test_gradient_accumulation_equals_a_larger_batch(index: Path, tmp_path: Path) -> None:
    """Without augmentation and with a loss that averages over samples, 2 × 2 is 1 × 4."""
    base = {
        **SETTINGS,
        "network": {"name": "BasicUNet", "features": [4, 4, 8, 8, 8, 4]},
        "optimiser": {"name": "SGD", "lr": 0.01},
        "augmentation": None,
    }
    trained = {}
    for name, batch, accumulate in (("large", 4, 1), ("accumulated", 2, 2)):
        training = {"epochs": 1, "steps_per_epoch": 3, "batch": batch, "accumulate": accumulate}
        settings = {**base, "training": training}
        validate(Model, settings)
        assert finish(command(index, tmp_path / name, settings=settings)).returncode == 0
        trained[name] = weights(tmp_path / name)
    for name, tensor in trained["large"].items():
        assert torch.allclose(tensor, trained["accumulated"][name], atol=1e-5), name


def training(**more: object) -> dict[str, object]:
    return {**SETTINGS, "training": {**SETTINGS["training"], **more}}  # type: ignore[dict-item]


@pytest.mark.slow
def test_models_that_are_kept(index: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Every second epoch's model, the last two, the last instead of the best; training itself is the same."""
    wanted = training(save_every=2, save_last=2, keep="last", examples=2)
    done = finish(command(index, tmp_path, settings=wanted))
    assert done.returncode == 0, done.stderr
    kept = sorted(tmp_path.glob("state/*/models/*"))
    assert [path.name for path in kept] == ["epoch_0002.pt", "epoch_0004.pt", "epoch_0005.pt"]
    last = torch.load(kept[-1], weights_only=True)
    final = torch.load(tmp_path / "model.pt", weights_only=True)
    assert (final["epoch"], last["epoch"]) == (5, 5)
    assert all(torch.equal(final["network"][name], last["network"][name]) for name in final["network"])
    assert final.keys() == last.keys()
    assert log(tmp_path) == log(undisturbed)
    assert len(list(tmp_path.glob("state/*/examples/*_image0.nii.gz"))) == 2


@pytest.mark.slow
def test_what_is_kept_beside_the_model_is_no_reason_to_train_again(index: Path, tmp_path: Path) -> None:
    assert finish(command(index, tmp_path)).returncode == 0
    done = finish(command(index, tmp_path, settings=training(save_every=1, examples=3)))
    assert done.returncode == 0
    assert "from the beginning" not in done.stderr
    assert "epoch 1/5" not in done.stderr


def test_an_epoch_sees_every_training_case(index: Path, tmp_path: Path) -> None:
    """Three training cases in batches of two: two steps."""
    assert finish(command(index, tmp_path, settings=training(steps_per_epoch=None, epochs=3))).returncode == 0
    assert [row["step"] for row in log(tmp_path)] == ["2", "4", "6"]


@pytest.mark.slow
def test_a_plateau_is_one_of_the_validation_score(index: Path, tmp_path: Path) -> None:
    """Without patience, the rate is reduced after each validation that is not the best so far."""
    plateau = {"name": "ReduceLROnPlateau", "patience": 0, "factor": 0.5, "threshold": 0}
    wanted = {**training(validate_every=1), "scheduler": plateau}
    done = finish(command(index, tmp_path, settings=wanted))
    assert done.returncode == 0, done.stderr
    rows = log(tmp_path)
    rate, best = 0.01, -1.0
    for row in rows:
        assert float(row["lr"]) == pytest.approx(rate)
        score = float(row["val_dice"])
        rate *= 1 if score > best else 0.5
        best = max(best, score)


def test_killed_attempts_are_counted_and_requeued_ones_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = Attempts(tmp_path / "attempts.jsonl", 1)
    assert attempts.killed == 0
    # Job 7 is requeued once and stops on its own; jobs 8 and 9 end without a record.
    for job, event in (("7", "start"), ("7", "start"), ("7", "stopped"), ("8", "start"), ("9", "start")):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        attempts.note(event, 0)
    assert attempts.killed == 2


@pytest.mark.slow
def test_a_model_says_on_what_it_was_trained(index: Path, undisturbed: Path) -> None:
    state = torch.load(undisturbed / "model.pt", weights_only=True)
    assert state["fold"] == 0
    for entry in Index.read(index).entries:
        found = [mark in state["learnt"] for mark in marks(entry, identity_of(entry.cache)).values()]
        assert set(found) == {entry.case in ("c0", "c1", "c2", "c3")}
        assert (marks(entry)["case"] in state["held_out"]) == (entry.case == "c4")
    # Hashes: they reveal no case and no patient.
    assert all(re.fullmatch("[0-9a-f]{16}", mark) for mark in state["learnt"])
