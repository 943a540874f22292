"""What other commands print, and processes that end with the one that started them."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# From Linux' prctl.h.
PR_SET_PDEATHSIG = 1


def output_of(command: Sequence[str], *, timeout: float | None = 60, folder: Path | None = None) -> str:
    """What a command prints, read as UTF-8 whatever the locale says.

    Args:
        command: the program and its arguments.
        timeout: how long it may take; None: as long as it likes. s.
        folder: where it runs; None: in the present one.

    Raises:
        OSError: there is no such program.
        subprocess.SubprocessError: it failed, or took longer.
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
    """Let the kernel end this process when the one that started it is gone, whatever both are doing.

    A loader process, too, has its parent's connections open: while it lives, the others do not notice.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
