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
        prepared = self.preparation
        if Path(pattern).parent.name not in prepared.encodings:
            # Up to the plan, or without one up to the cache, one job makes everything.
            pattern = prepared.indexed if prepared.plan and pattern != prepared.cached else prepared.cached
        folder = Path(pattern).parent.name
        return sorted({self._marker(folder, _name(case, self.count)) for case in cases})

    def cases(self, name: str) -> list[AnyCase]:
        """The cases of a part."""
        return [case for case in self.preparation.cases.values() if _name(case, _count(name)) == name]

    def stages(self, folder: str) -> list[str]:
        """Rules that make a folder of features, or everything before the features."""
        encodings = self.preparation.encodings
        stages = {name: Path(stage.outputs[0]).parent.name for name, stage in self.preparation.stages.items()}
        return [name for name, first in stages.items() if (first in encodings) == (folder in encodings)]

    def target(self, folder: str) -> str:
        """Target of a part's job: `indexed` or `prepared`."""
        return "prepared" if folder in (self._caches, *self.preparation.encodings) else "indexed"

    def before(self, folder: str, name: str) -> list[str]:
        """What a part's job needs besides the cases' files: caches need the plan, features the caches."""
        if folder in self.preparation.encodings:
            return [self._marker(self._caches, name)]
        plan = self.preparation.plan
        return [plan] if plan and folder == self._caches else []

    @property
    def folders(self) -> list[str]:
        """Names of the folders that are filled."""
        prepared = self.preparation
        return list(dict.fromkeys(Path(path).parent.name for path in (prepared.indexed, *prepared.made)))

    @property
    def neural(self) -> list[str]:
        """Those whose jobs use a network."""
        stages = self.preparation.stages
        return [each for each in self.folders if any(stages[name].neural for name in self.stages(each))]

    @property
    def _caches(self) -> str:
        return Path(self.preparation.caches).name

    def _marker(self, folder: str, name: str) -> str:
        return f"{self.preparation.data}/parts/{folder}/{name}.json"


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
            many = preparation.together and len(preparation.cases) > preparation.many
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
