"""One process per training: the others wait until it ends or stops responding.

After the main process was killed, its jobs run on; a second call of Snakemake submits the same training
again. The new job must not write into the same checkpoints, and must continue where the first one ends.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from foldwise.files import CaseError, read_json

# Interval of the holder's signs of life, and silence after which it is considered dead. s.
BEAT_S, SILENCE_S = 10.0, 90.0


@contextmanager
def claim(folder: Path, give_up: Callable[[], bool]) -> Iterator[bool]:
    """Hold a folder for the duration of the block, after its current holder has ended.

    Args:
        folder: of the checkpoints.
        give_up: asked every few seconds while waiting.

    Yields:
        Whether the folder is held; False if `give_up` returned true.
    """
    path = folder / "holder.json"
    said = False
    while not _take(path):
        holder = _holder(path)
        if holder is None:
            _remove(path)
            continue
        if not said:
            job = f" (Slurm job {holder['slurm_job_id']})" if holder["slurm_job_id"] else ""
            logging.info("waiting for process %s on %s%s", holder["pid"], holder["host"], job)
            said = True
        if give_up():
            yield False
            return
        time.sleep(BEAT_S / 5)
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, ended), daemon=True)
    beat.start()
    try:
        yield True
    finally:
        ended.set()
        beat.join()
        path.unlink(missing_ok=True)


def _take(path: Path) -> bool:
    """Claim the folder, unless it is held."""
    mine = {"host": os.uname().nodename, "pid": os.getpid(), "slurm_job_id": os.environ.get("SLURM_JOB_ID")}
    try:
        # Network file systems, too, let only one process succeed in exclusive creation.
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(mine) + "\n")
    except FileExistsError:
        return False
    return True


def _remove(path: Path) -> None:
    """Remove a dead holder's file; a new holder's file, written in this moment, is restored."""
    aside = path.with_name(f"{path.name}.{os.uname().nodename}-{os.getpid()}")
    try:
        path.replace(aside)
    except FileNotFoundError:
        return
    if _holder(aside) is None:
        aside.unlink()
    else:
        aside.replace(path)


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        path.touch()


def _holder(path: Path) -> dict[str, Any] | None:
    """The holder of the folder, if it is alive."""
    try:
        silence = _silence(path)
        holder = dict(read_json(path))
    except FileNotFoundError:
        return None
    except CaseError:
        # Still being written, or truncated by a kill.
        holder = {"host": "an unknown host", "pid": "unknown", "slurm_job_id": None}
    if holder["host"] == os.uname().nodename and not psutil.pid_exists(holder["pid"]):
        return None
    return holder if silence < SILENCE_S else None


def _silence(path: Path) -> float:
    """Seconds since the last sign of life, by the file server's clock, not this node's."""
    probe = path.with_name(f".clock-{os.getpid()}")
    probe.touch()
    try:
        return probe.stat().st_mtime - path.stat().st_mtime
    finally:
        probe.unlink()
