"""What the page and the command show of a session, as JSON values."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from foldwise.systems.interactive.engines.choice import ENGINES
from foldwise.systems.interactive.masks import rounded
from foldwise.systems.interactive.scans import modality

if TYPE_CHECKING:
    from foldwise.systems.interactive.annotation import Annotation

# Voxels from which percentiles are estimated.
SAMPLE = 1_000_000


def of_scan(annotation: Annotation) -> dict[str, Any]:
    """What never changes: the scan's grid and grey values, and what can be chosen."""
    scan = annotation.scan
    return {
        "scan": annotation.volumes[0].name,
        "session": identity(annotation),
        "shape": list(scan.shape),
        "affine": scan.affine.tolist(),
        "dtype": scan.image.dtype.name,
        "channels": [_range(channel, number) for number, channel in enumerate(scan.image)],
        "modality": modality(scan),
        "engines": [
            {"name": name, "title": ENGINES[name].title, "does": ENGINES[name].does}
            for name in annotation.engines
        ],
        "saves": list(annotation.forms),
    }


def of_session(annotation: Annotation) -> dict[str, Any]:
    """What changes with every step."""
    state, history = annotation.state, annotation.history
    suggestion, undone = state.suggestion(), history.undone
    objects = [
        {"number": number, **each.as_dict(), "voxels": int(state.area(number).sum())}
        for number, each in enumerate(annotation.objects, start=1)
        if not each.removed
    ]
    hinted: set[int] = set().union(*(state.hinted(number) for number in state.marks))
    return {
        "version": annotation.version,
        "objects": objects,
        "axis": state.axis,
        "engine": annotation.engine,
        "hinted": sorted(hinted),
        "quality": {number: list(map(rounded, found)) for number, found in state.quality.items()},
        "suggestion": suggestion
        and {"object": suggestion.number, "slice": suggestion.place, "reason": suggestion.reason},
        "message": history.now.message,
        "steps": history.steps,
        "can_undo": history.steps > 0,
        "can_redo": undone is not None,
        "undo_text": history.now.text,
        "redo_text": undone or "",
        "marks": {
            number: [each.as_dict() for each in said if not each.painted]
            for number, said in state.marks.items()
        },
    }


def summary(annotation: Annotation) -> dict[str, Any]:
    """Steps so far and the slice to look at next, for the command."""
    suggestion = annotation.state.suggestion()
    return {
        "steps": annotation.history.steps,
        "axis": "xyz"[annotation.state.axis],
        "next_slice": None if suggestion is None else suggestion.place,
        "next_object": None if suggestion is None else annotation.names[suggestion.number - 1],
        "reason": "nothing more to do" if suggestion is None else suggestion.reason,
        "message": annotation.history.now.message,
    }


def identity(annotation: Annotation) -> str:
    """What tells this session from every other one: a digest of its scan and its folder."""
    folder = annotation.folder.resolve()
    return hashlib.sha256(os.fsencode(folder) + (folder / "session.json").read_bytes()).hexdigest()[:16]


def _range(channel: np.ndarray, number: int) -> dict[str, Any]:
    """A channel's name and grey values: the smallest and largest, and those that show most of it."""
    some = channel.ravel()[:: max(1, channel.size // SAMPLE)]
    low, high = np.percentile(some, (1, 99)).tolist()
    return {
        "name": f"channel {number}",
        "min": float(channel.min()),
        "max": float(channel.max()),
        "low": low,
        "high": max(high, low + 1e-6),
    }
