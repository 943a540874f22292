"""How source files become the data that models learn from; only names are defined here."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic

from foldwise.section import Section, Work
from foldwise.sheet import AnyCase, Sheet

# Named inputs of a rule.
Inputs = dict[str, str | list[str]]


@dataclass(frozen=True)
class Asked:
    """What a rule asks of its stage for a case.

    Attributes:
        values: of the stage's arguments.
        inputs: files and folders that the outputs are made from.
        outputs: files that it writes.
        log: file for what it prints.
    """

    values: Mapping[str, Any]
    inputs: Sequence[str]
    outputs: Sequence[str]
    log: str


@dataclass(frozen=True)
class CaseStage(Generic[AnyCase]):
    """A rule that prepares a case.

    Attributes:
        work: what it does, for the settings that affect it.
        outputs: patterns of its outputs; the first one holds the record of what it was made from.
        given: function from a case to what the rule takes from the sheet: names of files, and values.
        asked: function from a case's name to what the rule asks of the stage, so that one process can prepare
            many cases of a part; None: each case needs a job of its own.
        neural: whether it uses a network, so that one process at a time prepares cases.
    """

    work: Work
    outputs: tuple[str, ...]
    given: Callable[[AnyCase], Any] = lambda case: None
    asked: Callable[[str], Sequence[Asked]] | None = None
    neural: bool = False


class Preparation(ABC, Generic[AnyCase]):
    """Stages, folders and inputs of cases, as patterns with the wildcard {case}.

    Prepared data lie in folders named after the sheet and a hash of their settings, so that
    experiments with the same settings share the files, and a different crop or cache never overwrites one.

    Attributes:
        data: folder of prepared data.
        caches: folder of <case>.h5.
        stages: name of a rule → what it makes of a case, in order, up to the cache and beyond.
        plan: file that completes the settings between two stages, or None.
        encodings: name of a folder of stored features, which the last stage makes → the settings of a model
            that determine them.
        many: number of cases above which they share processes, unless the profile decides.
        cases: the cases by name.
    """

    data: str
    caches: str
    stages: Mapping[str, CaseStage[AnyCase]]
    plan: str | None = None
    encodings: Mapping[str, Section] = MappingProxyType({})
    many: int = 100

    def __init__(self, sheet: Sheet[AnyCase]) -> None:
        """Keep the cases; a system names the folders."""
        self.cases: Mapping[str, AnyCase] = {case.name: case for case in sheet.cases}

    @property
    def together(self) -> bool:
        """Whether the cases of a part share processes."""
        return all(stage.asked is not None for stage in self.stages.values())

    @property
    def cached(self) -> str:
        """Pattern of a case's cache."""
        return f"{self.caches}/{{case}}.h5"

    @property
    def indexed(self) -> str:
        """Pattern of the files from which the index is built."""
        return self.cached

    @property
    def made(self) -> Sequence[str]:
        """Patterns of the files that preparing a case produces; the first is the cache."""
        return [self.cached]

    @property
    def noticed(self) -> str | None:
        """Pattern of files with remarks on a case, for the report."""
        return None

    def inputs(self, model: str) -> str:
        """Pattern of a model's input files: the caches, or features, possibly with {fold}."""
        return self.cached

    def unencoded(self, model: str) -> str:
        """Pattern of the files that a model's stored features are computed from; without any, its inputs."""
        return self.inputs(model)

    def features(self, model: str, fold: str) -> str | None:
        """Folder of the input files that a model uses instead of the caches."""
        pattern = self.inputs(model)
        return None if pattern == self.cached else str(Path(pattern.format(case="", fold=fold)).parent)

    def bank(self, model: str) -> str | None:
        """Pattern with {fold} of the folder of features from which other models learn; None: no folder."""
        return None

    def ensemble_inputs(self, model: str) -> str:
        """Pattern of the inputs for all folds' models of one name: never the features of one fold."""
        pattern = self.inputs(model)
        return pattern if pattern in self.made else self.cached


def prepared_file(folder: Path, case: str) -> Path:
    """A case's file or folder in the folder of the files from which the index is built."""
    return folder / case if (folder / case).is_dir() else folder / f"{case}.h5"


def per_case(cases: Sequence[AnyCase], pattern: str) -> list[str]:
    """A pattern's path for each case."""
    return [pattern.format(case=case.name) for case in cases]
