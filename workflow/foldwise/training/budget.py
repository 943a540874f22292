"""When to stop: the job's time limit, and signals."""

from __future__ import annotations

import signal
import time
from types import FrameType

import psutil

from foldwise.gpus import waited_s

# Exit code of a training that saved its state and needs another job; EX_TEMPFAIL in sysexits.h.
UNFINISHED = 75


class Budget:
    """Decides when training must save and stop: before the time limit, or after SIGTERM.

    Time counts from the start of the process, so it includes imports, but not waiting for other jobs' GPUs.
    """

    def __init__(self, minutes: float | None) -> None:
        """Start watching.

        Args:
            minutes: the job's time limit; None: no limit.
        """
        self._begun = psutil.Process().create_time() + waited_s()
        self._limit = None if minutes is None else 60 * minutes
        self._longest = 0.0
        self._signalled = False
        # Saving inside a handler is not safe; it only sets a flag that is read between steps.
        signal.signal(signal.SIGTERM, self._on_signal)

    def spent_on(self, seconds: float) -> None:
        """Record the duration of an indivisible piece of work (a step, a validation, a save)."""
        self._longest = max(self._longest, seconds)

    @property
    def reason(self) -> str | None:
        """Why to stop now, or None."""
        if self._signalled:
            return "SIGTERM received"
        if self._limit is None:
            return None
        # The job starts two Snakemakes before this process, which takes seconds to half a minute; and saving
        # takes time.
        started_before = min(0.5 * self._limit, max(30.0, 0.1 * self._limit), 300.0)
        margin = started_before + 2 * self._longest
        if time.time() - self._begun + margin > self._limit:
            return f"time limit of {self._limit / 60:g} min is near"
        return None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
