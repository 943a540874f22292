"""Entries of the label-path index, from the frame caches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from foldwise.index import Entry
from foldwise.systems.surgical.settings import Data
from foldwise.systems.surgical.sheet import Case, read_sheet
from foldwise.video.store import open_frames


def make_entries(
    data: Data, prepared: Path, caches: Path, *, training: bool = True
) -> tuple[dict[str, Any], list[Entry]]:
    """What is learnt, and an entry for each case of the cross-validation, or for each other one.

    Args:
        data: the settings' section.
        prepared: folder of the caches.
        caches: the same.
        training: which cases.
    """
    cases = [case for case in read_sheet(data).cases if case.trains == training]
    task = {"phases": list(data.phases), "tools": list(data.tools), "annotation_fps": data.annotation_fps}
    return task, [_entry(case, data, caches / f"{case.name}.h5") for case in cases]


def _entry(case: Case, data: Data, cache: Path) -> Entry:
    """An entry; its facts count the frames, and those of each phase and tool."""
    with open_frames(cache) as file:
        phase, tool = file["phase"][()], file["tool"][()]
    counts = np.bincount(phase[phase >= 0], minlength=len(data.phases)).tolist()
    sources = {"video": case.video, "phases": case.phases, "tools": case.tools}
    files: dict[str, tuple[str, ...]] = {k: (str(path),) for k, path in sources.items() if path is not None}
    facts = {
        "frames": len(phase),
        "phases": dict(zip(data.phases, counts, strict=True)),
        "tools": dict(zip(data.tools, (tool == 1).sum(0).tolist(), strict=True)),
    }
    return Entry(case.name, case.group, files, str(cache), facts, float(len(phase)))
