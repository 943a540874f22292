"""The new index, in which only cases whose regions were accepted are trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from foldwise.files import CaseError
from foldwise.index import Entry, Index


def update_index(index: Index, facts: Mapping[str, Mapping[str, Any]], regions: Path) -> Index:
    """The same folds, in which only accepted cases are trained on, now with the new masks.

    Cases under review stay in validation and test: a test set without the difficult cases would give a higher
    score. Their region is the disputed one, as that of a new clip, whose region nobody checks, would be.

    Args:
        index: built from the sheet; it is not changed.
        facts: case → facts about its region.
        regions: folder of the files of regions.

    Raises:
        CaseError: a fold is left without a case to train on.
    """
    accepted = {case for case, found in facts.items() if not found["review"]}

    def updated(entry: Entry) -> Entry:
        found = facts[entry.case]
        own = {**entry.facts, "region_iou": found["iou"], "review": found["review"]}
        mask = {"mask": (str(regions / f"{entry.case}.h5"),)} if entry.case in accepted else {}
        return replace(entry, files={**entry.files, **mask}, facts=own)

    folds = []
    for number, fold in enumerate(index.folds):
        kept = replace(fold, train=tuple(case for case in fold.train if case in accepted))
        if not kept.train:
            raise CaseError(
                f"data.update_labels: fold {number} is left without a case to train on: {len(accepted)} of "
                f"{len(index.entries)} regions were accepted; see {regions}/<case>.json for the others"
            )
        folds.append(kept)
    return Index(index.task, tuple(map(updated, index.entries)), tuple(folds))
