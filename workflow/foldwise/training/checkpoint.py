"""The whole state of a training run as one file: plain values and tensors, written atomically."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from foldwise.files import CaseError, atomic_path

CHECKPOINT = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
# Folder of trainings with other settings or data; files moved there with a checkpoint; number kept.
OTHERS = "others"
BELONGINGS = ("models", "examples")
KEPT = 2


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


def load(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """The newest readable checkpoint of the same settings and data, or None.

    Nothing in the file is executed. A broken file is skipped in favour of the previous one.

    Args:
        folder: of the checkpoints.
        fingerprint: of settings and data.
    """
    for path in (folder / CHECKPOINT, folder / PREVIOUS):
        state = _read(path)
        if state is not None and state["fingerprint"] == fingerprint:
            return state
        if state is None and path.exists():
            logging.warning("%s: unreadable; trying the previous one", path)
    return None


def set_aside(folder: Path, fingerprint: str, gpus: int = 1) -> None:
    """Move a training with other settings or data away, and bring back that of these, if kept.

    Settings that are changed and changed back thus find their training again, finished or not. At most two
    are
    kept: the previous one, and of the others the last finished one (or else the last). Call this from the
    process that holds the folder, before the training starts others.

    Args:
        folder: of the checkpoints.
        fingerprint: of settings and data.
        gpus: devices of this training, for the message; the fingerprint depends on them.
    """
    mine = folder / OTHERS / fingerprint
    others: dict[Path, int] = {}
    # The newest last, so that it takes the place of an older one of the same training.
    for path in (folder / PREVIOUS, folder / CHECKPOINT):
        state = _read(path, mmap=True)
        if state is None or state["fingerprint"] == fingerprint:
            continue
        aside = folder / OTHERS / state["fingerprint"]
        _move(folder, aside, BELONGINGS if path.name == CHECKPOINT else ())
        path.replace(aside / CHECKPOINT)
        others[aside] = state.get("gpus", gpus)
    for aside, before in others.items():
        devices = "" if before == gpus else f" (training.gpus: {before}, now {gpus})"
        logging.warning(
            "the training here used other settings or data%s; it is kept in %s, and continues if "
            "they are restored",
            *(devices, aside),
        )
    if mine.exists():
        found = load(folder, fingerprint) is not None
        _move(mine, folder, BELONGINGS if found else (*BELONGINGS, CHECKPOINT))
        shutil.rmtree(mine)
    elif others and load(folder, fingerprint) is None:
        logging.warning("training starts from the beginning")
    _prune(folder / OTHERS)


def _move(source: Path, target: Path, names: Sequence[str]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        # Existing files are newer: they come from a move that was killed.
        if (source / name).exists() and not (target / name).is_dir():
            (source / name).replace(target / name)


def _prune(others: Path) -> None:
    newest = sorted(others.glob("*"), key=lambda path: path.stat().st_mtime, reverse=True)

    def finished(path: Path) -> bool:
        state = _read(path / CHECKPOINT, mmap=True)
        return state is not None and state.get("finished", False)

    kept = [*newest[:1], *sorted(newest[1:], key=finished, reverse=True)][:KEPT]
    for path in set(newest) - set(kept):
        shutil.rmtree(path)


def _read(path: Path, mmap: bool = False) -> dict[str, Any] | None:
    """A checkpoint, or None if it is not readable; with `mmap` its tensors are read on demand."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        state["fingerprint"]
    except Exception:  # a truncated file raises any of half a dozen types
        return None
    return state
