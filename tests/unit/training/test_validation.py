"""Validation: bounded, resumable case by case, and what it decides."""

import csv
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import trainings
from foldwise.files import CaseError
from foldwise.index import Fold, Index
from foldwise.section import values_for
from foldwise.settings import Training, validate
from foldwise.status import _score, _validation
from foldwise.systems import system_of
from foldwise.systems.segmentation.learner import SegmentationLearner
from foldwise.systems.segmentation.settings import Model
from foldwise.systems.surgical.settings import Model as SurgicalModel
from foldwise.training.attempts import Attempts
from foldwise.training.job import Job
from foldwise.training.loop import Run, Trainer
from foldwise.training.parallel import make_fabric
from foldwise.training.validation import Validation, read_kept
from foldwise.volumes.targets import Targets
from short_trainings import StopsAfter
from synthetic import task, write_cached_set
from trainings import SETTINGS, assert_same, finish, log

CASES = ["a", "b", "c", "d", "e"]


class StandIn:
    """Replaces a system: its weight counts the steps, and a case's value is the weight and its number."""

    evaluate: Any = None
    frozen = True

    def sample_text(self) -> str:
        return "number"

    def __init__(self, losses: Sequence[float] = (), fails: Sequence[str] = ()) -> None:
        self.losses, self.fails, self.seen = iter(losses), set(fails), list[str]()
        self.count = len(losses)

    def network(self) -> torch.nn.Module:
        return torch.nn.Linear(1, 1)

    def parameters(self, network: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
        return network.parameters()

    def items(self, caches: Sequence[str], seed: Sequence[int]) -> Any:
        return [{"x": torch.ones(1)}] * 100

    def loss(self, network: Any, batch: dict[str, torch.Tensor], generator: Any) -> dict[str, torch.Tensor]:
        return {"loss": network(batch["x"]).sum()}

    def examples(self, *given: Any) -> None:
        """Writes none."""

    def validation_items(self, caches: Sequence[str], seed: Sequence[int]) -> Any:
        return [{"x": torch.ones(1)}] if self.count else []

    def validation_loss(self, network: Any, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"loss": torch.tensor(next(self.losses))}

    def validation_columns(self, means: Mapping[str, np.ndarray]) -> dict[str, float]:
        return {"score": -float(means["loss"]), "val_loss": float(means["loss"])}

    def validate_case(self, network: torch.nn.Linear, cache: str, number: int) -> dict[str, Any]:
        self.seen.append(cache)
        if cache in self.fails:
            self.fails.remove(cache)
            raise KeyboardInterrupt  # nothing is written any more, as after a kill
        return {"value": network.weight.item() + number, "array": torch.full((2,), number)}

    def validated(self, cases: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        mean = float(np.mean([case["value"] for case in cases]))
        assert [int(case["array"][0]) for case in cases] == list(range(len(cases)))
        return {"score": mean, "val_dice": mean}


def run_of(folder: Path, epochs: int, scheduler: Any = None, **training: Any) -> Run:
    loop = {"epochs": epochs, "steps_per_epoch": 1, "validate_every": 2, **training}
    settings = {"optimiser": {"name": "SGD", "lr": 0.5}, "scheduler": scheduler, "training": loop}
    return Run(validate(Model, settings), ["t"], CASES, (0, 0), "f", folder)


def trained(run: Run, system: Any, pieces: float = float("inf"), jobs: int = 100) -> Trainer:
    """A training in as many jobs as needed."""
    run.folder.mkdir(exist_ok=True)
    for _ in range(jobs):
        trainer = Trainer(run, system, Attempts(run.folder / "attempts.jsonl", 1), StopsAfter(pieces))
        if trainer.fit():
            break
    return trainer


def rows_of(trainer: Trainer) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in trainings.TIMINGS} for row in trainer.rows]


