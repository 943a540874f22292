"""The whole state of a training run as one file: plain values and tensors, written beside and renamed."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import torch

from foldwise.files import CaseError, atomic_path

CHECKPOINT = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write the checkpoint; the one before it is kept as a second choice.

    Raises:
        CaseError: it cannot be written, as on a full disk; the ones before it are as they were.
    """
    last = folder / CHECKPOINT
    try:
        with atomic_path(last) as temporary:
            torch.save(state, temporary)
            if last.exists():
                last.replace(folder / PREVIOUS)
    except (OSError, RuntimeError) as error:  # torch tells of a full disk by a RuntimeError
        free = shutil.disk_usage(folder).free / 2**20
        raise CaseError(
            f"{last}: the checkpoint could not be written ({error}); {free:.0f} MiB are free there. The last "
            f"one is kept: make room, or put `results` on a larger disk, and run again"
        ) from error


def load(folder: Path, fingerprint: str, gpus: int = 1) -> dict[str, Any] | None:
    """The newest readable checkpoint of the same settings and data, or None.

    Nothing in the file is executed. A broken file is passed over in favour of the one before it; a
    checkpoint of other settings or data is left behind, with a message.

    Args:
        folder: of the checkpoints.
        fingerprint: of settings and data.
        gpus: devices of this training, for the message; the fingerprint depends on them.
    """
    for name in (CHECKPOINT, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            found = state["fingerprint"]
        except Exception as error:  # a cut-off file raises any of half a dozen kinds
            logging.warning("%s: unreadable (%s); trying the one before it", path, error)
            continue
        if found == fingerprint:
            return state
        before = state.get("gpus", gpus)
        devices = "" if before == gpus else f" (training.gpus: {before}, now {gpus})"
        logging.warning("%s: made with other settings or data%s; training starts afresh", path, devices)
        return None
    return None
