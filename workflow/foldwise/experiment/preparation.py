"""How source files become the data that models learn from; only names are defined here."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Generic

from foldwise.sheet import AnyCase, Sheet

# Named inputs of a rule.
Inputs = dict[str, str | list[str]]


class Preparation(ABC, Generic[AnyCase]):
    """Stages, folders and inputs of cases, as patterns with the wildcard {case}.

    Prepared data lie in folders named after the sheet and a hash of their settings, so that
    experiments with the same settings share the files, and a different crop or cache never overwrites one.

    Attributes:
        data: folder of prepared data.
        caches: folder of <case>.h5.
        stages: rules that prepare a case, up to its cache.
        plan: file that completes the settings between two stages, or None.
        neural: whether a stage uses a network, so that a job with several stages requests a GPU.
        cases: the cases by name.
    """

    data: str
    caches: str
    stages: tuple[str, ...]
    plan: str | None = None
    neural: bool = False

    def __init__(self, sheet: Sheet[AnyCase]) -> None:
        """Keep the cases; a system names the folders."""
        self.cases: Mapping[str, AnyCase] = {case.name: case for case in sheet.cases}

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

    def features(self, model: str, fold: str) -> str | None:
        """Folder of the input files that a model uses instead of the caches."""
        pattern = self.inputs(model)
        return None if pattern == self.cached else str(Path(pattern.format(case="", fold=fold)).parent)

    def ensemble_inputs(self, model: str) -> str:
        """Pattern of the inputs for all folds' models of one name: never the features of one fold."""
        pattern = self.inputs(model)
        return pattern if pattern in self.made else self.cached


def per_case(cases: Sequence[AnyCase], pattern: str) -> list[str]:
    """A pattern's path for each case."""
    return [pattern.format(case=case.name) for case in cases]
