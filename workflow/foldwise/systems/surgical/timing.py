"""How the videos of an experiment are covered by frames, from their caches."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

from foldwise.report.results import Remark
from foldwise.video.damage import left_out
from foldwise.video.gaps import described, in_words, slow
from foldwise.video.store import open_frames


def timing(file: h5py.File) -> dict[str, float | int]:
    """Frames, real rate and gaps of a frame cache, as `video.gaps.described`."""
    return described(file["time_s"][()], file["run"][()])


def remarks(cases: Mapping[str, Any], data: Path, caches: Path) -> list[Remark]:
    """Videos with damaged frames, with gaps, or with fewer frames than their nominal rate."""
    found = []
    for case in cases:
        if not (path := caches / f"{case}.h5").exists():
            continue
        with open_frames(path) as file:
            found += [Remark(case, text) for text in noticed(file)]
    return found


def noticed(file: h5py.File) -> list[str]:
    """What a user should know about a frame cache: damage, gaps, and a real rate below the nominal one."""
    facts, fps = timing(file), float(file.attrs["fps"])
    lines = left_out(int(file.attrs["damaged"]))
    return [*lines, in_words(facts, fps)] if facts["gaps"] or slow(facts, fps) else lines
