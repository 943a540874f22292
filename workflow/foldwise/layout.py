"""Where everything of an experiment lies, and what its jobs take: what rules ask for."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from foldwise.files import CaseError, read_json, short_hash, source_files, write_json
from foldwise.settings import Experiment, as_json
from foldwise.sheet import AnyCase, Case, Sheet
from foldwise.systems import part
from foldwise.training.attempts import Attempts

# Sections on which the files of cases depend, and the split, by which the sheet is checked.
PREPARING = ("results", "system", "data", "prepare", "cache", "split")
# Growth of a training's memory stops here, at two and a half times the forecast.
MOST_KILLED = 3
# Cases that a part's job prepares at a time: the threads of its rule.
PART_THREADS = 4
# Minutes of jobs that work on many cases: the least that they ask for, and for each case, generously.
MINUTES = {
    "check": (60, 0.2),
    "index": (20, 0.02),
    "plan": (30, 0.2),
    "features": (240, 3.0),
    "test": (120, 2.0),
    "export": (60, 0.5),
    "choose": (60, 0.5),
    "ensemble": (120, 3.0),
    "update_labels": (20, 0.02),
    "report": (30, 0.1),
}
# Few partitions allow more. Jobs that take longer keep what they did for the next call.
DAY = 1440

AnySettings = TypeVar("AnySettings", bound=Experiment)


class Layout(ABC, Generic[AnySettings, AnyCase]):
    """Paths as patterns with the wildcards {case}, {model} and {fold}, and the cases by their part.

    Prepared data lie in a folder named after the sheet and a hash of the settings that made them, so that
    experiments that agree on those share the files, and another crop or cache never overwrites one.

    Attributes:
        data: folder of prepared data.
        caches: folder of <case>.h5.
        indexed: pattern of what the index is made from.
        preparation: rules that prepare a case, up to its cache.
        plan: file that completes the settings, or None.
        parts: jobs among which the preparation is divided; None: every stage of a case is a job.
        neural: whether a network is among these stages, for which a part's job wants a GPU.
    """

    data: str
    caches: str
    indexed: str
    preparation: tuple[str, ...]
    plan: str | None = None
    parts: int | None = None
    neural: bool = False

    def __init__(self, settings: AnySettings, sheet: Sheet[AnyCase]) -> None:
        """Name the folders of the experiment; a system names those of its data."""
        self.settings = settings
        self.sheet = sheet if settings.part is None else _of_part(sheet, settings.part)
        self.experiment = f"{settings.results}/{settings.experiment}"
        self.index = f"{self.experiment}/index.pkl"
        self.fold = f"{self.experiment}/{{model}}/fold{{fold}}"
        self.ensemble = f"{self.experiment}/{{model}}/ensemble"
        self.state = f"{self.experiment}/state/{{model}}"
        self.counts = f"{self.experiment}/state/forecast.json"
        self.predicted = f"{self.experiment}/{{model}}/predicted"
        if settings.predict is not None:
            self.predicted += f"-{settings.predict.source.stem}"

    @abstractmethod
    def mib(self, stage: str, which: str = "", attempt: int = 1) -> int:
        """Memory of a job in MiB, for `mem_mb`.

        Args:
            stage: name of the rule.
            which: its case, or its model.
            attempt: number of the try, from 1.
        """

    @abstractmethod
    def try_model(self, model: str) -> None:
        """Try all that a training makes of a model's settings, without data, in another process.

        Raises:
            CaseError: everything for which a training would refuse the settings.
        """

    def try_preparation(self) -> None:
        """Read files of weights that preparation needs, as its jobs will.

        Raises:
            CaseError: they are not what they should be.
        """

    def killed(self, model: str, fold: str) -> int:
        """How often the training of a fold was killed, up to a limit: so often it asks for more memory."""
        folder = Path(self.state.format(model=model)) / f"fold{fold}" / "train"
        return min(MOST_KILLED, Attempts(folder / "attempts.jsonl", 1).killed)

    @property
    @abstractmethod
    def models(self) -> Sequence[str]:
        """Names of the models."""

    @property
    def cached(self) -> str:
        """Pattern of a case's cache."""
        return f"{self.caches}/{{case}}.h5"

    @cached_property
    def cases(self) -> dict[str, AnyCase]:
        """All cases by name."""
        return {case.name: case for case in self.sheet.cases}

    @cached_property
    def training(self) -> list[AnyCase]:
        """The labelled cases of the cross-validation."""
        return [case for case in self.sheet.cases if case.trains]

    @cached_property
    def others(self) -> list[AnyCase]:
        """The fixed test set and the unlabelled cases."""
        return [case for case in self.sheet.cases if not case.trains]

    @property
    def folds(self) -> range:
        """Numbers of the folds."""
        return range(self.settings.split.folds)

    @cached_property
    def training_rows(self) -> str:
        """A hash of the rows that the index is made from; other rows of the sheet do not move it."""
        return short_hash([[c.name, c.group, [str(f) for f in c.files]] for c in self.training])

    def per_case(self, cases: Sequence[AnyCase], pattern: str) -> list[str]:
        """A pattern's path for each case."""
        return [pattern.format(case=case.name) for case in cases]

    def divide(self, asked: int | None, main: bool) -> None:
        """Decide in how many parts the cases are prepared.

        What was prepared in some way stays so, whatever is asked: another way would name other files, and
        Snakemake redo all that follows. The user's own call decides, and leaves word for its jobs.

        Args:
            asked: by the profile; None: one job per case and stage.
            main: whether this is the user's own call.
        """
        word = Path(self.experiment) / "state" / "parts.json"
        if self.settings.part is not None:
            return
        if not main:
            self.parts = read_json(word)["parts"] if word.exists() else None
            return
        marker = next(Path(self.data, "parts", Path(self.caches).name).glob("*of*.json"), None)
        if marker is not None:
            self.parts = int(marker.stem.rsplit("of", 1)[1])
        elif not all(Path(path).exists() for path in self.per_case(self.training, self.cached)):
            self.parts = asked
        write_json(word, {"parts": self.parts})

    def ready(self, cases: Sequence[AnyCase], pattern: str) -> list[str]:
        """Files that say that cases are prepared: a pattern's paths, or the markers of their parts."""
        if self.parts is None:
            return self.per_case(cases, pattern)
        # Without a plan between them, one job goes from the source to the cache.
        folder = Path(pattern if self.plan else self.cached).parent.name
        return sorted({f"{self.data}/parts/{folder}/{_part_name(case, self.parts)}.json" for case in cases})

    def part(self, name: str) -> list[AnyCase]:
        """The cases of a part."""
        return list(_of_part(self.sheet, name).cases)

    def part_target(self, folder: str) -> str:
        """How far a part's job goes."""
        return "prepared" if folder == Path(self.cached).parent.name else "indexed"

    def part_plan(self, folder: str) -> list[str]:
        """The plan, for caches."""
        return [self.plan] if self.plan and self.part_target(folder) == "prepared" else []

    @property
    def part_settings(self) -> str:
        """What preparation depends on, as JSON: nothing else shall make it look at its files again."""
        if self.plan is not None:  # which depends on the models, too
            return as_json(self.settings.model_copy(update={"predict": None}), given=True)
        kept: Any = {**dict.fromkeys(PREPARING, True), "models": self.part_models}
        made = self.settings.model_dump(mode="json", include=kept, exclude_unset=True)
        return json.dumps({"experiment": "part"} | {key: value for key, value in made.items() if value})

    @property
    def part_models(self) -> dict[str, set[str]]:
        """What of which models has a say in preparation, or must fit the data."""
        return {}

    def part_mib(self, name: str, attempt: int) -> int:
        """Memory of a part's job in MiB: the hungriest stage of as many cases as run at a time."""
        one = max(self.mib(rule, case.name, attempt) for rule in self.preparation for case in self.part(name))
        return one * min(PART_THREADS, len(self.part(name)))

    def minutes(self, stage: str) -> int:
        """Time of a job that works on many cases in minutes, for `runtime`, generously; a day at most.

        Args:
            stage: name of the rule.
        """
        training = len(self.training)
        held_out = ceil(training / len(self.folds))
        counts = {
            "check": len(self.sheet.cases),
            # Those of the validation share are predicted, too.
            "test": min(training, 2 * held_out),
            "export": held_out,
            "ensemble": len(self.others),
            "report": len(self.sheet.cases),
        }
        least, each = MINUTES[stage]
        return min(DAY, max(least, ceil(least / 2 + each * counts.get(stage, training))))

    def part_minutes(self, name: str) -> int:
        """Time of a part's job in minutes, generously."""
        return 20 + 2 * len(self.preparation) * ceil(len(self.part(name)) / PART_THREADS)

    def inputs(self, model: str) -> str:
        """Pattern of the files of cases that a model works on: the caches, or features with {fold}."""
        return self.cached

    def trained_on(self, model: str, fold: str) -> list[str]:
        """Files of cases that a fold's model is trained and tested on."""
        pattern = self.inputs(model)
        if pattern in self.made:
            return self.ready(self.training, pattern)
        return [pattern.format(case=case.name, fold=fold) for case in self.training]

    def ensemble_inputs(self, model: str) -> str:
        """Pattern of what all folds' models of a name predict together: never the features of one fold."""
        pattern = self.inputs(model)
        return pattern if pattern in self.made else self.cached

    @property
    def made(self) -> list[str]:
        """Patterns of what preparing a case makes, of which the cache is the first."""
        return [self.cached]

    @property
    def noticed(self) -> list[str]:
        """Files in which preparation says what it noticed of cases, for the report."""
        return []

    def features(self, model: str, fold: str) -> str:
        """Folder of the files that a model works on instead of the caches, or nothing."""
        pattern = self.inputs(model)
        return "" if pattern == self.cached else str(Path(pattern.format(case="", fold=fold)).parent)

    def given(self, section: BaseModel) -> str:
        """A section for a stage as JSON: without the defaults where a plan is to fill the gaps."""
        return as_json(section, given=self.plan is not None)

    @property
    def check_settings(self) -> str:
        """The settings that data are checked against and that drive memory, as JSON."""
        return as_json(self.settings)

    def prepared(self, model: str) -> str:
        """The sections that say how a new case is prepared for a model, as JSON; its file keeps them."""
        return "{}"

    def pretrained(self, model: str) -> list[str]:
        """Files of weights that a model starts from."""
        return []

    def source_state(self) -> str:
        """A hash of times and sizes of all new cases' files; the time of their folder tells none of them."""
        predict = self.settings.predict
        try:
            system: str = self.settings.system  # type: ignore[attr-defined]  # every family names its own
            entries = part(system, "new").new_entries(predict.source) if predict else []
        except CaseError:  # the job says it
            return ""
        paths = [Path(path) for entry in entries for files in entry.files.values() for path in files]
        states = [(str(file), file.stat()) for path in paths for file in source_files(path)]
        return short_hash([[name, state.st_size, state.st_mtime_ns] for name, state in states])

    def prediction_parts(self, pattern: str) -> list[str]:
        """What the parts of a prediction of new cases leave behind, for every model."""
        if self.settings.predict is None:
            raise CaseError("predict: which cases? Give `--config predict=<sample sheet or folder>`")
        parts = self.settings.predict.parts
        return [
            pattern.format(model=model, part=part, parts=parts)
            for model in self.models
            for part in range(parts)
        ]


def _part_name(case: Case, parts: int) -> str:
    """By a hash of its name, so that a case more moves no other one."""
    number = int(short_hash(case.name), 16) % parts
    return f"{'training' if case.trains else 'others'}_{number}of{parts}"


def _of_part(sheet: Sheet[AnyCase], name: str) -> Sheet[AnyCase]:
    parts = int(name.rsplit("of", 1)[1])
    return Sheet(tuple(case for case in sheet.cases if _part_name(case, parts) == name), sheet.problems)


def option(flag: str, path: str | Path | None) -> list[str]:
    """`--flag path` as words for a shell line, where `:q` quotes each of them; none without a path."""
    return [] if not path else [f"--{flag}", str(path)]
