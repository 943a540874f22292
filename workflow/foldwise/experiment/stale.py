"""Whether outputs still belong to what the experiment says, by their records.

In every call of a user, the front door compares the record in every output with the settings, the sheet and
the content of the files that were read. Snakemake learns of it by the times of files, which never depend on
its own records: a stale output gets a time before that of a folder that is an input of every rule; one that
is still right, but seems older than its inputs (sources that were touched, results that were copied without
their times), gets the present one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

from foldwise import looks
from foldwise.experiment.open import Opened
from foldwise.experiment.outputs import Made, all_outputs, holds_record
from foldwise.files import SNAKEMAKE, short_hash, stamp_of
from foldwise.record import (
    LIBRARIES,
    UNREAD,
    Record,
    carrier,
    content_of_source,
    identity,
    minor_versions,
    record_in,
)
from foldwise.store import Memory

# Times of stale outputs, and of the input of every rule that only they are older than. s.
STALE, MARK = 1.0, 2.0
# How far clocks may differ. s.
SKEW = 10.0
# Reading waits for the disk, above all on network file systems.
THREADS = 16


@dataclass
class Found:
    """What was found about an output.

    Attributes:
        made: the output.
        why: why it is stale; "" if it is not.
        derived: whether only because another one is, that it was made from.
        known: whether it exists and has a record; if it is missing, `why` says whether it would differ.
        times: of the sources that it was made from. s.
    """

    made: Made
    why: str = ""
    derived: bool = False
    known: bool = True
    times: tuple[float, ...] = ()

    @property
    def stale(self) -> bool:
        """Whether it exists, and has to be made again."""
        return self.known and bool(self.why)


@dataclass(frozen=True)
class Brief:
    """What is remembered of a record, since opening thousands of files takes long."""

    fingerprint: str
    depends: str
    versions: Mapping[str, str]
    wrote: Mapping[str, Sequence[str]]
    read: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, record: Record) -> Brief:
        """Everything that is compared."""
        depends = short_hash(record.depends)
        return cls(record.fingerprint, depends, record.versions, record.wrote, record.read)


@dataclass(frozen=True)
class Present:
    """A file or folder as it is now.

    Attributes:
        path: where it is.
        inner: whether it is in the folder of results.
        ours: whether it is an output of the experiment; others are sources.
        stamp: as `stamp_of` gives it; "" if it is identified by its record.
        fingerprint: of its record; "" if it is identified by its content.
        time: of a source. s.
    """

    path: Path
    inner: bool
    ours: bool
    stamp: str = ""
    fingerprint: str = ""
    time: float = 0


class Judge:
    """Compares records with the present."""

    def __init__(self, opened: Opened[Any, Any], outputs: Iterable[Made], memory: Memory) -> None:
        """Keep what is compared.

        Args:
            opened: the experiment.
            outputs: all of its outputs.
            memory: remembered hashes and records.
        """
        settings = opened.settings
        self._results, self._memory = settings.results, memory
        self._versions, self._full = settings.versions == "rerun", settings.verify == "always"
        # Other settings prepare their data beside these.
        self._data = Path(opened.preparation.data).parent
        # `results: .` makes paths that begin with a dot.
        self._outputs = {Path(path) for made in outputs for path in made.paths}
        self._installed = minor_versions(LIBRARIES)
        # Many outputs are made from the same files, which are looked at once.
        self._brief, self._present = cache(self._read_brief), cache(self._look_at)
        self._content = cache(self._read)

    def look(self, made: Made) -> Found:
        """Compare the record of one output."""
        path = Path(made.path)
        if made.depends is None:
            gone = next((one for one in made.after if not looks.exists(one)), None)
            return Found(made, f"{gone} is missing" if gone else "", known=looks.exists(path))
        why, times = "", list[float]()
        if not looks.exists(path):
            # What was made from it still is right if it would be made again as it is remembered.
            known = self._memory.get("record", str(path))
            if known is None:
                return Found(made, f"{path} is missing", known=False)
            last = Brief(*known[1])
            why = self._apart(path, last, json.loads(made.depends)) or self._changed(last, times)
            return Found(made, why, known=False)
        if self._brief(path) is None:
            return Found(made, known=False)
        for each in made.with_record:
            brief = self._brief(Path(each))
            if brief is not None:
                why = why or self._apart(Path(each), brief, json.loads(made.depends))
                why = why or self._changed(brief, times)
            elif looks.exists(each):
                why = why or f"{each} has no record"
        return Found(made, why, times=tuple(times))

    def _changed(self, brief: Brief, times: list[float]) -> str:
        """The first file that changed since it was read or written; adds the times of sources to `times`."""
        why = ""
        for name, (stamp, content) in (*brief.read.items(), *brief.wrote.items()):
            now = self._present(name)
            # What is missing is made again by the workflow, or named by the check.
            if now is None:
                continue
            if not now.ours:
                times.append(now.time)
                if now.path.is_relative_to(self._data):
                    why = why or f"{now.path} was prepared with other settings"
            same = now.stamp == stamp and (now.ours or not self._full)
            if not why and not same and (now.fingerprint or self._content(name)) != content:
                why = f"{now.path} {'has changed' if content != UNREAD else 'could not be used'}"
        return why

    def _apart(self, path: Path, brief: Brief, depends: Any) -> str:
        """The first setting, value of the sheet or version that differs."""
        if brief.depends != short_hash(depends):
            record = record_in(path)
            return _difference(record.depends, depends) if record else "its record is broken"
        now = {name: self._installed.get(name) for name in brief.versions}
        return _difference(brief.versions, now) if self._versions else ""

    def _read_brief(self, path: Path) -> Brief | None:
        """The record of an output, read only if the file is not the one that is remembered."""
        if not (holds_record(str(path)) or looks.is_folder(path)) or not looks.exists(path):
            return None

        def read() -> Any:
            record = record_in(path)
            return None if record is None else astuple(Brief.of(record))

        known = self._memory.of_stamp(stamp_of(carrier(path)), read, "record", str(path))
        return None if known is None else Brief(*known)

    def _look_at(self, name: str) -> Present | None:
        """A file or folder that a record names; None if it is missing."""
        inner = name.startswith("{results}/")
        path = self._results / name.removeprefix("{results}/") if inner else Path(name)
        if not looks.exists(path):
            return None
        ours = path in self._outputs
        seconds = 0 if ours else _time(path)
        own = self._brief(path) if inner and path.suffix not in (".json", ".yaml") else None
        if own is not None:
            return Present(path, inner, ours, fingerprint=own.fingerprint, time=seconds)
        stamp = stamp_of(carrier(path)) if inner else self._memory.stamp(path)
        return Present(path, inner, ours, stamp, time=seconds)

    def _read(self, name: str) -> str:
        """The identity of a file or folder that a record names, remembered from one call to the next."""
        now = self._present(name)
        assert now is not None
        read = partial(identity if now.inner else content_of_source, now.path)
        if self._full and not now.ours:
            return read()
        return str(self._memory.of_stamp(now.stamp, read, "content", str(now.path)))


def judge(opened: Opened[Any, Any], memory: Memory) -> list[list[Found]]:
    """Compare every output of an experiment with what the experiment says.

    Returns:
        What was found, in levels as in `all_outputs`; an output that is made from a stale one is stale, too.
    """
    outputs = all_outputs(opened)
    looking = Judge(opened, chain.from_iterable(outputs), memory)
    stale: set[str] = set()
    times: dict[str, tuple[float, ...]] = {}
    levels = []
    paths = [path for made in chain.from_iterable(outputs) for path in made.paths]
    looks.look_at(paths, listed=True)
    with ThreadPoolExecutor(THREADS) as pool:
        # Those of folders are in them.
        list(pool.map(_time, map(Path, filter(looks.is_folder, paths))))
        for level in outputs:
            found = list(pool.map(looking.look, level))
            for one in found:
                first = next((path for path in one.made.after if path in stale), None)
                if one.known and not one.why and first is not None:
                    one.why, one.derived = f"{first} is stale", True
                if one.why:
                    stale.update(one.made.paths)
                if one.made.depends is None:
                    # A part's job reads the sources of all its cases.
                    one.times = tuple(chain.from_iterable(times.get(path, ()) for path in one.made.after))
                times[one.made.path] = one.times
            levels.append(found)
    return levels


def settle(levels: Iterable[Sequence[Found]], mark: Path) -> list[Path]:
    """Set the times of outputs by what was found, so that Snakemake makes again what is stale and no more.

    Args:
        levels: what was found.
        mark: folder that is an input of every rule; created if missing.

    Returns:
        Outputs whose times could not be set, e.g. those of another user.
    """
    mark.mkdir(parents=True, exist_ok=True)
    _set(mark, MARK)
    times: dict[str, float] = {}
    failed: list[Path] = []
    now = time.time()

    def time_of(path: str) -> float:
        if path not in times:
            times[path] = _time(Path(path))
        return times[path]

    for found in chain.from_iterable(levels):
        made = found.made
        if not found.known:
            continue
        outputs = [path for path in made.paths if looks.exists(path)]
        latest = max([*found.times, *map(time_of, made.after)], default=0)
        if found.why:
            wrong, seconds = [made.path] if time_of(made.path) > STALE else [], STALE
        else:
            # With a source in the future, Snakemake would take every new output for one that is too old.
            late = min(map(time_of, outputs)) < max(latest, MARK) and latest < now + SKEW
            # A float is no exact time.
            wrong, seconds = outputs if late else [], max(latest + 0.001, now)
        for path in wrong:
            try:
                _set(Path(path), seconds)
            except OSError:
                failed.append(Path(path))
            times[path] = _time(Path(path))
    return failed


def _set(path: Path, seconds: float) -> None:
    """Set the time of a file, or of a folder as Snakemake takes it."""
    if looks.is_folder(path):
        path /= SNAKEMAKE
        path.touch()
    looks.forget(path)
    os.utime(path, (seconds, seconds))


def _time(path: Path) -> float:
    """Time of a file, or of a folder as Snakemake takes it. s."""
    if looks.is_folder(path) and (own := looks.facts(path / SNAKEMAKE)) is not None:
        return own.st_mtime
    found = looks.look(path)
    return 0 if found is None else max(each.st_mtime for each in found)


def _difference(first: Any, second: Any, name: str = "") -> str:
    """The first place at which two plain values differ, with both values; empty if they are equal."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in sorted({*first, *second}):
            if apart := _difference(first.get(key), second.get(key), f"{name}.{key}".strip(".")):
                return apart
        return ""
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        found = (_difference(a, b, name) for a, b in zip(first, second, strict=True))
        return next((apart for apart in found if apart), "")
    return "" if first == second else f"{name}: {_short(first)} → {_short(second)}".removeprefix(": ")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