def test_a_job_for_each_case_repeats_none(tmp_path: Path) -> None:
    whole, parts = StandIn(), StandIn()
    first = trained(run_of(tmp_path / "whole", 3), whole)
    second = trained(run_of(tmp_path / "parts", 3), parts, pieces=1)
    assert whole.seen == parts.seen == 2 * CASES
    assert rows_of(second) == rows_of(first)
    assert first.best is not None
    assert second.best is not None
    assert torch.equal(first.best["network"]["weight"], second.best["network"]["weight"])
    assert not (tmp_path / "parts" / "validation.pt").exists()


@pytest.mark.parametrize("killed", CASES)
def test_a_kill_repeats_the_case_in_which_it_came(tmp_path: Path, killed: str) -> None:
    """In the regular validation; nothing is written after the kill."""
    whole, parts = StandIn(), StandIn(fails=[killed])
    first, run = trained(run_of(tmp_path / "whole", 2), whole), run_of(tmp_path / "parts", 2)
    with pytest.raises(KeyboardInterrupt):
        trained(run, parts)
    assert sorted(read_kept(run.folder / "validation.pt").get("cases", {})) == [*range(CASES.index(killed))]
    second = trained(run, parts)
    place = CASES.index(killed)
    assert parts.seen == [*CASES[: place + 1], *CASES[place:]]
    assert rows_of(second) == rows_of(first)


def test_a_log_has_a_row_from_the_start(tmp_path: Path) -> None:
    """Those who watch a training read it as a table."""
    run = run_of(tmp_path / "run", 2, validate_every=1)
    with pytest.raises(KeyboardInterrupt):
        trained(run, StandIn(fails=[CASES[0]]))
    assert (run.folder / "checkpoint.pt").exists()
    assert not (run.folder / "log.csv").exists()
    trained(run, StandIn())
    assert len(pd.read_csv(run.folder / "log.csv")) == 2


