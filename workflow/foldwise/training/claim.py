"""One process per training: the others wait until it ends or stops responding.

After the main process was killed, its jobs run on; a second call of Snakemake submits the same training
again. The new job must not write into the same checkpoints, and must continue where the first one ends.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from foldwise.files import CaseError, read_json
from foldwise.training.budget import UNFINISHED

# Interval of the holder's signs of life, and silence after which it is considered dead. s.
BEAT_S, SILENCE_S = 10.0, 90.0


@contextmanager
def claim(folder: Path, give_up: Callable[[], bool]) -> Iterator[bool]:
    """Hold a folder for the duration of the block, after its current holder has ended.

    A process whose claim was taken over nevertheless, since it was suspended for long, ends within seconds.

    Args:
        folder: of the trainings.
        give_up: asked every few seconds while waiting.

    Yields:
        Whether the folder is held; False if `give_up` returned true.
    """
    path = folder / "holder.json"
    mine = json.dumps(_myself())
    said = False
    while not _take(path, mine):
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
    beat = threading.Thread(target=_beat, args=(path, mine, ended), daemon=True)
    beat.start()
    try:
        yield True
    finally:
        ended.set()
        beat.join()
        if _text(path) == mine:
            path.unlink(missing_ok=True)


def _myself() -> dict[str, Any]:
    return {
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "system": _system(),
        "started": _started(os.getpid()),
        "token": uuid.uuid4().hex,
    }


def _system() -> list[str] | None:
    """What process ids belong to: this boot of the machine, and this container; None if it does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return [os.uname().nodename, boot, str(Path("/proc/self/ns/pid").readlink())]
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process started, in ticks since the boot, which no change of the clock affects."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name, in brackets, may hold anything.
    return text.rpartition(")")[2].split()[19]


def _take(path: Path, mine: str) -> bool:
    """Claim the folder, unless it is held."""
    try:
        # Network file systems, too, let only one process succeed in exclusive creation.
        with path.open("x", encoding="utf-8") as file:
            file.write(mine)
    except FileExistsError:
        return False
    return True


def _remove(path: Path) -> None:
    """Remove a dead holder's file; a new holder's file, written in this moment, is restored."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        path.replace(aside)
    except FileNotFoundError:
        return
    if _holder(aside) is None:
        aside.unlink()
    else:
        aside.replace(path)


def _beat(path: Path, mine: str, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        try:
            # It is missing for a moment while another process looks at it, or since the user deleted it.
            if _text(path) == mine or _take(path, mine):
                os.utime(path)
                continue
        except OSError as error:
            logging.warning("%s: %s", path, error)
            continue
        logging.error("%s: another process took over this training, so this one ends", path)
        os._exit(UNFINISHED)  # from this thread; nothing must be written any more


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


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
    return holder if silence < SILENCE_S and not _ended(holder) else None


def _ended(holder: dict[str, Any]) -> bool:
    """Whether the holder's process is known to have ended.

    On another machine or in another container its id means nothing: there, only silence counts.
    """
    if holder.get("system") is None or holder["system"] != _system():
        return False
    pid = holder["pid"]
    return not psutil.pid_exists(pid) or _started(pid) not in (None, holder["started"])


def _silence(path: Path) -> float:
    """Seconds since the last sign of life, by the file server's clock, not this node's."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".clock-") as probe:
        os.utime(probe.name)
        return Path(probe.name).stat().st_mtime - path.stat().st_mtime
