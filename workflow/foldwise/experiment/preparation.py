"""How cases get from their source files to what models learn from; only names are made here."""

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

    Prepared data lie in folders named after the sheet and a hash of the settings that made them, so that
    experiments that agree on those share the files, and another crop or cache never overwrites one.

    Attributes:
        data: folder of prepared data.
        caches: folder of <case>.h5.
        stages: rules that prepare a case, up to its cache.
        plan: file that completes the settings between two stages, or None.
        neural: whether a network is among the stages, for which a job with several of them wants a GPU.
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
        """Pattern of what the index is made from."""
        return self.cached

    @property
    def made(self) -> Sequence[str]:
        """Patterns of what preparing a case makes, of which the cache is the first."""
        return [self.cached]

    @property
    def noticed(self) -> str | None:
        """Pattern of files that say what was noticed of a case, for the report."""
        return None

    def inputs(self, model: str) -> str:
        """Pattern of the files that a model works on: the caches, or features, perhaps with {fold}."""
        return self.cached

    def features(self, model: str, fold: str) -> str | None:
        """Folder of the files that a model works on instead of the caches."""
        pattern = self.inputs(model)
        return None if pattern == self.cached else str(Path(pattern.format(case="", fold=fold)).parent)

    def ensemble_inputs(self, model: str) -> str:
        """Pattern of what all folds' models of a name predict together: never the features of one fold."""
        pattern = self.inputs(model)
        return pattern if pattern in self.made else self.cached


def per_case(cases: Sequence[AnyCase], pattern: str) -> list[str]:
    """A pattern's path for each case."""
    return [pattern.format(case=case.name) for case in cases]
