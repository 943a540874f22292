"""Entries of the label-path index, and the new index of the cases whose regions were accepted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foldwise.files import CaseError
from foldwise.index import Entry, Fold, Index
from foldwise.systems.clips.settings import Data
from foldwise.systems.clips.sheet import ClipCase, class_names, class_sentences, read_sheet


def make_entries(
    data: Data, prepared: Path, caches: Path, *, training: bool = True
) -> tuple[dict[str, Any], list[Entry]]:
    """What is learnt, and an entry for each case of the cross-validation, or for each other one.

    Args:
        data: the settings' section.
        prepared: folder of the caches, from which nothing is read.
        caches: folder of the caches.
        training: which cases.
    """
    cases = [case for case in read_sheet(data).cases if case.trains == training]
    task = {"classes": class_names(data), "sentences": class_sentences(data)}
    clips = Counter(case.group for case in cases)
    return task, [_entry(case, task["classes"], clips[case.group], caches) for case in cases]


def update_index(index: Index, facts: Mapping[str, Mapping[str, Any]], regions: Path) -> Index:
    """The same folds with the accepted cases alone, whose masks are now the new ones.

    Args:
        index: as made from the sheet; it is not changed.
        facts: case → what was found of its region.
        regions: folder of the files of regions.

    Raises:
        CaseError: a fold is left without a case to train or to test on.
    """
    accepted = {case for case, found in facts.items() if not found["review"]}
    entries = tuple(
        Entry(
            entry.case,
            entry.group,
            {**entry.files, "mask": (str(regions / f"{entry.case}.h5"),)},
            entry.cache,
            {**entry.facts, "region_iou": facts[entry.case]["iou"]},
            entry.amount,
        )
        for entry in index.entries
        if entry.case in accepted
    )
    folds = []
    for number, fold in enumerate(index.folds):
        kept = Fold(
            *(tuple(c for c in part if c in accepted) for part in (fold.train, fold.validation, fold.test))
        )
        if not kept.train or not kept.test:
            what = "test on" if kept.train else "train on"
            raise CaseError(
                f"data.update_labels: fold {number} is left without a case to {what}: {len(entries)} of "
                f"{len(index.entries)} regions were accepted; the others say why in {regions}/<case>.json"
            )
        folds.append(kept)
    return Index(index.task, entries, tuple(folds))


def _entry(case: ClipCase, classes: list[str], clips: int, caches: Path) -> Entry:
    files: dict[str, tuple[str, ...]] = {"video": (str(case.video),)}
    if case.mask is not None:
        files["mask"] = (str(case.mask),)
    # Folds deal out patients of similar amount: those of one class, and among them those of as many clips.
    number = classes.index(case.label) if case.label in classes else 0
    return Entry(
        case=case.name,
        group=case.group,
        files=files,
        cache=str(caches / f"{case.name}.h5"),
        facts={"label": case.label},
        amount=1e6 * number / clips + 1,
    )
