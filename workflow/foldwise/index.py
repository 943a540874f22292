"""The label-path index: where each case lies, and which fold trains, validates and tests on it."""

from __future__ import annotations

import difflib
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from foldwise.deal import Patient, deal, held_back, share_of
from foldwise.experiment.settings import Split
from foldwise.files import CaseError, read_json, read_pickle, write_json, write_pickle
from foldwise.section import Strict
from foldwise.settings import validate

VERSION = 5


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
        classes: names of what it holds: its class, its targets, its phases and tools. Every share of a fold
            gets cases of each class, if enough patients have it.
        recording: hash of the source's voxels or frames, whatever its format; "" if not known yet.
    """

    case: str
    group: str
    files: dict[str, tuple[str, ...]]
    cache: str
    facts: dict[str, Any]
    amount: float
    classes: tuple[str, ...] = ()
    recording: str = ""


@dataclass(frozen=True)
class Fold:
    """Names of the cases that one fold uses for training, for choosing its best epoch, and for testing."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def cases(self) -> tuple[str, ...]:
        """All of them."""
        return self.train + self.validation + self.test


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

    def fewer(self, fold: Fold, share: float, seed: Sequence[int]) -> Fold:
        """A fold that trains on a share of its training patients, see `share_of`; the rest is unchanged.

        Args:
            fold: of this index.
            share: of the patients.
            seed: of the draw.
        """
        patients = _patients([self[case] for case in sorted(fold.train)])
        kept = set(_cases(share_of(patients, share, np.random.default_rng(seed))))
        return replace(fold, train=tuple(case for case in fold.train if case in kept))

    @cached_property
    def _by_case(self) -> dict[str, Entry]:
        return {entry.case: entry for entry in self.entries}

    def caches(self, cases: Sequence[str], features: Path | None = None) -> dict[str, str]:
        """Case → its HDF5 file: the cache, or the file of that name in a folder of features.

        Raises:
            CaseError: a cache is not where the index says.
        """
        if features is not None:
            return {case: str(features / f"{case}.h5") for case in cases}
        if missing := [case for case in cases if not Path(self[case].cache).exists()]:
            raise CaseError(
                f"case {missing[0]}: its cache is not at {self[missing[0]].cache}, where the index says; was "
                f"the index copied alone? It belongs into the folder of results that also holds the caches"
            )
        return {case: self[case].cache for case in cases}

    def write(self, pickle: Path, splits: Path | None = None) -> None:
        """Write the pickle, and a copy of its folds that a later experiment can use as `split.file`.

        Paths of caches are stored relative to the pickle, so that the results can be moved as a whole.
        """
        near = [replace(e, cache=_near(e.cache, pickle.parent)) for e in self.entries]
        values = {"entries": [asdict(e) for e in near], "folds": [asdict(f) for f in self.folds]}
        write_pickle(pickle, {"version": VERSION, "task": self.task, **_plain(values)})
        if splits is not None:
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
            tuple(_entry(entry, path.parent) for entry in values["entries"]),
            tuple(_fold(fold) for fold in values["folds"]),
        )


def make_index(entries: Sequence[Entry], task: dict[str, Any], split: Split) -> Index:
    """Assign the cases to folds: by patient, stratified by the cases' `classes` and `amount`.

    Raises:
        CaseError: too few patients, or a split file that leaks, or does not name exactly these cases.
    """
    entries = tuple(sorted(entries, key=lambda entry: entry.case))
    groups = {entry.case: entry.group for entry in entries}
    folds = _folds(entries, split) if split.file is None else _own_folds(split, split.file, groups)
    _refuse_leaks(folds, groups, str(split.file or "the split"))
    return Index(task, entries, folds)


def enough(patients: int, split: Split) -> bool:
    """Whether each fold has a patient for testing, one for training, and one for a validation share."""
    left = patients - ceil(patients / split.folds)
    return patients >= split.folds and left >= (2 if split.validation else 1)


def _folds(entries: Sequence[Entry], split: Split) -> tuple[Fold, ...]:
    patients = _patients(entries)
    if not enough(len(patients), split):
        share = " and a validation share" if split.validation else ""
        raise CaseError(
            f"{len(patients)} patient(s) cannot be split into {split.folds} folds{share}; lower split.folds "
            f"or add labelled cases"
        )
    random = np.random.default_rng(split.seed)
    parts = deal(patients, [1 / split.folds] * split.folds, random, even=True)
    folds = []
    for number, test in enumerate(parts):
        rest = [patient for part in parts if part is not test for patient in part]
        train, validation = rest, list[Patient]()
        if split.validation > 0:
            train, validation = held_back(rest, split.validation, split.seed + number + 1)
        folds.append(Fold(_cases(train), _cases(validation), _cases(test)))
    return tuple(folds)


def _patients(entries: Sequence[Entry]) -> list[Patient]:
    cases = defaultdict(list)
    for entry in entries:
        cases[entry.group].append(entry)
    return [
        Patient(
            tuple(entry.case for entry in members),
            tuple(sorted({name for entry in members for name in entry.classes})),
            sum(entry.amount for entry in members),
        )
        for _, members in sorted(cases.items())
    ]


