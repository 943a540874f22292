"""Which outputs still belong to what the experiment says, by their records.

In every call of a user, the front door compares the record in every output with the settings, the sheet and
the content of the files that were read. Snakemake learns of it by the times of files, which never depend on
its own records: a stale output gets a time before that of a folder that is an input of every rule; one that
is still right, but seems older than its inputs (sources that were touched, results that were copied without
their times), gets the present time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from foldwise.experiment.open import Opened
from foldwise.files import SNAKEMAKE, short_hash
from foldwise.record import IN_FOLDER, Record, content_of_source, minor_versions, record_in, stamp_of
from foldwise.store import Memory

# Formats that hold a record; folders do, too.
CARRIERS = (".h5", ".json", ".pkl", ".yaml")
# Times of stale outputs, and of the input of every rule that only they are older than. s.
STALE, MARK = 1.0, 2.0
# Reading waits for the disk, above all on network file systems.
THREADS = 16


@dataclass(frozen=True)
class Made:
    """An output of the workflow.

    Attributes:
        rule: the rule that makes it.
        path: the output that holds the record.
        depends: what the rule says that it depends on, as JSON; None: it is judged by `after` alone.
        after: other outputs that it is made from.
        also: further outputs of the same job.
    """

    rule: str
    path: str
    depends: str | None
    after: Sequence[str] = ()
    also: tuple[str, ...] = ()


@dataclass
class Found:
    """What was found about an output.

    Attributes:
        made: the output.
        why: why it is stale; "" if it is not.
        known: whether it exists and has a record.
        times: of the sources that it was made from. s.
    """

    made: Made
    why: str = ""
    known: bool = True
    times: tuple[float, ...] = ()


@dataclass(frozen=True)
class Brief:
    """What is remembered of a record, since opening thousands of files takes long."""

    fingerprint: str
    depends: str
    versions: str
    read: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, record: Record) -> Brief:
        """Everything that is compared."""
        return cls(record.fingerprint, short_hash(record.depends), short_hash(record.versions), record.read)


def all_made(opened: Opened[Any, Any]) -> list[list[Made]]:
    """All outputs of an experiment, in levels: each is made from earlier levels alone."""
    levels = [*_prepared(opened), *(_learnt(opened) if opened.settings.part is None else ())]
    return [level for level in levels if level]


def _prepared(opened: Opened[Any, Any]) -> Iterator[list[Made]]:
    """Outputs for single cases, and the markers of parts."""
    preparation, depends, parts = opened.preparation, opened.depends, opened.parts
    cases = opened.sheet.cases
    before: list[str] = []
    for name, stage in preparation.stages.items():
        if preparation.plan and name == list(preparation.stages)[-1]:
            after = parts.ready(opened.training, preparation.indexed)
            if opened.settings.part is None:
                yield [Made("plan", preparation.plan, depends.plan(), after)]
            before.append(preparation.plan)
        # A pattern that holds no record belongs to the one before it.
        groups: list[list[str]] = []
        for pattern in stage.outputs:
            own = Path(pattern).suffix in CARRIERS or not Path(pattern).suffixes
            groups.append([pattern]) if own or not groups else groups[-1].append(pattern)
        level = []
        for case in cases:
            given, fill = depends.case(name, case.name), case.name
            after = [pattern.format(case=fill) for pattern in before]
            for first, *also in groups:
                others = tuple(pattern.format(case=fill) for pattern in also)
                level.append(Made(name, first.format(case=fill), given, after, others))
        yield level
        before += stage.outputs
    if parts.count is not None:
        ends = [preparation.indexed, *preparation.made]
        markers: dict[str, list[str]] = {}
        for case in cases:
            for pattern in ends:
                [marker] = parts.ready([case], pattern)
                markers.setdefault(marker, []).append(pattern.format(case=case.name))
        yield [Made("prepare_part", marker, None, after) for marker, after in markers.items()]


def _learnt(opened: Opened[Any, Any]) -> Iterator[list[Made]]:
    """Outputs of the experiment as a whole, and of its models."""
    paths, depends, settings, parts = opened.paths, opened.depends, opened.settings, opened.parts
    preparation, folder = opened.preparation, paths.experiment
    plan = [preparation.plan] if preparation.plan else []
    models, folds = list(settings.models), opened.folds

    def each(pattern: str, model: str) -> list[str]:
        return [pattern.format(model=model, fold=fold) for fold in folds]

    yield [Made("check", f"{folder}/check.json", depends.check())]
    training = parts.ready(opened.training, preparation.indexed)
    yield [Made("index", paths.made_index, depends.index(), training, (f"{folder}/splits.json",))]
    if paths.updated:
        noticed = parts.ready(opened.training, preparation.noticed or preparation.cached)
        after = [paths.made_index, *noticed]
        also = (f"{folder}/splits-updated.json",)
        yield [Made("update_labels", paths.index, depends.on("index"), after, also)]
    # A model may learn from the features of another one, which is trained first.
    banked = {name: preparation.inputs(name) not in preparation.made for name in models}
    caches = parts.ready(opened.training, preparation.cached)
    for later in (False, True):
        chosen = [(name, str(fold)) for name in models if banked[name] is later for fold in folds]
        ready: list[tuple[str, str, list[str]]] = []
        for name, fold in chosen:
            ready.append((name, fold, [paths.index, *opened.trained_on(name, fold)]))
        yield [
            Made(
                "train",
                f"{paths.fold.format(model=name, fold=fold)}/provenance.json",
                depends.training(name),
                [*after, *plan],
                tuple(f"{paths.fold.format(model=name, fold=fold)}/{one}" for one in ("model.pt", "log.csv")),
            )
            for name, fold, after in ready
        ]
        if not later:
            banks = dict.fromkeys(
                str(Path(preparation.inputs(name).format(case="", fold=fold)).parent)
                for name in models
                if banked[name]
                for fold in folds
            )
            yield [
                Made(
                    "features",
                    bank,
                    depends.on("features"),
                    [paths.made_index, f"{Path(bank).parent}/model.pt", *caches],
                )
                for bank in banks
            ]
        yield [
            Made(
                "test",
                f"{paths.fold.format(model=name, fold=fold)}/test.json",
                depends.on("predict", "choose", "score"),
                [*after, f"{paths.fold.format(model=name, fold=fold)}/model.pt"],
                tuple(
                    f"{paths.fold.format(model=name, fold=fold)}/{one}"
                    for one in ("predictions", "metrics.csv")
                ),
            )
            for name, fold, after in ready
        ]
    yield [
        Made(
            "choose",
            f"{folder}/{name}/choice.json",
            depends.on("choose"),
            [paths.index, *each(f"{paths.fold}/predictions", name)],
        )
        for name in models
    ]
    yield [
        Made(
            "export",
            f"{place}/export",
            depends.on("export"),
            [paths.index, f"{place}/predictions", f"{place}/test.json"],
        )
        for name in models
        for place in each(paths.fold, name)
    ]
    others = parts.ready(opened.others, preparation.indexed) if opened.others else []
    yield [
        Made(
            "ensemble",
            f"{paths.ensemble.format(model=name)}/ensemble.json",
            depends.ensemble(),
            [
                *each(f"{paths.fold}/model.pt", name),
                f"{folder}/{name}/choice.json",
                *others,
                *parts.ready(opened.others, preparation.ensemble_inputs(name)),
            ],
            tuple(
                f"{paths.ensemble.format(model=name)}/{one}"
                for one in ("predictions", "export", "metrics.csv")
            ),
        )
        for name in models
        if opened.others
    ]
    scores = [path for name in models for path in each(f"{paths.fold}/metrics.csv", name)]
    logs = [path for name in models for path in each(f"{paths.fold}/log.csv", name)]
    tested = [f"{paths.ensemble.format(model=name)}/metrics.csv" for name in models if opened.others]
    noticed = parts.ready(opened.sheet.cases, preparation.noticed) if preparation.noticed else []
    after = [f"{folder}/check.json", f"{folder}/splits.json", *noticed, *logs, *scores, *tested]
    also = (f"{folder}/report.html", f"{folder}/summary.csv")
    yield [Made("report", f"{folder}/summary.json", depends.report(), after, also)]


class Judge:
    """Compares records with the present."""

    def __init__(self, results: Path, memory: Memory, versions: bool, full: bool) -> None:
        """Keep what is compared.

        Args:
            results: folder of all results.
            memory: remembered hashes and records.
            versions: whether an output is stale if it was made with other minor versions of libraries.
            full: read every source again, even if its size and times are those of the record.
        """
        self._results, self._memory, self._versions, self._full = results, memory, versions, full
        self._installed = minor_versions()

    def look(self, made: Made) -> Found:
        """Compare the record of one output."""
        path = Path(made.path)
        if made.depends is None:
            gone = next((one for one in made.after if not Path(one).exists()), None)
            return Found(made, f"{gone} is missing" if gone else "", known=path.exists())
        brief = self._brief(path)
        if brief is None:
            return Found(made, known=False)
        why, times = self._apart(path, brief, json.loads(made.depends)), []
        for name, (stamp, content) in brief.read.items():
            inner = name.startswith("{results}/")
            source = self._results / name.removeprefix("{results}/") if inner else Path(name)
            # What is missing is made again by the workflow, or named by the check.
            if not source.exists():
                continue
            if not inner:
                times.append(_time(source))
            if not why and self._content(source, stamp, content, inner) != content:
                why = f"{source} has changed"
        return Found(made, why, times=tuple(times))

    def _apart(self, path: Path, brief: Brief, depends: Any) -> str:
        """The first setting, value of the sheet or version that differs."""
        other = brief.depends != short_hash(depends)
        if not other and not (self._versions and brief.versions != short_hash(self._installed)):
            return ""
        record = record_in(path)
        if record is None:
            return "its record is broken"
        before, now = (record.depends, depends) if other else (record.versions, self._installed)
        return _difference(before, now)

    def _brief(self, path: Path) -> Brief | None:
        """The record of an output, read only if the file is not the one that is remembered."""
        carrier = path / IN_FOLDER if path.is_dir() else path
        if not carrier.exists():
            return None
        stamp, known = stamp_of(carrier), self._memory.get("record", str(path))
        if known is None or known[0] != stamp:
            record = record_in(path)
            if record is None:
                return None
            known = [stamp, *astuple(Brief.of(record))]
            self._memory.put(known, "record", str(path))
        return Brief(*known[1:])

    def _content(self, path: Path, stamp: str, content: str, inner: bool) -> str:
        """The identity of a file or folder now; read only if it may differ from the record's."""
        if inner and (path.is_dir() or path.suffix == ".h5"):
            own = self._brief(path)
            if own is not None:
                return own.fingerprint
        now, always = stamp_of(path), self._full and not inner
        if now == stamp and not always:
            return content
        known = self._memory.get("content", str(path))
        if known is None or known[0] != now or always:
            known = [now, content_of_source(path)]
            self._memory.put(known, "content", str(path))
        return str(known[1])


