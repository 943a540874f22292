"""Cases prepared in parts: which case belongs to which part, and the files that mark a part as done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Generic

from foldwise import looks
from foldwise.experiment.paths import Paths
from foldwise.experiment.preparation import Preparation, per_case
from foldwise.files import short_hash
from foldwise.sheet import AnyCase, Case, Sheet
from foldwise.store import Memory

# Cases of a part, unless the profile says otherwise.
TOGETHER = 50


@dataclass(frozen=True)
class Parts(Generic[AnyCase]):
    """How the preparation of cases is divided among jobs.

    Attributes:
        preparation: the preparation that is divided.
        count: number of jobs; None: every stage of a case is a separate job.
    """

    preparation: Preparation[AnyCase]
    count: int | None = None

    def ready(self, cases: Sequence[AnyCase], pattern: str) -> list[str]:
        """Files that show that cases are prepared: a pattern's paths, or the markers of their parts."""
        if self.count is None:
            return per_case(cases, pattern)
        # Without a plan in between, one job goes from the source to the cache.
        prepared = self.preparation
        if pattern not in (prepared.indexed, *prepared.made):
            pattern = prepared.indexed  # which is made after it, by the same job
        folder = Path(pattern if prepared.plan else prepared.cached).parent.name
        return sorted({f"{prepared.data}/parts/{folder}/{_name(case, self.count)}.json" for case in cases})

    def cases(self, name: str) -> list[AnyCase]:
        """The cases of a part."""
        return [case for case in self.preparation.cases.values() if _name(case, _count(name)) == name]

    def target(self, folder: str) -> str:
        """Target of a part's job: `indexed` or `prepared`."""
        return "prepared" if folder == Path(self.preparation.cached).parent.name else "indexed"

    def plan(self, folder: str) -> list[str]:
        """The plan, which caches need."""
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
    """Decide the number of parts in which the cases are prepared.

    Data prepared in some way stay so, regardless of the request: another way would name other files, and
    Snakemake would redo everything that follows. The user's own call decides, and records it for its jobs.

    Args:
        preparation: the preparation to divide.
        paths: of the experiment.
        training: its training cases.
        asked: number requested by the profile; None: one job per case and stage, but parts of `TOGETHER` if
            there are many cases that can share processes.
        main: whether this is the user's own call.
    """
    if not main:
        return Parts(preparation, Memory(Path(paths.parts)).get("parts") or None)
    marker = next(Path(preparation.data, "parts", Path(preparation.caches).name).glob("*of*.json"), None)
    count = None
    if marker is not None:
        count = _count(marker.stem)
    else:
        caches = per_case(training, preparation.cached)
        looks.look_at(caches, listed=True)
        if not all(map(looks.exists, caches)):
            many = preparation.together and len(preparation.cases) > 2 * TOGETHER
            count = ceil(len(preparation.cases) / TOGETHER) if asked is None and many else asked
    return Parts(preparation, count)


def leave_word(paths: Paths, parts: Parts[AnyCase]) -> None:
    """Record the number of parts for the jobs of this call."""
    memory = Memory(Path(paths.parts))
    memory.put(parts.count or 0, "parts")
    memory.save()


def _count(name: str) -> int:
    return int(name.rsplit("of", 1)[1])


def _name(case: Case, count: int) -> str:
    """The part is given by a hash of the case's name, so that adding a case moves no other."""
    number = int(short_hash(case.name), 16) % count
    return f"{'training' if case.trains else 'others'}_{number}of{count}"
