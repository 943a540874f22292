"""The new index of the cases whose regions were accepted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from foldwise.files import CaseError
from foldwise.index import Fold, Index


def update_index(index: Index, facts: Mapping[str, Mapping[str, Any]], regions: Path) -> Index:
    """The same folds with only the accepted cases, now with the new masks.

    Args:
        index: built from the sheet; it is not changed.
        facts: case → facts about its region.
        regions: folder of the files of regions.

    Raises:
        CaseError: a fold is left without a case to train on or to test on.
    """
    accepted = {case for case, found in facts.items() if not found["review"]}
    entries = tuple(
        replace(
            entry,
            files={**entry.files, "mask": (str(regions / f"{entry.case}.h5"),)},
            facts={**entry.facts, "region_iou": facts[entry.case]["iou"]},
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
                f"{len(index.entries)} regions were accepted; see {regions}/<case>.json for the others"
            )
        folds.append(kept)
    return Index(index.task, entries, tuple(folds))
