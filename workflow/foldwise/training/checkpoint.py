"""The whole state of a training run as one file: plain values and tensors, written atomically."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from foldwise.files import CaseError, atomic_path

CHECKPOINT = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
# Beside them, the weights of a finished training and what they are for.
MODEL = "model.pt"
# Values missing in files of earlier versions. Without a course, no other training goes on from them.
ADDED = {"courses": [], "score": math.nan, "longest": 0, "before_end": None, "lowest": math.nan}


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write the checkpoint; the previous one is kept as a fallback.

    Raises:
        CaseError: it cannot be written, e.g. on a full disk; previous ones are unchanged.
    """
    last = folder / CHECKPOINT
    try:
        with atomic_path(last) as temporary:
            torch.save(state, temporary)
            if last.exists():
                last.replace(folder / PREVIOUS)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        free = shutil.disk_usage(folder).free / 2**20
        raise CaseError(
            f"{last}: the checkpoint could not be written ({error}); {free:.0f} MiB are free there. The last "
            f"one is kept: free some space, or put `results` on a larger disk, and run again"
        ) from error


def settle(folder: Path, keep: bool) -> None:
    """Leave a finished training with its model, and perhaps its state without the weights that the model has.

    Args:
        folder: of the training, in which the model is.
        keep: whether the state stays, so that training can go on from it.
    """
    last = folder / CHECKPOINT
    if not keep:
        last.unlink(missing_ok=True)
    elif (state := _read(last, mmap=True)) is not None:
        ends = [state, state["before_end"] or {}]
        kept = state["best"]["epoch"]
        if any(end["best"]["network"] is not None for end in ends if _of(end, kept)):
            for end in ends:
                if _of(end, kept):
                    end["best"] = {**end["best"], "network": None}
            with atomic_path(last) as temporary:
                torch.save(state, temporary)
    (folder / PREVIOUS).unlink(missing_ok=True)


def load(folder: Path, fingerprint: str, mmap: bool = False) -> dict[str, Any] | None:
    """The newest readable checkpoint of the same settings and data, or None.

    Nothing in the file is executed. A broken file is skipped in favour of the previous one.

    Args:
        folder: of the checkpoints.
        fingerprint: of settings and data.
        mmap: whether tensors are read on demand.
    """
    for path in (folder / CHECKPOINT, folder / PREVIOUS):
        state = read(path, mmap)
        if state is not None and state["fingerprint"] == fingerprint:
            return state
        if state is None and path.exists():
            logging.warning("%s: unreadable; trying the previous one", path)
    return None


def read(path: Path, mmap: bool = False) -> dict[str, Any] | None:
    """A checkpoint, or None if it is not readable; with `mmap` its tensors are read on demand.

    Weights that a finished training has in its model alone are taken from there.
    """
    state = _read(path, mmap)
    ends = [] if state is None else [state, state["before_end"] or {}]
    for end in ends:
        if end.get("best") is not None and end["best"]["network"] is None:
            try:
                model = torch.load(path.with_name(MODEL), map_location="cpu", weights_only=True, mmap=mmap)
                end["best"] = {**end["best"], "network": model["network"]}
            except Exception:  # as below
                return None
    return state


def _of(end: Mapping[str, Any], epoch: int) -> bool:
    """Whether the best weights of a state are those of an epoch."""
    return end.get("best") is not None and end["best"]["epoch"] == epoch


def _read(path: Path, mmap: bool) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        state["fingerprint"]
    except Exception:  # a truncated file raises any of half a dozen types
        return None
    return {**ADDED, **state}
