"""Trainings with other settings stay, are found again, and go on with more epochs as if planned with them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from foldwise.systems.segmentation.learner import SegmentationLearner
from foldwise.training import checkpoint, folders
from short_trainings import OUTPUTS, PER_EPOCH, assert_equal, starts, train
from synthetic import write_cached_set
from trainings import log

POLYNOMIAL = {"name": "PolynomialLR"}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cached_set(tmp_path_factory.mktemp("set"))


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


def test_a_mistake_costs_no_finished_training(index: Path, tmp_path: Path) -> None:
    """500 epochs by mistake, noticed after the first validation."""
    assert train(index, tmp_path, 6)
    finished = files(tmp_path)
    assert not train(index, tmp_path, 500, pieces=2 * PER_EPOCH + 2, scheduler=POLYNOMIAL)
    assert not (tmp_path / "model.pt").exists()
    assert train(index, tmp_path, 6)
    assert files(tmp_path) == finished
    assert starts(tmp_path) == [0, 0], "nothing was trained again"
    # The mistake can be continued, too.
    assert not train(index, tmp_path, 500, pieces=3, scheduler=POLYNOMIAL)
    assert starts(tmp_path)[2] >= 2 * PER_EPOCH


WARM = {
    "name": "SequentialLR",
    "milestones": [3],
    "schedulers": [
        {"name": "LinearLR", "start_factor": 0.1, "total_iters": 3},
        {"name": "ExponentialLR", "gamma": 0.8},
    ],
}


@pytest.mark.parametrize(
    "scheduler",
    [
        None,
        {"name": "StepLR", "step_size": 3, "gamma": 0.5},
        {"name": "MultiStepLR", "milestones": [2, 6]},
        {"name": "ConstantLR", "factor": 0.5},
        {"name": "CosineAnnealingLR", "T_max": 20},
        {"name": "ReduceLROnPlateau", "patience": 0, "factor": 0.5, "threshold": 1.0},
        WARM,
    ],
    ids=lambda one: one["name"] if one else "none",
)
def test_a_course_that_does_not_depend_on_the_epochs_goes_on_exactly(
    index: Path, tmp_path: Path, scheduler: Any
) -> None:
    """After the end, whose validation is irregular with 5 epochs, and before it, within an epoch."""
    whole, after, before = (tmp_path / name for name in ("whole", "after", "before"))
    assert train(index, whole, 7, scheduler=scheduler)
    assert train(index, after, 5, scheduler=scheduler)
    assert log(after)[-1]["val_dice"]
    assert train(index, after, 7, scheduler=scheduler)
    assert not train(index, before, 5, scheduler=scheduler, pieces=9)
    assert train(index, before, 7, scheduler=scheduler)
    assert starts(after) == [0, 5 * PER_EPOCH]
    assert 2 * PER_EPOCH < starts(before)[1] < 5 * PER_EPOCH
    assert_equal(after, whole)
    assert_equal(before, whole)
    # The shorter one is as it was.
    finished = files(tmp_path / "after")
    assert train(index, after, 5, scheduler=scheduler)
    assert len(log(after)) == 5
    assert train(index, after, 7, scheduler=scheduler)
    assert files(after) == finished
    assert len(starts(after)) == 2


def test_fewer_epochs_train_afresh_and_leave_the_others(index: Path, tmp_path: Path) -> None:
    assert train(index, tmp_path / "fresh", 3)
    assert train(index, tmp_path / "both", 6)
    finished = files(tmp_path / "both")
    assert train(index, tmp_path / "both", 3)
    assert starts(tmp_path / "both") == [0, 0]
    assert_equal(tmp_path / "both", tmp_path / "fresh")
    assert train(index, tmp_path / "both", 6)
    assert files(tmp_path / "both") == finished


def test_models_of_single_epochs_come_along(index: Path, tmp_path: Path) -> None:
    assert train(index, tmp_path, 4, save_every=2)
    assert train(index, tmp_path, 6, save_every=3)
    assert train(index, tmp_path, 8, save_every=2)
    assert starts(tmp_path) == [0, 4 * PER_EPOCH, 6 * PER_EPOCH]
    kept = [
        sorted(int(path.stem.removeprefix("epoch_")) for path in folder.iterdir())
        for folder in tmp_path.glob("state/*/models")
    ]
    assert sorted(kept) == [[2, 4], [6], [6, 8]]


def test_the_weights_to_keep_are_chosen_at_the_end(index: Path, tmp_path: Path) -> None:
    """`keep: last` neither replaces the best epoch for a longer training nor needs a new one."""
    for keep in ("best", "last"):
        assert train(index, tmp_path / f"whole-{keep}", 7, keep=keep)
    assert train(index, tmp_path / "parts", 5, keep="last")
    assert train(index, tmp_path / "parts", 7, keep="last")
    assert_equal(tmp_path / "parts", tmp_path / "whole-last")
    assert train(index, tmp_path / "parts", 7, keep="best")
    assert_equal(tmp_path / "parts", tmp_path / "whole-best")
    assert starts(tmp_path / "parts") == [0, 5 * PER_EPOCH, 7 * PER_EPOCH]


class TestPatience:
    """With given scores: the best is the second, then there are two without improvement."""

    SCORES = (0.5, 0.6, 0.4, 0.3, 0.7, 0.65, 0.66)

    @pytest.fixture
    def trained(self, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        def trained(name: str, patience: int | None, first: int = 0, epochs: int = 7) -> Path:
            """From the score of epoch `first` on."""
            scores = iter(self.SCORES[first:])

            def validated(*_: Any) -> dict[str, float]:
                score = next(scores)
                return {"score": score, "val_dice": score}

            monkeypatch.setattr(SegmentationLearner, "validated", validated)
            plateau = {"name": "ReduceLROnPlateau", "patience": 0}
            folder = tmp_path / name
            assert train(index, folder, epochs, scheduler=plateau, validate_every=1, patience=patience)
            return folder

        return trained

    def test_raised_it_goes_on(self, trained: Any) -> None:
        assert len(log(trained("parts", 2))) == 4
        whole, parts = trained("whole", 3), trained("parts", 3, first=4)
        assert len(log(whole)) == 7
        assert starts(parts) == [0, 4 * PER_EPOCH]
        assert_equal(parts, whole)

    def test_more_epochs_change_nothing_if_it_ended_the_training(self, trained: Any) -> None:
        """Its last state is passed through, and is the end again: no score is left to be asked for."""
        trained("more", 2, epochs=5)
        more = trained("more", 2, first=7)
        assert starts(more) == [0, 4 * PER_EPOCH]
        assert_equal(more, trained("whole", 2))

    def test_lowered_it_trains_afresh(self, trained: Any) -> None:
        """The other one has passed the moment at which this one ends."""
        trained("both", 3)
        assert starts(trained("both", 2)) == [0, 0]
        assert_equal(trained("fresh", 2), trained("both", 2, first=7))


class TestSchedulesThatEndWithTheTraining:
    """The default, PolynomialLR, and others whose length is the number of epochs."""

    def test_more_epochs_start_from_the_beginning_and_say_so(
        self, index: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        fresh, both = tmp_path / "fresh", tmp_path / "both"
        assert train(index, fresh, 6, scheduler=POLYNOMIAL)
        assert train(index, both, 4, scheduler=POLYNOMIAL)
        assert "training.extend" not in caplog.text
        assert train(index, both, 6, scheduler=POLYNOMIAL)
        assert "set training.extend: follow" in caplog.text
        assert starts(both) == [0, 0]
        assert_equal(both, fresh)

    def test_following_the_new_schedule(self, index: Path, tmp_path: Path) -> None:
        assert train(index, tmp_path, 4, scheduler=POLYNOMIAL)
        assert train(index, tmp_path, 6, scheduler=POLYNOMIAL, extend="follow")
        followed = files(tmp_path)
        assert starts(tmp_path) == [0, 4 * PER_EPOCH]
        # 0.01 · (1 − epochs done / epochs planned): those of four, then those of six.
        shares = [1, 3 / 4, 2 / 4, 1 / 4, 2 / 6, 1 / 6]
        assert [float(row["lr"]) for row in log(tmp_path)] == pytest.approx([0.01 * one for one in shares])
        # It is not a training of six epochs, and none goes on from it as if it were.
        assert train(index, tmp_path, 6, scheduler=POLYNOMIAL)
        assert train(index, tmp_path, 6, scheduler=POLYNOMIAL, patience=100)
        assert starts(tmp_path)[2:] == [0, 6 * PER_EPOCH]
        rates = [float(row["lr"]) for row in log(tmp_path)]
        assert rates == pytest.approx([0.01 * (1 - done / 6) for done in range(6)])
        assert train(index, tmp_path, 6, scheduler=POLYNOMIAL, extend="follow")
        assert files(tmp_path) == followed

    @pytest.mark.parametrize(
        ("short", "long"),
        [
            ({"name": "OneCycleLR", "max_lr": 0.02}, {"name": "OneCycleLR", "max_lr": 0.02}),
            (
                {"name": "CosineAnnealingLR", "T_max": 4},
                {"name": "CosineAnnealingLR", "T_max": 6},
            ),
        ],
    )
    def test_rate_and_momentum_are_those_of_the_new_schedule(
        self, index: Path, tmp_path: Path, short: Any, long: Any
    ) -> None:
        assert train(index, tmp_path / "whole", 6, scheduler=long)
        assert train(index, tmp_path / "parts", 4, scheduler=short)
        assert train(index, tmp_path / "parts", 6, scheduler=long, extend="follow")
        assert starts(tmp_path / "parts") == [0, 4 * PER_EPOCH]
        ends = []
        for name in ("whole", "parts"):
            own = torch.load(tmp_path / name / "model.pt", weights_only=True)["fingerprint"]
            saved = torch.load(tmp_path / name / "state" / own / "checkpoint.pt", weights_only=True)
            (group,) = saved["optimiser"]["param_groups"]
            ends.append({key: value for key, value in group.items() if key != "params"})
        assert ends[0] == ends[1]
        rates = [[row["lr"] for row in log(tmp_path / name)][4:] for name in ("whole", "parts")]
        assert rates[0] == rates[1]

    def test_what_does_not_matter_is_no_other_training(self, index: Path, tmp_path: Path) -> None:
        assert train(index, tmp_path, 2)
        assert train(index, tmp_path, 2, extend="follow")
        assert starts(tmp_path) == [0]


def test_a_kept_model_with_other_preparation_is_written_again(index: Path, tmp_path: Path) -> None:
    """The fingerprint is the same, since the caches are; the model's file says how new cases are prepared."""
    assert train(index, tmp_path, 2, prepared={"cache": {"spacing": [1, 1, 1]}})
    first = torch.load(tmp_path / "model.pt", weights_only=True)
    assert train(index, tmp_path, 2, prepared={"cache": {"spacing": [2, 2, 2]}})
    second = torch.load(tmp_path / "model.pt", weights_only=True)
    assert starts(tmp_path) == [0]
    assert second["prepared"] == {"cache": {"spacing": [2, 2, 2]}}
    assert all(torch.equal(first["network"][name], value) for name, value in second["network"].items())


