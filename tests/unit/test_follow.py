"""News of a local run: what advanced, once, at most every half minute, and never at the cost of the run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments import TINY, unread
from foldwise import follow
from foldwise.files import write_json
from foldwise.follow import Follower, News
from foldwise.store import Store
from foldwise.training.attempts import Attempts
from foldwise.training.pulse import Pulse


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(follow.time, "monotonic", lambda: now[0])
    return now


class Run:
    """Files that a fold's jobs would write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened = unread(results=str(folder), models={"unet": TINY | {"training": {"epochs": 12}}})
        self.state = folder / "x/state/unet/fold1"
        self.attempts = Attempts(self.state / "train" / "attempts.jsonl", 1, "abc")

    def epochs(self, count: int) -> None:
        rows = "".join(f"{n + 1},0.5,0.75,60\n" for n in range(count))
        path = self.state / "train/abc/log.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"epoch,loss,val_dice,seconds\n{rows}", encoding="utf-8")

    def step(self, epoch: int, done: int) -> None:
        pulse = Pulse(self.state / "train/abc", 12, silent=False)
        pulse.begin(epoch)
        pulse.step(done, 60, 0.4)

    def predict(self, name: str, share: str = "predictions") -> None:
        Store(self.state / share).put(lambda path: path.write_text(name), name, 1)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_an_epoch_is_told_at_once_and_steps_every_half_minute(run: Run, clock: list[float]) -> None:
    # What an earlier call left is no news.
    run.attempts.start(0)
    run.epochs(2)
    news = News(run.opened)
    assert list(news()) == []
    run.attempts.start(0)
    assert list(news()) == ["unet fold 1: epoch 2 of 12, loss 0.5, validation Dice 0.75, 10 min left"]
    assert list(news()) == []
    run.step(3, 15)
    clock[0] += 29
    assert list(news()) == []
    clock[0] += 1
    assert list(news()) == ["unet fold 1: epoch 3 of 12, step 15 of 60, loss 0.4, 10 min left"]
    run.step(3, 30)
    assert list(news()) == []
    run.epochs(3)
    assert list(news()) == ["unet fold 1: epoch 3 of 12, loss 0.5, validation Dice 0.75, 9 min left"]
    run.epochs(12)
    run.attempts.note("finished", 720)
    assert list(news()) == ["unet fold 1: epoch 12 of 12, loss 0.5, validation Dice 0.75"]
    # Nothing is read any more.
    run.epochs(1)
    assert list(news()) == []


def test_cases_are_counted(run: Run, clock: list[float]) -> None:
    run.predict("old")
    folds = [{"test": ["a"], "validation": []}, {"test": ["old", "a", "b", "c"], "validation": ["v", "w"]}]
    write_json(run.folder / "x/splits.json", {"folds": folds})
    news = News(run.opened)
    assert list(news()) == []
    run.predict("a")
    run.predict("v", "validation")
    assert sorted(news()) == [
        "unet fold 1: 1 of 2 validation cases predicted",
        "unet fold 1: 2 of 4 cases predicted",
    ]
    run.predict("b")
    assert list(news()) == []
    # The last one is told at once.
    run.predict("c")
    assert list(news()) == ["unet fold 1: 4 of 4 cases predicted"]
    Store(run.state / "predictions").clear()
    assert list(news()) == []
    run.predict("a")
    clock[0] += 30
    assert list(news()) == ["unet fold 1: 1 of 4 cases predicted"]


def follower(news: Callable[[], Iterator[str]], **more: Any) -> tuple[Follower, list[str], list[str]]:
    told: list[str] = []
    debug: list[str] = []
    made = Follower(news, told.append, debug.append, **more)
    return made, told, debug


def test_a_failure_is_said_once_and_news_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "LOOK_S", 0.01)
    calls = iter(range(1000))

    def news() -> Iterator[str]:
        if next(calls) < 5:
            raise OSError("the disk is gone")
        yield "a line"

    made, told, debug = follower(news)
    made.start()
    wait_until(lambda: bool(told))
    made.stop()
    assert not made.is_alive()
    assert debug == ["no progress is shown: OSError: the disk is gone"]
    assert made.daemon


def test_it_ends_with_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "LOOK_S", 0.01)
    closed = threading.Event()
    made, _, _ = follower(lambda: iter(()), over=closed.is_set)
    made.start()
    assert made.is_alive()
    closed.set()
    made.join(10)
    assert not made.is_alive()


def test_a_look_costs_next_to_nothing(run: Run) -> None:
    """With ten trainings: less than a thousandth of a core, at a look every two seconds."""
    run.opened = unread(results=str(run.folder), models={f"m{n}": TINY for n in range(2)}, split={"folds": 5})
    for model in ("m0", "m1"):
        for fold in range(5):
            state = run.folder / f"x/state/{model}/fold{fold}/train"
            Attempts(state / "attempts.jsonl", 1, "abc").start(0)
    news = News(run.opened)
    begun = time.process_time()
    for _ in range(100):
        list(news())
    assert time.process_time() - begun < 100 * follow.LOOK_S / 1000


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_lines_go_through_snakemakes_logger(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from snakemake.logging import DefaultFilter, DefaultFormatter, logger
    from snakemake.settings.enums import Quietness

    monkeypatch.setattr(follow, "LOOK_S", 0.01)
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[assignment, method-assign]
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        follow.follow(run.opened)
        run.epochs(1)
        run.attempts.start(0)
        wait_until(lambda: bool(records))
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    (record,) = records
    assert DefaultFormatter().format(record).startswith("unet fold 1: epoch 1 of 12, loss 0.5")
    for quiet, shown in ((set(), True), ({Quietness.RULES}, True), ({Quietness.PROGRESS}, False)):
        assert DefaultFilter(quiet, False, False, False, False).filter(record) == shown
    wait_until(lambda: not any(thread.name == "foldwise progress" for thread in threading.enumerate()))
