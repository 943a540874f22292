"""Entries of the label-path index, from the facts of the crops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foldwise.files import read_json
from foldwise.index import Entry
from foldwise.volumes.settings import Data
from foldwise.volumes.sheet import Case, read_sheet


def make_entries(
    data: Data, prepared: Path, caches: Path, *, training: bool = True
) -> tuple[dict[str, Any], list[Entry]]:
    """What is learnt, and an entry for each case of the cross-validation, or for each other one.

    Args:
        data: the settings' section.
        prepared: folder of the crops.
        caches: folder of the caches.
        training: which cases.
    """
    cases = [case for case in read_sheet(data).cases if case.trains == training]
    facts = {case.name: read_json(prepared / case.name / "crop.json") for case in cases}
    channels = next(iter(facts.values()))["channels"] if facts else 1
    task = {"targets": data.targets().as_dict(), "channels": channels}
    return task, [_entry(case, facts[case.name], caches) for case in cases]


def _entry(case: Case, facts: dict[str, Any], caches: Path) -> Entry:
    files = {"images": tuple(str(path) for path in case.images)}
    if case.label is not None:
        files["label"] = (str(case.label),)
    volumes = facts.get("foreground_ml", {})
    return Entry(
        case=case.name,
        group=case.group,
        files=files,
        cache=str(caches / f"{case.name}.h5"),
        facts={"foreground_ml": volumes},
        amount=sum(volumes.values()),
    )