def test_a_kill_after_the_last_case_repeats_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the state with the result is saved."""
    run, system = run_of(tmp_path / "run", 4), StandIn()

    def killed(trainer: Trainer, epoch: int, measured: Any) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_judge", killed)
        trained(run, system)
    assert system.seen == CASES
    trained(run, system)
    assert system.seen == 2 * CASES, "those of the second and of the fourth epoch"


def test_what_is_kept_of_other_weights_is_not_used(tmp_path: Path) -> None:
    """After a broken checkpoint the previous one counts, whose step is another."""
    run, system = run_of(tmp_path / "run", 4), StandIn(fails=["d"])
    with pytest.raises(KeyboardInterrupt):
        trained(run, system)
    kept = read_kept(run.folder / "validation.pt")
    torch.save({**kept, "step": 1}, run.folder / "validation.pt")
    trained(run, system)
    assert system.seen == [*"abcd", *CASES, *CASES]


def test_the_seconds_of_all_jobs_are_summed(tmp_path: Path) -> None:
    run, system = run_of(tmp_path / "run", 2), StandIn(fails=["e"])
    with pytest.raises(KeyboardInterrupt):
        trained(run, system)
    kept = read_kept(run.folder / "validation.pt")
    torch.save({**kept, "seconds": 1000.0}, run.folder / "validation.pt")
    trainer = trained(run, system)
    assert 1000 < trainer.rows[1]["validation_seconds"] < 1100


LOSSES = [5.0, 4.0, 4.5, 3.0, 3.5, 3.2, 3.1, 2.0]


def test_patience_may_watch_the_loss_of_samples(tmp_path: Path) -> None:
    """The lowest is the fourth; two epochs later it ends, and the score of whole cases chooses the epoch."""
    settings = {"patience": 2, "validation": {"watch": "val_loss"}}
    system = StandIn(LOSSES)
    trainer = trained(run_of(tmp_path, 8, **settings), system, pieces=3)
    assert len(trainer.rows) == 6
    # The weight falls, and with it the score.
    assert trainer.best is not None
    assert trainer.best["epoch"] == 2
    assert [row["val_loss"] for row in trainer.rows] == pytest.approx(LOSSES[:6])
    assert ["val_dice" in row for row in trainer.rows] == [False, True] * 3


def test_a_plateau_may_be_one_of_the_loss_of_samples(tmp_path: Path) -> None:
    plateau = {"name": "ReduceLROnPlateau", "patience": 0, "factor": 0.5, "threshold": 0}
    system = StandIn(LOSSES)
    trainer = trained(run_of(tmp_path, 8, plateau, validation={"watch": "val_loss"}), system)
    # Halved after the third, fifth, sixth and seventh epoch.
    rates = [0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.0625, 0.03125]
    assert [row["lr"] for row in trainer.rows] == pytest.approx(rates)


@pytest.mark.parametrize("best", ["val_loss", "samples"])
def test_samples_may_choose_the_epoch_without_any_whole_case(tmp_path: Path, best: str) -> None:
    system = StandIn([3.0, 1.0, float("nan"), 2.0, 2.5])
    settings = {"patience": 2, "validation": {"best": best}}
    run = replace(run_of(tmp_path, 5, **settings), whole=[])
    trainer = trained(run, system, pieces=2)
    assert trainer.best is not None
    assert (trainer.best["epoch"], trainer.best["score"]) == (2, -1.0)
    assert len(trainer.rows) == 5, "an undefined value uses no patience"
    assert system.seen == []


def test_without_validation_cases_the_last_epoch_is_kept(tmp_path: Path) -> None:
    trainer = trained(replace(run_of(tmp_path, 3), validation=[]), StandIn(LOSSES))
    assert trainer.best is not None
    assert trainer.best["epoch"] == 3
    assert "validation_seconds" not in trainer.rows[-1]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"best": "cases", "cases": 0}, "needs cases"),
        ({"best": "val_loss", "samples": 0}, "best: val_loss needs samples"),
        ({"watch": "val_loss", "samples": 0}, "watch: val_loss needs samples"),
    ],
)
def test_what_is_not_measured_cannot_decide(values: dict[str, Any], words: str) -> None:
    with pytest.raises(CaseError, match=words):
        validate(Training, {"validation": values})


def test_a_schedule_in_steps_is_not_chosen_by_samples() -> None:
    training = {"epochs": 9, "validation": {"best": "val_loss"}}
    with pytest.raises(CaseError, match="mtrcnet_cl needs `cases`"):
        validate(SurgicalModel, {"kind": "mtrcnet_cl", "training": training})


def test_what_changes_results_belongs_to_the_training() -> None:
    usual = values_for(Training(), "train")
    for more in ({"cases": 3}, {"cases": None}, {"samples": 4}, {"best": "samples"}, {"watch": "val_loss"}):
        assert values_for(validate(Training, {"validation": more}), "train") != usual
    assert values_for(Training(keep_state=True), "train") == usual


class Meeting:
    """Stands in for the group of processes: threads that exchange values."""

    def __init__(self, size: int) -> None:
        self.barrier, self.values = threading.Barrier(size), dict[int, Any]()


class FakeTeam:
    """One of the threads."""

    def __init__(self, meeting: Meeting, rank: int, size: int) -> None:
        self.meeting, self.rank, self.size = meeting, rank, size
        self.fabric = make_fabric(Training())

    def exchange(self, value: Any) -> list[Any]:
        self.meeting.barrier.wait(60)
        self.meeting.values[self.rank] = value
        self.meeting.barrier.wait(60)
        said = [self.meeting.values[rank] for rank in range(self.size)]
        self.meeting.barrier.wait(60)
        return said

    def of_first(self, work: Any) -> Any:
        return self.exchange(work() if self.rank == 0 else None)[0]


def measured_by(size: int, learner: Any, caches: Sequence[str], network: Any, folder: Path) -> list[Any]:
    """What each of several processes gets from a validation of both kinds."""
    meeting, found, folder = Meeting(size), dict[int, Any](), folder / str(size)
    folder.mkdir()

    def work(rank: int) -> None:
        training = learner.model.training
        team: Any = FakeTeam(meeting, rank, size)
        validation = Validation(learner, training, caches, caches, (0, 0), folder, team, lambda seconds: None)
        validation.resume(7)
        found[rank] = validation.measure(network, 7, samples=True, cases=True, stop=lambda: None)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    columns = [{**found[rank].columns} for rank in range(size)]
    for one in columns:
        one.pop("validation_seconds")
    return columns


class Bright(torch.nn.Module):
    """Class 1 where the image is bright; without weights to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(4.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(image), self.scale * (image + 0.3)], 1)


