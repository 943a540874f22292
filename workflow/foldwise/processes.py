"""Output of other commands, and processes that end with their parent."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

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


def end_with_parent() -> None:
    """Let the kernel end this process when its parent is gone, whatever either is doing.

    A loader process also holds its parent's connections open: while it lives, other processes notice nothing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
