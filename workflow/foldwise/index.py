"""The label-path index: where each case lies, and which fold trains, validates and tests on it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from foldwise.files import CaseError, read_json, read_pickle, write_json, write_pickle
from foldwise.section import Strict
from foldwise.settings import Split, validate

VERSION = 4


@dataclass(frozen=True)
class Entry:
    """A prepared case.

    Attributes:
        case: its name.
        group: its patient.
        files: source files by their role, e.g. `images`, `label`.
        cache: its HDF5 file.
        facts: plain values that the system needs.
        amount: quantity that is balanced over the folds, e.g. labelled volume.
        stratum: number of its class, if folds are stratified by class; a patient has one class.
    """

    case: str
    group: str
    files: dict[str, tuple[str, ...]]
    cache: str
    facts: dict[str, Any]
    amount: float
    stratum: int = 0


@dataclass(frozen=True)
class Fold:
    """Names of the cases that one fold uses for training, for choosing its best epoch, and for testing."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class Index:
    """All labelled cases of the cross-validation, and the folds.

    Attributes:
        task: what is learnt, as plain values that the system interprets.
        entries: the cases by name.
        folds: cases for training, validation and testing.
    """

    task: dict[str, Any]
    entries: tuple[Entry, ...]
    folds: tuple[Fold, ...]

    def __getitem__(self, case: str) -> Entry:
        return self._by_case[case]

    def fold(self, number: int) -> Fold:
        """A fold by its number.

        Raises:
            CaseError: no fold has this number.
        """
        if not 0 <= number < len(self.folds):
            raise CaseError(f"--fold {number}: the index has the folds 0 to {len(self.folds) - 1}")
        return self.folds[number]

    @cached_property
    def _by_case(self) -> dict[str, Entry]:
        return {entry.case: entry for entry in self.entries}

    def caches(self, cases: Sequence[str], features: Path | None = None) -> dict[str, str]:
        """Case → its HDF5 file: the cache, or the file of that name in a folder of features."""
        return {
            case: self[case].cache if features is None else str(features / f"{case}.h5") for case in cases
        }

    def write(self, pickle: Path, splits: Path) -> None:
        """Write the pickle and a readable copy, which a later experiment can use as `split.file`."""
        values = {"entries": [asdict(e) for e in self.entries], "folds": [asdict(f) for f in self.folds]}
        write_pickle(pickle, {"version": VERSION, "task": self.task, **_plain(values)})
        write_json(splits, {"folds": [_plain(asdict(fold)) for fold in self.folds]})

    @classmethod
    def read(cls, path: Path) -> Index:
        """Read a pickle; only plain values are accepted.

        Raises:
            CaseError: not an index of this version.
        """
        values = read_pickle(path)
        if not isinstance(values, dict) or values.get("version") != VERSION:
            raise CaseError(f"{path}: not a label-path index of version {VERSION}; delete it and run again")
        return cls(
            values["task"],
            tuple(_entry(entry) for entry in values["entries"]),
            tuple(_fold(fold) for fold in values["folds"]),
        )


def make_index(entries: Sequence[Entry], task: dict[str, Any], split: Split) -> Index:
    """Assign the cases to folds: by patient, stratified by the cases' `stratum` and `amount`.

    Raises:
        CaseError: too few patients, or a split file that leaks or names unknown cases.
    """
    entries = tuple(sorted(entries, key=lambda entry: entry.case))
    groups = {entry.case: entry.group for entry in entries}
    folds = _folds(entries, split) if split.file is None else _own_folds(split.file, groups)
    _refuse_leaks(folds, groups, str(split.file or "the split"))
    return Index(task, entries, folds)


def _folds(entries: tuple[Entry, ...], split: Split) -> tuple[Fold, ...]:
    parts = _parts(entries, split.folds, split.seed)
    folds = []
    for number, test in enumerate(parts):
        rest = tuple(entry for entry in entries if entry not in test)
        validation: tuple[Entry, ...] = ()
        if split.validation > 0:
            # One of n parts is the required share; two parts are the coarsest split.
            wanted = max(2, round(1 / split.validation))
            count = min(wanted, len({entry.group for entry in rest}))
            validation = _validation(_parts(rest, count, split.seed + number + 1))
        train = tuple(entry for entry in rest if entry not in validation)
        folds.append(Fold(_names(train), _names(validation), _names(test)))
    return tuple(folds)


def _validation(parts: list[tuple[Entry, ...]]) -> tuple[Entry, ...]:
    """The first part; another if the first has only empty cases, or leaves only empty ones for training."""

    def filled(part: tuple[Entry, ...]) -> bool:
        return any(entry.amount > 0 for entry in part)

    def fit(part: tuple[Entry, ...]) -> tuple[bool, bool]:
        return any(filled(other) for other in parts if other is not part), filled(part)

    return max(parts, key=fit)


