"""Output of other commands, work shared among processes, and processes that end with their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

from foldwise.files import CaseError

# On a login node, which is shared.
MOST_PROCESSES = 8
# From Linux's prctl.h.
PR_SET_PDEATHSIG = 1


def output_of(command: Sequence[str], *, timeout: float | None = 60, folder: Path | None = None) -> str:
    """A command's standard output, read as UTF-8 in every locale.

    Args:
        command: the program and its arguments.
        timeout: time limit in seconds; None: no limit.
        folder: working folder; None: the current one.

    Raises:
        OSError: the program is missing.
        subprocess.SubprocessError: it failed or exceeded the time limit.
    """
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=True,
        timeout=timeout,
    )
    return done.stdout


@contextmanager
def processes() -> Iterator[ProcessPoolExecutor]:
    """Processes for work in Python, which threads would do one after the other; none starts without work.

    Give them work from a thread that outlives them: the kernel ends them with the thread that started them.

    Raises:
        CaseError: one of them was killed.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    pool = ProcessPoolExecutor(
        min(cores, MOST_PROCESSES), mp_context=get_context("spawn"), initializer=_begin
    )
    try:
        with pool:
            yield pool
    except BrokenProcessPool as error:
        raise CaseError(
            "a process that reads files was killed, perhaps because memory ran out; run again"
        ) from error


def _begin() -> None:
    # Ctrl-C is for the parent, which ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def end_with_parent() -> None:
    """Let the kernel end this process when its parent is gone, whatever either is doing.

    A loader process also holds its parent's connections open: while it lives, other processes notice nothing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