def segmentation(**training: Any) -> SegmentationLearner:
    settings = {"patch": [8, 8, 8], "training": {"batch": 3, "validation": {"samples": 10}, **training}}
    return SegmentationLearner(validate(Model, settings), task(Targets({"tumour": 1})))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three training cases, five for validation, one to test."""
    path = write_cached_set(tmp_path_factory.mktemp("set"), 9)
    index = Index.read(path)
    names = [entry.case for entry in index.entries]
    fold = Fold(tuple(names[:3]), tuple(names[3:8]), tuple(names[8:]))
    replace(index, folds=(fold,)).write(path, path.with_name("splits.json"))
    return path


def test_several_processes_find_what_one_does(index: Path, tmp_path: Path) -> None:
    caches = [entry.cache for entry in Index.read(index).entries[:5]]
    (alone,) = measured_by(1, segmentation(), caches, Bright(), tmp_path)
    assert alone.keys() == {"val_loss", "patch_dice", "val_dice"}
    for size in (2, 3):
        assert measured_by(size, segmentation(), caches, Bright(), tmp_path) == [alone] * size


def test_the_dice_of_patches_is_that_of_their_voxels(index: Path, tmp_path: Path) -> None:
    """By hand: over all voxels of the ten patches; and patches have no augmentation."""
    caches, learner = [entry.cache for entry in Index.read(index).entries[:5]], segmentation()
    (columns,) = measured_by(1, learner, caches, Bright(), tmp_path)
    items = learner.validation_items(caches, (0, 0, 6))
    both = sizes = 0
    for number in range(10):
        # -1000 to 600 HU are -1 to 1, so the network finds what is above -440 HU.
        seen = items[number]["image"][0].numpy() > -440
        real = items[number]["label"].numpy() == 1
        both, sizes = both + (seen & real).sum(), sizes + seen.sum() + real.sum()
    assert columns["patch_dice"] == pytest.approx(2 * both / sizes, abs=1e-9)
    assert 0 < columns["patch_dice"] <= 1


def test_regions_and_patches_without_any_target() -> None:
    nested = Targets({"a": 1, "b": 2}, {"outer": ("a", "b"), "inner": ("b",)})
    learner = SegmentationLearner(validate(Model, {"patch": [4, 4, 4]}), task(nested))
    label = torch.tensor([0, 1, 2, 2]).reshape(1, 1, 2, 2)
    logits = torch.tensor([[1.0, 1, -1, 1], [-1, -1, -1, 1]]).reshape(1, 2, 1, 2, 2)
    means = {name: value.double().numpy() for name, value in learner._overlap(logits, label).items()}
    # outer: truth 3, found 3, both 2; inner: truth 2, found 1, both 1.
    found = learner.validation_columns({**means, "loss": np.array(0.5)})
    assert found["patch_dice"] == pytest.approx((4 / 6 + 2 / 3) / 2)
    means = {name: value.double().numpy() for name, value in learner._overlap(logits, 0 * label).items()}
    assert np.isnan(learner.validation_columns({**means, "loss": np.array(0.5)})["score"])


def job(index: Path, folder: Path, **validation: Any) -> Job:
    settings = {**SETTINGS, "training": {**trainings.SETTINGS["training"], "validation": validation}}  # type: ignore[dict-item]
    return Job(
        system=system_of("segmentation"),
        settings=validate(Model, settings),
        prepared={},
        index=Index.read(index),
        index_path=index,
        features=None,
        fold=0,
        seed=3,
        state=folder,
        workers=0,
        checkpoint_min=60,
        attempt=1,
        stage_caches=False,
    )


def test_at_most_so_many_cases_are_whole_and_always_the_same(index: Path, tmp_path: Path) -> None:
    runs = [job(index, tmp_path, cases=cases).run() for cases in (3, 3, 5, None)]
    assert [len(run.whole or ()) for run in runs] == [3, 3, 5, 5]
    assert runs[0].whole == runs[1].whole
    assert set(runs[0].whole or ()) < set(runs[0].validation)
    assert len(runs[0].validation) == 5, "samples are of all"
    assert len({run.fingerprint for run in runs}) == 3


KILLS = """
import os, signal
from foldwise.command import run
from foldwise.stages.train import train
from foldwise.systems.segmentation.learner import SegmentationLearner