def test_without_links_files_are_copied(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    assert train(index, tmp_path, 2)
    assert (tmp_path / "model.pt").stat().st_nlink == 1
    finished = files(tmp_path)
    assert train(index, tmp_path, 2)
    assert files(tmp_path) == finished


def test_a_finished_training_needs_little_more_than_its_state(index: Path, tmp_path: Path) -> None:
    """Weights, two moments of AdamW and the best weights: four times the weights; the model costs nothing."""
    assert train(index, tmp_path, 2)
    (own,) = (path.parent for path in (tmp_path / "state").glob("*/checkpoint.pt"))
    assert (own / "model.pt").samefile(tmp_path / "model.pt")
    assert not (own / "checkpoint.previous.pt").exists()
    saved = torch.load(own / "checkpoint.pt", weights_only=True)
    weights = sum(value.nbytes for value in saved["network"].values())
    assert (own / "checkpoint.pt").stat().st_size < 3 * weights + 64 * 1024
    assert not (own / "validation.pt").exists()


def test_without_its_state_a_finished_training_is_its_model(
    index: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By default where the learning rate depends on the number of epochs, since none could go on from it."""
    assert train(index, tmp_path, 4, scheduler=POLYNOMIAL, keep_state="auto")
    (own,) = (path.parent for path in (tmp_path / "state").glob("*/model.pt"))
    assert sorted(path.name for path in own.iterdir() if path.is_file()) == sorted(OUTPUTS)
    finished = files(tmp_path)
    assert train(index, tmp_path, 4, scheduler=POLYNOMIAL, keep_state="auto")
    assert (files(tmp_path), starts(tmp_path)) == (finished, [0])
    # Another preparation of new cases is no other training.
    assert train(
        index,
        tmp_path,
        4,
        scheduler=POLYNOMIAL,
        keep_state="auto",
        prepared={"cache": {"spacing": [2, 2, 2]}},
    )
    assert starts(tmp_path) == [0]
    assert train(index, tmp_path, 6, scheduler=POLYNOMIAL, keep_state="auto")
    assert starts(tmp_path) == [0, 0]
    assert "it kept no state to go on from (training.keep_state)" in caplog.text


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ({"scheduler": None}, True),
        ({"scheduler": None, "keep_state": False}, False),
        ({"scheduler": POLYNOMIAL}, False),
        ({"scheduler": POLYNOMIAL, "extend": "follow"}, True),
        ({"scheduler": POLYNOMIAL, "keep_state": True}, True),
        ({"scheduler": POLYNOMIAL, "patience": 1, "validate_every": 1}, True),
    ],
)
def test_a_state_is_kept_where_a_longer_training_would_go_on_from_it(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: Any, kept: bool
) -> None:
    monkeypatch.setattr(SegmentationLearner, "validated", lambda *_: {"score": 0.5, "val_dice": 0.5})
    assert train(index, tmp_path, 3, **{"keep_state": "auto", **more})
    assert bool([*tmp_path.glob("state/*/checkpoint.pt")]) == kept
    assert not [*tmp_path.glob("state/*/checkpoint.previous.pt")]


def test_the_best_weights_of_a_kept_state_are_those_of_its_model(index: Path, tmp_path: Path) -> None:
    """A longer training whose later epochs are no better ends with them."""
    assert train(index, tmp_path, 4)
    first = torch.load(tmp_path / "model.pt", weights_only=True)
    (own,) = (path.parent for path in (tmp_path / "state").glob("*/checkpoint.pt"))
    slim = torch.load(own / "checkpoint.pt", weights_only=True)
    assert slim["best"]["network"] is None
    read = checkpoint.read(own / "checkpoint.pt")
    assert read is not None
    assert all(torch.equal(read["best"]["network"][k], v) for k, v in first["network"].items())
    # Without its model the state is not complete, and is passed over.
    (own / "model.pt").rename(own / "elsewhere.pt")
    assert checkpoint.read(own / "checkpoint.pt") is None


class TestFolders:
    """Checkpoints alone, in the folders of a fold."""

    @staticmethod
    def save(folder: Path, fingerprint: str, step: int = 0, finished: bool = False) -> None:
        checkpoint.save(folder, {"fingerprint": fingerprint, "step": step, "finished": finished})

    @staticmethod
    def steps(state: Path) -> dict[str, int]:
        found = {path.parent.name: torch.load(path) for path in state.glob("*/checkpoint.pt")}
        return {name: saved["step"] for name, saved in found.items()}

    def use(self, state: Path, *names: str, kept: int = 2, finished: bool = False) -> list[str]:
        """Start trainings one after another; returns the names of those that are left."""
        for name in names:
            folders.thin(state / name, kept)
            self.save(state / name, name, finished=finished)
            os.utime(state / name, (self.clock, self.clock))
            self.clock += 1
        return sorted(self.steps(state))

    clock = 1_000_000_000

    def test_finished_ones_outlive_unfinished_ones(self, tmp_path: Path) -> None:
        self.use(tmp_path, *"abc", finished=True)
        assert self.use(tmp_path, *"defg") == [*"bcfg"]

    def test_the_one_used_last_is_the_newest(self, tmp_path: Path) -> None:
        self.use(tmp_path, *"abc", finished=True)
        self.use(tmp_path, "a", finished=True)
        assert self.use(tmp_path, "d") == [*"acd"]

    def test_of_none_to_keep_the_own_and_the_last_unfinished_stay(self, tmp_path: Path) -> None:
        self.use(tmp_path, "a", "b", finished=True)
        assert self.use(tmp_path, *"cd", kept=0) == [*"cd"]

    def test_other_folders_are_not_touched(self, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").touch()
        self.use(tmp_path, *"abcd", kept=0)
        assert (tmp_path / "mine" / "notes.txt").exists()

    def old_layout(self, state: Path) -> None:
        self.save(state, "a", 1)
        self.save(state, "a", 2)
        self.save(state / "others" / "b", "b", 3, finished=True)
        for name, folder in (("a", state), ("b", state / "others" / "b")):
            (folder / "models").mkdir()
            (folder / "models" / f"{name}.pt").touch()

    def test_checkpoints_of_earlier_versions_move(self, tmp_path: Path) -> None:
        state = tmp_path / "state"
        self.old_layout(state)
        (state / "attempts.jsonl").touch()
        folders.adopt_old_layout(state)
        assert self.steps(state) == {"a": 2, "b": 3}
        previous = checkpoint.read(state / "a" / "checkpoint.previous.pt")
        assert previous is not None
        assert previous["step"] == 1
        assert (state / "a" / "models" / "a.pt").exists()
        assert (state / "b" / "models" / "b.pt").exists()
        assert sorted(path.name for path in state.iterdir()) == ["a", "attempts.jsonl", "b"]

    def test_a_previous_one_of_another_training_is_its_newest(self, tmp_path: Path) -> None:
        self.save(tmp_path / "others" / "a", "a", 1)
        self.save(tmp_path, "a", 9, finished=True)
        self.save(tmp_path, "b", 1)
        folders.adopt_old_layout(tmp_path)
        assert self.steps(tmp_path) == {"a": 9, "b": 1}

    def test_a_cut_off_one_leaves_the_previous_one(self, tmp_path: Path) -> None:
        self.save(tmp_path, "a", 1)
        self.save(tmp_path, "a", 2)
        (tmp_path / "checkpoint.pt").write_bytes(b"PK")
        folders.adopt_old_layout(tmp_path)
        assert self.steps(tmp_path) == {"a": 1}

    def test_a_move_that_is_killed_anywhere_loses_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The n-th of all moves is the last one, for every n."""
        rename = Path.replace
        for last in range(8):
            state, moves = tmp_path / str(last), iter(range(last))
            self.old_layout(state)

            def killed(path: Path, target: Path, moves: Iterator[int] = moves) -> Path:
                if next(moves, None) is None:
                    raise KeyboardInterrupt
                return rename(path, target)

            with monkeypatch.context() as patch:
                patch.setattr(Path, "replace", killed)
                try:
                    folders.adopt_old_layout(state)
                    complete = True
                except KeyboardInterrupt:
                    complete = False
            folders.adopt_old_layout(state)
            assert self.steps(state) == {"a": 2, "b": 3}, last
            assert (state / "a" / "models" / "a.pt").exists()
            assert (state / "b" / "models" / "b.pt").exists()
        assert complete, "moves that were never interrupted"

    def test_another_number_of_devices_is_named(
        self, index: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        checkpoint.save(
            tmp_path / "state" / "two", {"fingerprint": "two", "gpus": 2, "step": 0, "finished": False}
        )
        assert train(index, tmp_path, 1)
        assert "(training.gpus: 2, now 1)" in caplog.text


def test_a_finished_training_of_an_earlier_version_is_found(index: Path, tmp_path: Path) -> None:
    """Its checkpoint has no course and its folder no model: it is not trained again, but not extended."""
    assert train(index, tmp_path, 3)
    state = tmp_path / "state"
    (own,) = (path.parent for path in state.glob("*/checkpoint.pt"))
    saved = checkpoint.read(own / "checkpoint.pt")
    assert saved is not None
    old = {key: value for key, value in saved.items() if key not in checkpoint.ADDED}
    before = torch.load(tmp_path / "model.pt", weights_only=True)
    for path in own.iterdir():
        if path.is_file():
            path.unlink()
    torch.save(old, state / "checkpoint.pt")
    assert train(index, tmp_path, 3)
    after = torch.load(tmp_path / "model.pt", weights_only=True)
    assert after["epoch"] == before["epoch"]
    assert all(torch.equal(after["network"][name], value) for name, value in before["network"].items())
    assert train(index, tmp_path, 4)
    assert starts(tmp_path) == [0, 0]
