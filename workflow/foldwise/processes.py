"""Processes that end with the one that started them."""

from __future__ import annotations

import ctypes
import signal
import sys

# From Linux' prctl.h.
PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Let the kernel end this process when the one that started it is gone, whatever both are doing.

    A loader process, too, has its parent's connections open: while it lives, the others do not notice.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