validate, calls = SegmentationLearner.validate_case, []

def deadly(*args):
    calls.append(1)
    if len(calls) == int(os.environ["DEADLY"]):
        os.kill(os.getpid(), int(os.environ["BY"]))
    return validate(*args)

SegmentationLearner.validate_case = deadly
run(train.main)
"""


@pytest.mark.slow
def test_killed_and_stopped_in_validation_it_ends_bit_equal(index: Path, tmp_path: Path) -> None:
    training: dict[str, Any] = {"epochs": 3, "steps_per_epoch": 2, "batch": 2, "validate_every": 2}
    training["validation"] = {"cases": 4, "samples": 3}
    settings = {**SETTINGS, "training": training}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = finish(trainings.command(index, whole, "--workers", "0", settings=settings))
    assert done.returncode == 0, done.stderr
    (tmp_path / "deadly.py").write_text(KILLS)
    words = trainings.command(index, parts, "--workers", "0", settings=settings)
    words = [word.replace("foldwise.stages.train", "deadly") for word in words]
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    codes, kept = [], []
    # SIGKILL in the third case; then SIGTERM in the next one: it is finished, kept, and the job ends.
    for call, by in ((3, 9), (1, 15), (2, 9), (10**6, 9)):
        environment = {**os.environ, "PYTHONPATH": path, "DEADLY": str(call), "BY": str(by)}
        codes.append(subprocess.run(words, env=environment, capture_output=True, timeout=600).returncode)
        kept.append([len(read_kept(one)["cases"]) for one in parts.glob("state/*/validation.pt")])
    assert codes == [-9, 75, -9, 0]
    assert kept[:2] == [[2], [3]]
    assert_same(parts, whole)
    with (parts / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["val_dice"]) for row in rows] == [False, True, True]
    assert all(row["val_loss"] and row["patch_dice"] and row["validation_seconds"] for row in rows)
    assert log(parts) == log(whole)


class TestStatus:
    """What is said of validations."""

    LOG = tuple(
        {"epoch": n, "loss": 4.0 - n, "val_loss": 1 - n / 10, "patch_dice": n / 10, "seconds": 60.0}
        for n in (1, 2, 3)
    )
    SECONDS = (1.0, 43.6, 1.4)

    @property
    def log(self) -> list[dict[str, float]]:
        """With whole cases in the second epoch."""
        rows = [{**row, "validation_seconds": s} for row, s in zip(self.LOG, self.SECONDS, strict=True)]
        rows[1]["val_dice"] = 0.5
        return rows

    def test_the_score_is_never_a_loss_or_a_dice_of_patches_without_its_name(self) -> None:
        assert _score(self.log, "cases") == "0.5000"
        assert _score(self.log, "samples") == "patch_dice 0.3000"
        assert _score(self.log, "val_loss") == "val_loss 0.7000"
        assert _score(self.LOG, "cases") == "–"

    def test_seconds_of_the_last_whole_one_or_its_progress(self, tmp_path: Path) -> None:
        assert _validation(self.log, tmp_path) == "44 s"
        assert _validation(self.LOG, tmp_path) == "–"
        kept = {"step": 9, "of": 20, "cases": {0: {}, 1: {}}, "seconds": 12.3}
        torch.save(kept, tmp_path / "validation.pt")
        assert _validation(self.log, tmp_path) == "2 of 20 cases, 12 s"
