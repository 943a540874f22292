"""Cases prepared in parts: which case belongs to which, and the files that say that a part is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from foldwise.experiment.paths import Paths
from foldwise.experiment.preparation import Preparation, per_case
from foldwise.files import read_json, short_hash, write_json
from foldwise.sheet import AnyCase, Case, Sheet


@dataclass(frozen=True)
class Parts(Generic[AnyCase]):
    """How the preparation of cases is divided among jobs.

    Attributes:
        preparation: what is divided.
        count: number of jobs; None: every stage of a case is a job.
    """

    preparation: Preparation[AnyCase]
    count: int | None = None

    def ready(self, cases: Sequence[AnyCase], pattern: str) -> list[str]:
        """Files that say that cases are prepared: a pattern's paths, or the markers of their parts."""
        if self.count is None:
            return per_case(cases, pattern)
        # Without a plan between them, one job goes from the source to the cache.
        prepared = self.preparation
        folder = Path(pattern if prepared.plan else prepared.cached).parent.name
        return sorted({f"{prepared.data}/parts/{folder}/{_name(case, self.count)}.json" for case in cases})

    def cases(self, name: str) -> list[AnyCase]:
        """The cases of a part."""
        return [case for case in self.preparation.cases.values() if _name(case, _count(name)) == name]

    def target(self, folder: str) -> str:
        """How far a part's job goes: to the target `indexed` or `prepared`."""
        return "prepared" if folder == Path(self.preparation.cached).parent.name else "indexed"

    def plan(self, folder: str) -> list[str]:
        """The plan, for caches."""
        plan = self.preparation.plan
        return [plan] if plan and self.target(folder) == "prepared" else []


def part_of(sheet: Sheet[AnyCase], name: str) -> Sheet[AnyCase]:
    """The sheet with the cases of a part alone."""
    cases = tuple(case for case in sheet.cases if _name(case, _count(name)) == name)
    return Sheet(cases, sheet.problems)


def divided(
    preparation: Preparation[AnyCase],
    paths: Paths,
    training: Sequence[AnyCase],
    asked: int | None,
    main: bool,
) -> Parts[AnyCase]:
    """Decide in how many parts the cases are prepared.

    What was prepared in some way stays so, whatever is asked: another way would name other files, and
    Snakemake would redo all that follows. The user's own call decides, and leaves word for its jobs.

    Args:
        preparation: what is divided.
        paths: of the experiment.
        training: its training cases.
        asked: by the profile; None: one job per case and stage.
        main: whether this is the user's own call.
    """
    if not main:
        word = Path(paths.parts)
        return Parts(preparation, read_json(word)["parts"] if word.exists() else None)
    marker = next(Path(preparation.data, "parts", Path(preparation.caches).name).glob("*of*.json"), None)
    count = None
    if marker is not None:
        count = _count(marker.stem)
    elif not all(Path(path).exists() for path in per_case(training, preparation.cached)):
        count = asked
    return Parts(preparation, count)


def leave_word(paths: Paths, parts: Parts[AnyCase]) -> None:
    """Say to the jobs of this call in how many parts the cases are prepared."""
    write_json(Path(paths.parts), {"parts": parts.count})


def _count(name: str) -> int:
    return int(name.rsplit("of", 1)[1])


def _name(case: Case, count: int) -> str:
    """By a hash of its name, so that a case more moves no other one."""
    number = int(short_hash(case.name), 16) % count
    return f"{'training' if case.trains else 'others'}_{number}of{count}"
