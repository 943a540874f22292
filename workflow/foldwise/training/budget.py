"""When to stop: the job's time limit, and signals."""

from __future__ import annotations

import signal
import time
from types import FrameType

import psutil

# Exit code of a training that saved itself and wants another job; sysexits.h calls it EX_TEMPFAIL.
UNFINISHED = 75


class Budget:
    """Says when training must save and stop: before the time limit, or after SIGTERM.

    The time counts from the start of the process, so imports are in it.
    """

    def __init__(self, minutes: float | None) -> None:
        """Start watching.

        Args:
            minutes: the job's time limit; None: no limit.
        """
        self._begun = psutil.Process().create_time()
        self._limit = None if minutes is None else 60 * minutes
        self._longest = 0.0
        self._signalled = False
        # Saving inside a handler is not safe; it only sets a flag that is read between two steps.
        signal.signal(signal.SIGTERM, self._on_signal)

    def spent_on(self, seconds: float) -> None:
        """Learn how long the longest indivisible piece of work (a step, a validation, a save) takes."""
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