def judge(opened: Opened[Any, Any], memory: Memory) -> list[list[Found]]:
    """Compare every output of an experiment with what the experiment says.

    Returns:
        What was found, in levels as in `all_made`; an output that is made from a stale one is stale, too.
    """
    settings = opened.settings
    looking = Judge(settings.results, memory, settings.versions == "rerun", settings.verify == "always")
    stale: set[str] = set()
    times: dict[str, tuple[float, ...]] = {}
    levels = []
    with ThreadPoolExecutor(THREADS) as pool:
        for level in all_made(opened):
            found = list(pool.map(looking.look, level))
            for one in found:
                first = next((path for path in one.made.after if path in stale), None)
                if one.known and not one.why and first is not None:
                    one.why = f"{first} is stale"
                if one.why and one.known:
                    stale |= {one.made.path, *one.made.also}
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

    def time_of(path: str) -> float:
        if path not in times:
            times[path] = _time(Path(path))
        return times[path]

    for found in chain.from_iterable(levels):
        made = found.made
        if not found.known:
            continue
        outputs = [path for path in (made.path, *made.also) if Path(path).exists()]
        latest = max([*found.times, *map(time_of, made.after)], default=0)
        if found.why:
            wrong, seconds = [made.path] if time_of(made.path) > STALE else [], STALE
        else:
            wrong, seconds = outputs if min(map(time_of, outputs)) < max(latest, MARK) else [], None
        for path in wrong:
            try:
                _set(Path(path), seconds)
            except OSError:
                failed.append(Path(path))
            times[path] = _time(Path(path))
    return failed


def _set(path: Path, seconds: float | None) -> None:
    """Set the time of a file, or of a folder as Snakemake takes it; None: now."""
    if path.is_dir():
        path /= SNAKEMAKE
        path.touch()
    os.utime(path, None if seconds is None else (seconds, seconds))


def _time(path: Path) -> float:
    """Time of a file, or of a folder as Snakemake takes it. s."""
    with suppress(OSError):
        return (path / SNAKEMAKE).stat().st_mtime
    with suppress(OSError):
        return max(path.stat().st_mtime, path.lstat().st_mtime)
    return 0


def _difference(first: Any, second: Any, name: str = "") -> str:
    """The first place at which two plain values differ, with both values; empty if they are equal."""
    if isinstance(first, dict) and isinstance(second, dict):
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