def _parts(entries: tuple[Entry, ...], count: int, seed: int) -> list[tuple[Entry, ...]]:
    """Split entries into `count` parts that share no patient."""
    groups = sorted({entry.group for entry in entries})
    if len(groups) < max(count, 2):
        raise CaseError(
            f"{len(groups)} patient(s) cannot be split into {max(count, 2)} parts; lower split.folds "
            f"or split.validation, or add labelled cases"
        )
    random = np.random.default_rng(seed)
    cases = {group: [e for e in entries if e.group == group] for group in groups}
    kind = {group: (cases[group][0].stratum, sum(e.amount for e in cases[group])) for group in groups}
    # Blocked dealing: patients of one stratum and similar amount are dealt one to each part, so every part
    # gets its share of empty, small and large ones; in a block the fullest patient goes where fewest are.
    order = sorted(random.permutation(groups), key=lambda group: kind[group])
    parts: list[list[Entry]] = [[] for _ in range(count)]
    for first in range(0, len(order), count):
        free = [int(part) for part in random.permutation(count)]
        for group in sorted(order[first : first + count], key=lambda group: -len(cases[group])):
            chosen = min(free, key=lambda part: len(parts[part]))
            free.remove(chosen)
            parts[chosen] += cases[group]
    return [tuple(part) for part in parts]


def check_file(split: Split, groups: Mapping[str, str]) -> None:
    """Refuse a split file on which the index or the folds' jobs would fail.

    Args:
        split: with or without a file.
        groups: labelled training case → its patient.

    Raises:
        CaseError: the file has the wrong form or number of folds, names unknown cases, or leaks.
    """
    if split.file is None:
        return
    count = len(_own_folds(split.file, groups))
    if count < split.folds or (count > split.folds and "folds" not in split.model_fields_set):
        raise CaseError(f"{split.file}: has {count} fold(s), split.folds is {split.folds}; set it to {count}")


def _own_folds(path: Path, groups: Mapping[str, str]) -> tuple[Fold, ...]:
    values = read_json(path)
    listed = validate(_Listed, values if isinstance(values, dict) else {"folds": values}, origin=str(path))
    folds = []
    for number, fold in enumerate(listed.folds):
        held_out = fold.val if fold.test is None else fold.test
        if held_out is None or (fold.test is not None and fold.val is not None):
            raise CaseError(
                f"{path}: fold {number} needs a list `test` or, as nnU-Net calls it, `val`, not both; "
                f"the cases that choose the epoch are listed as `validation`"
            )
        rest = [name for name in sorted(groups) if name not in {*held_out, *fold.validation}]
        train = rest if fold.train is None else fold.train
        folds.append(Fold(tuple(train), tuple(fold.validation), tuple(held_out)))
        if unknown := {*train, *fold.validation, *held_out} - groups.keys():
            near = difflib.get_close_matches(min(unknown), groups, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise CaseError(
                f"{path}: fold {number} names {', '.join(sorted(unknown))}: not a labelled training "
                f"case of the sheet{hint}"
            )
    _refuse_leaks(tuple(folds), groups, str(path))
    return tuple(folds)


class _ListedFold(Strict):
    """A fold as a file lists it; nnU-Net's splits_final.json calls the held-out cases `val`."""

    test: list[str] | None = None
    val: list[str] | None = None
    validation: list[str] = Field([])
    train: list[str] | None = None


class _Listed(Strict):
    folds: list[_ListedFold] = Field(min_length=1)


def _refuse_leaks(folds: tuple[Fold, ...], group: Mapping[str, str], origin: str) -> None:
    held_out = [name for fold in folds for name in fold.test]
    if len(held_out) != len(set(held_out)):
        twice = sorted({name for name in held_out if held_out.count(name) > 1})
        raise CaseError(f"{origin}: held out in more than one fold: {', '.join(twice)}")
    for number, fold in enumerate(folds):
        if not fold.train or not fold.test:
            raise CaseError(f"{origin}: fold {number} has no training case or no test case")
        parts = (fold.train, fold.validation, fold.test)
        for first, second in ((0, 1), (0, 2), (1, 2)):
            shared = {group[c] for c in parts[first]} & {group[c] for c in parts[second]}
            if shared:
                raise CaseError(
                    f"{origin}: fold {number} leaks: patient(s) {', '.join(sorted(shared))} are in "
                    f"more than one of train, validation and test"
                )


def _names(entries: Sequence[Entry]) -> tuple[str, ...]:
    return tuple(sorted(entry.case for entry in entries))


def _entry(values: dict[str, Any]) -> Entry:
    return Entry(**{**values, "files": {kind: tuple(paths) for kind, paths in values["files"].items()}})


def _fold(values: dict[str, Any]) -> Fold:
    return Fold(*(tuple(values[part]) for part in ("train", "validation", "test")))


def _plain(value: Any) -> Any:
    """Tuples as lists, so that pickle and JSON hold the same values."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
