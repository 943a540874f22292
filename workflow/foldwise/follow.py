"""Lines in the terminal of a local run: how far its trainings and predictions are.

A thread of Snakemake's own process reads the small files that jobs write, so that hours of training are not
silent. It prints through Snakemake's logger, as a message without an event, which every log handler shows.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from foldwise.experiment.open import Opened
from foldwise.files import read_json
from foldwise.store import SUFFIX
from foldwise.told import sentence, told_in

# Between two looks, and between two lines of a job within an epoch. s.
LOOK_S, LINE_S = 2.0, 30.0


def follow(opened: Opened[Any, Any]) -> None:
    """Print lines until this process ends, or until the run's log handlers are closed.

    Args:
        opened: the experiment, in the user's own call, whose jobs run here.
    """
    from snakemake.logging import logger
    from snakemake.settings.enums import Quietness

    def tell(line: str) -> None:
        logger.info(line, extra={"quietness": Quietness.PROGRESS})

    def over() -> bool:
        return not logger.handlers

    follower = Follower(News(opened), tell, logger.debug, over)
    follower.start()
    # Ended before Python is: a thread that prints then could stop it.
    atexit.register(follower.stop)


class Follower(threading.Thread):
    """Tells the news every few seconds; a failure is said once, where only developers look."""

    def __init__(
        self,
        news: Callable[[], Iterator[str]],
        tell: Callable[[str], Any],
        debug: Callable[[str], Any],
        over: Callable[[], bool] = lambda: False,
    ) -> None:
        """Store what to do.

        Args:
            news: returns new lines.
            tell: prints a line.
            debug: prints why there is no news.
            over: whether to end.
        """
        super().__init__(name="foldwise progress", daemon=True)
        self._news, self._tell, self._debug, self._over = news, tell, debug, over
        self._ended, self._failed = threading.Event(), False

    def run(self) -> None:
        """Look until the end."""
        while not self._ended.wait(LOOK_S) and not self._over():
            try:
                for line in self._news():
                    self._tell(line)
            except Exception as error:  # progress is worth no failure
                if not self._failed:
                    self._debug(f"no progress is shown: {type(error).__name__}: {error}")
                self._failed = True

    def stop(self) -> None:
        """Tell nothing any more."""
        self._ended.set()
        self.join(1)


class News:
    """What has advanced since the last call, in lines; an epoch at once, steps and cases now and then."""

    def __init__(self, opened: Opened[Any, Any]) -> None:
        """What is there already is no news."""
        self._opened, paths = opened, opened.paths
        models = list(opened.settings.models)
        self._trainings = {
            (model, fold): Path(paths.work("train", model, str(fold)))
            for model in models
            for fold in opened.folds
        }
        self._counted: dict[str, tuple[Path, Callable[[], int]]] = {}
        for model, fold in self._trainings:
            for share, part, kind in (
                ("predictions", "test", ""),
                ("validation", "validation", "validation "),
            ):
                name = f"{model} fold {fold}: {{}} of {{}} {kind}cases predicted"
                self._counted[name] = Path(paths.work(share, model, str(fold))), self._held(fold, part)
        for model in models:
            ensemble, new = (Path(paths.work(w, model)) for w in ("ensemble", Path(paths.predicted).name))
            self._counted[f"{model} ensemble: {{}} of {{}} cases predicted"] = (
                ensemble,
                lambda: len(opened.others),
            )
            if opened.settings.predict is not None:
                self._counted[f"{model}: {{}} of {{}} new cases predicted"] = (
                    new,
                    lambda: len(opened.new_cases),
                )
        self._idle = {key: _stamp(state) for key, state in self._trainings.items()}
        self._seen: dict[Any, Any] = {name: _count(folder) for name, (folder, _) in self._counted.items()}
        self._told: dict[Any, float] = {}

    def __call__(self) -> Iterator[str]:
        """The news."""
        now = time.monotonic()
        for (model, fold), state in self._trainings.items():
            key = model, fold
            stamp = _stamp(state)
            if stamp == self._idle[key]:
                continue
            told = told_in(state)
            if told.history and told.history[-1]["event"] != "start":
                self._idle[key] = stamp
            line = sentence(told, self._opened.settings.models[model].training.epochs)
            epoch = told.folder, len(told.rows)
            mark = *epoch, told.pulse.get("what"), told.pulse.get("done")
            before = self._seen.get(key, (None,) * 4)
            at_once = epoch != before[:2]
            if line is not None and mark != before and (at_once or self._due(key, now)):
                self._seen[key], self._told[key] = mark, now
                yield f"{model} fold {fold}: {line}"
        for text, (folder, total) in self._counted.items():
            count, before = _count(folder), self._seen[text]
            if count > before and (count == total() or self._due(text, now)):
                self._seen[text], self._told[text] = count, now
                yield text.format(count, total())
            elif count < before:  # another job begins, or one has handed over its files
                self._seen[text] = count

    def _due(self, key: Any, now: float) -> bool:
        return now - self._told.get(key, -LINE_S) >= LINE_S

    def _held(self, fold: int, part: str) -> Callable[[], int]:
        path = Path(self._opened.paths.experiment) / "splits.json"
        return lambda: len(read_json(path)["folds"][fold][part])


def _stamp(state: Path) -> tuple[int, int] | None:
    """Time and size of a training's history, which changes when a job begins or ends."""
    with suppress(OSError):
        found = (state / "attempts.jsonl").stat()
        return found.st_mtime_ns, found.st_size
    return None


def _count(folder: Path) -> int:
    """Number of files that a job has kept there."""
    with suppress(OSError), os.scandir(folder) as entries:
        return sum(entry.name.endswith(SUFFIX) and entry.name[0] != "." for entry in entries)
    return 0