def missing_classes(index: Index, split: Split | None = None) -> list[str]:
    """A line for each class that a fold lacks in training, validation or testing, with the folds' numbers.

    Args:
        index: with the folds.
        split: its settings, if known; without any validation share, they say whether one was wanted.
    """
    wanted = split is not None and split.file is None and split.validation > 0
    patients = defaultdict(set)
    for entry in index.entries:
        for name in entry.classes:
            patients[name].add(entry.group)
    held = {entry.case: set(entry.classes) for entry in index.entries}
    uses = [("train", "train on"), ("test", "test on")]
    if wanted or any(fold.validation for fold in index.folds):
        uses.insert(1, ("validation", "choose the epoch on"))
    lines = []
    for name in sorted(patients):
        lacking = []
        for part, use in uses:
            folds = [
                str(number)
                for number, fold in enumerate(index.folds)
                if not any(name in held[case] for case in getattr(fold, part))
            ]
            if folds:
                lacking.append(f"none to {use} in fold {', '.join(folds)}")
        if lacking:
            lines.append(f"class {name} has {len(patients[name])} patient(s): {'; '.join(lacking)}")
    return lines


def check_file(split: Split, groups: Mapping[str, str]) -> None:
    """Refuse a split file on which the index or the folds' jobs would fail.

    Args:
        split: with or without a file.
        groups: labelled training case → its patient.

    Raises:
        CaseError: the file has the wrong form or number of folds, names unknown cases, leaks, or says nothing
            about a case.
    """
    if split.file is None:
        return
    count = len(_own_folds(split, split.file, groups))
    if count < split.folds or (count > split.folds and "folds" not in split.model_fields_set):
        raise CaseError(f"{split.file}: has {count} fold(s), split.folds is {split.folds}; set it to {count}")


def _own_folds(split: Split, path: Path, groups: Mapping[str, str]) -> tuple[Fold, ...]:
    values = read_json(path)
    listed = validate(_Listed, values if isinstance(values, dict) else {"folds": values}, origin=str(path))
    given = [_given(fold, f"{path}: fold {number}", groups) for number, fold in enumerate(listed.folds)]
    # Without a list `train`, the rest trains, but of several folds one must name each case: no other would
    # hold it out.
    known = {case for fold in given for case in fold.cases} if len(given) > 1 else set(groups)
    folds, unnamed = [], {}
    for number, (lists, fold) in enumerate(zip(listed.folds, given, strict=True)):
        others = sorted(groups.keys() - set(fold.cases))
        rest = [case for case in others if case in known and lists.train is None]
        if new := [case for case in others if case not in rest]:
            unnamed[number] = ", ".join(new)
        folds.append(replace(fold, train=(*fold.train, *(others if split.others == "train" else rest))))
    _refuse_leaks(tuple(folds), groups, str(path))
    for number, names in unnamed.items():
        if split.others is None:
            raise CaseError(
                f"{path}: fold {number} does not name {names}; add each to a list, or set split.others: "
                f"`train` adds such cases to the training share, `leave out` does not use them"
            )
        done = "added to its training share" if split.others == "train" else "left out"
        logging.info("%s: fold %d does not name %s: %s", path, number, names, done)
    return tuple(folds)


def _given(lists: _ListedFold, origin: str, groups: Mapping[str, str]) -> Fold:
    """The cases that a fold of a file names; its training share may be incomplete."""
    held_out = lists.val if lists.test is None else lists.test
    if held_out is None or (lists.test is not None and lists.val is not None):
        raise CaseError(
            f"{origin} needs a list `test` or, as nnU-Net calls it, `val`, not both; the cases that choose "
            f"the epoch are listed as `validation`"
        )
    fold = Fold(tuple(lists.train or ()), tuple(lists.validation), tuple(held_out))
    if unknown := set(fold.cases) - groups.keys():
        near = difflib.get_close_matches(min(unknown), groups, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise CaseError(
            f"{origin} names {', '.join(sorted(unknown))}: not a labelled training case of the sheet{hint}"
        )
    if twice := [case for case, count in Counter(fold.cases).items() if count > 1]:
        raise CaseError(f"{origin} names {', '.join(sorted(twice))} more than once")
    return fold


class _ListedFold(Strict):
    """A fold as a file lists it; nnU-Net's splits_final.json calls the held-out cases `val`."""

    test: list[str] | None = None
    val: list[str] | None = None
    validation: list[str] = Field([])
    train: list[str] | None = None


class _Listed(Strict):
    folds: list[_ListedFold] = Field(min_length=1)
    # The record in an experiment's splits.json.
    made_of: Any = None


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


def _cases(patients: Sequence[Patient]) -> tuple[str, ...]:
    return tuple(sorted(case for patient in patients for case in patient.cases))


def _near(cache: str, folder: Path) -> str:
    """The path of a cache relative to a folder; a new case has none."""
    return os.path.relpath(cache, folder) if cache else ""


def _entry(values: dict[str, Any], folder: Path) -> Entry:
    files = {kind: tuple(paths) for kind, paths in values["files"].items()}
    cache = os.path.normpath(folder / values["cache"]) if values["cache"] else ""
    return Entry(**{**values, "files": files, "cache": cache, "classes": tuple(values["classes"])})


def _fold(values: dict[str, Any]) -> Fold:
    return Fold(*(tuple(values[part]) for part in ("train", "validation", "test")))


def _plain(value: Any) -> Any:
    """Tuples as lists, so that pickle and JSON hold the same values."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
