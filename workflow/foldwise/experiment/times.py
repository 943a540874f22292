"""How long jobs may take: from the work that they have to do, and from what past jobs took."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from math import ceil
from pathlib import Path
from typing import Any, Generic

from foldwise.experiment.jobs import PART_THREADS, SCORED, Jobs
from foldwise.experiment.parts import Parts
from foldwise.experiment.past import Past
from foldwise.forecast import forward_seconds
from foldwise.sheet import AnyCase
from foldwise.systems.base import AnySettings, System
from foldwise.training.attempts import Attempts

# Besides its work, a job starts two Snakemakes and imports libraries, perhaps from a slow file system. min.
LEAST = 15
# How much longer than expected a job may take; less where past jobs of this experiment were measured.
MARGIN, MEASURED = 3, 2
# Jobs whose speed depends on the GPU, if it was not measured yet. min.
LEAST_ON_GPU = 60
# Few partitions allow more. Jobs that take longer keep their work for the next one.
DAY = 1440
# The longest part of a training, which goes on in the next job. min.
SLICE = 240
# Time per case of jobs that read facts about all cases. s.
PER_CASE = {"index": 0.2, "metrics": 0.05, "plan": 5.0, "update_labels": 0.2, "report": 2.0}
# The last epochs tell how long the next ones take.
RECENT = 5


class Times(Generic[AnySettings, AnyCase]):
    """Time limits of an experiment's jobs."""

    def __init__(
        self,
        system: System[AnySettings, AnyCase],
        settings: AnySettings,
        parts: Parts[AnyCase],
        jobs: Jobs[AnySettings, AnyCase],
        past: Past,
        new: Callable[[], int],
    ) -> None:
        """Keep the experiment.

        Args:
            system: of the experiment.
            settings: completed by the plan, if one exists.
            parts: how the preparation is divided.
            jobs: sizes of cases and models.
            past: what past jobs took.
            new: counts the new cases to predict.
        """
        self._system, self._settings, self._parts = system, settings, parts
        self._jobs, self._past, self._new = jobs, past, new
        # It sums over all cases, and hundreds of jobs ask for the same.
        self._known = cache(self._expect)

    def minutes(self, rule: str, which: str = "", attempt: int = 1) -> int:
        """The time limit of a job, for `runtime`; longer with each retry, a day at most.

        Args:
            rule: name of the rule.
            which: the case, <folder>_<part of the cases>, or the model.
            attempt: number of the try, from 1.
        """
        expected, ratio = self.expected(rule, which), self._ratio(rule, which)
        if ratio is None:
            least, margin = LEAST_ON_GPU if rule in self._predicting else LEAST, float(MARGIN)
        else:
            least, margin = LEAST, MEASURED * ratio
        return min(DAY, 5 * ceil((least + attempt * margin * expected / 60) / 5))

    def training(self, model: str, state: Path) -> int:
        """The same of a training: a part of it, or what is left.

        Args:
            model: name of the model.
            state: folder of the fold's trainings.
        """
        rows = Attempts(state / "attempts.jsonl", 1).rows()
        epochs = self._settings.models[model].training.epochs
        with suppress(IndexError, KeyError, OSError, ValueError):
            log = state / str(rows[-1]["fingerprint"]) / "log.csv"
            with log.open(encoding="utf-8", newline="") as file:
                took = [_epoch_seconds(row) for row in csv.DictReader(file)]
            left = statistics.mean(took[-RECENT:]) * max(1, epochs - len(took))
            return min(SLICE, 5 * ceil((LEAST + MEASURED * left / 60) / 5))
        return SLICE

    def expected(self, rule: str, which: str = "") -> float:
        """The time of a job's work on a slow node, in s."""
        return self._known(rule, which)

    def _expect(self, rule: str, which: str) -> float:
        if rule in self._predicting:
            return self._predicting[rule](which)
        stages, footprint = self._parts.preparation.stages, self._system.footprint
        cases = self._parts.preparation.cases
        if rule in stages:
            return footprint.case_seconds(rule, self._jobs.sizes[which], self._settings)
        if rule == "prepare_part":
            folder, _, part = which.partition("_")
            settings, names = self._jobs.filling(folder), self._parts.stages(folder)
            sizes = [self._jobs.sizes[case.name] for case in self._parts.cases(part)]
            each = [footprint.case_seconds(name, size, settings) for size in sizes for name in names]
            return sum(each) / PART_THREADS
        if rule in PER_CASE:
            return PER_CASE[rule] * len(cases)
        # Which cases a fold gets is not known yet.
        counts = {"check": len(cases), "export": max(self._held_out, self._others)}
        counts["score"], counts["publish"] = min(SCORED, counts["export"]), self._new_cases()
        stage = "export" if rule == "publish" else rule
        return counts[rule] * self._mean(lambda size: footprint.case_seconds(stage, size, self._settings))

    @property
    def _predicting(self) -> dict[str, Callable[[str], float]]:
        """Rules that predict: model → expected time."""
        folds, further = self._settings.split.folds, self._settings.further_tests
        repeated = {
            name: partial(lambda passes, model: passes * self._held_out * self._predict(model), test.passes)
            for name, test in further.items()
        }
        return {
            **repeated,
            "test": lambda model: self._held_out * self._predict(model),
            "features": lambda model: (self._cases - self._others) * self._predict(model),
            "ensemble": lambda model: self._others * folds * self._predict(model),
            "predict_part": lambda model: (
                self._new_cases() * (folds * self._predict(model) + self._prepare())
            ),
        }

    def _predict(self, model: str) -> float:
        step, predict = self._jobs.step(model), self._system.footprint.predict_seconds
        return self._mean(lambda size: predict(self._settings, model, size, step))

    def _prepare(self) -> float:
        """Preparing a new case."""
        seconds, stages = self._system.footprint.case_seconds, self._parts.preparation.stages
        return self._mean(lambda size: sum(seconds(stage, size, self._settings) for stage in stages))

    def _new_cases(self) -> int:
        """The cases of a part."""
        return ceil(self._new() / self._settings.predict.parts) if self._settings.predict else 0

    def _ratio(self, rule: str, which: str) -> float | None:
        """How much longer than expected past jobs took."""
        found = self._past.ratio(rule, lambda name: self._expected_of(rule, name))
        if found is None and rule in self._predicting and which in self._settings.models:
            # A step has a forward pass, and a backward one that takes twice as long.
            expected = 3 * forward_seconds(self._jobs.step(which), 1)
            took = self._past.step_seconds(which)
            found = took / expected if took is not None and expected else None
        return found

    def _expected_of(self, rule: str, name: str) -> float | None:
        """The expected time of the job with this name of its benchmark."""
        if rule in self._parts.preparation.stages:
            return self.expected(rule, name) if name in self._jobs.sizes else None
        if rule == "prepare_part":
            return self.expected(rule, name) if name.partition("_")[0] in self._parts.folders else None
        models = [model for model in self._settings.models if name == model or name.startswith(f"{model}_")]
        return self.expected(rule, max(models, key=len)) if models else None

    def _mean(self, seconds: Callable[[Any], float]) -> float:
        sizes: Sequence[Any] = [*self._jobs.sizes.values()] or [self._system.footprint.typical]
        return sum(map(seconds, sizes)) / len(sizes)

    @property
    def _cases(self) -> int:
        return len(self._parts.preparation.cases)

    @property
    def _others(self) -> int:
        return sum(not case.trains for case in self._parts.preparation.cases.values())

    @property
    def _held_out(self) -> int:
        return ceil((self._cases - self._others) / self._settings.split.folds)


def _epoch_seconds(row: Mapping[str, str]) -> float:
    """The time of an epoch, with its validation."""
    return float(row["seconds"]) + float(row.get("validation_seconds") or 0)
