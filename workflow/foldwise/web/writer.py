"""Which of the open pages writes: one; the others read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

# Browsers let hidden pages ask once a minute only.
SILENCE = 90.0


class RefusedError(Exception):
    """A change that is not made. `why`: "outdated" or "reader"."""

    def __init__(self, message: str, why: str) -> None:
        """Store a message for the user, and the reason as the page knows it."""
        super().__init__(message)
        self.why = why


class Writer:
    """The page that writes. Pages are known by a name of their own."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Nobody writes at first. `now`: seconds."""
        self._now, self._lock = now, threading.Lock()
        self._page: str | None = None
        self._heard = 0.0

    @property
    def free(self) -> bool:
        """Nobody writes, or the page that did has been silent for too long."""
        return self._page is None or self._now() - self._heard > SILENCE

    def ask(self, page: str, force: bool = False) -> bool:
        """Let a page write if nobody does, or if it insists; return whether it does now."""
        with self._lock:
            if force or self.free:
                self._page = page
            return self._hear(page)

    def hear(self, page: str) -> bool:
        """Note that a page is there; return whether it writes."""
        with self._lock:
            return self._hear(page)

    def leave(self, page: str) -> None:
        """A page was closed."""
        with self._lock:
            if page == self._page:
                self._page = None

    def _hear(self, page: str) -> bool:
        if page == self._page:
            self._heard = self._now()
        return page == self._page
