"""How far a long computation is, for a bar in the terminal of a command that shows one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Called with what advances, how much of it is done, and how much there is in all.
Listener = Callable[[str, int, int], None]
_listeners: list[Listener] = []


def advanced(what: str, done: int, total: int) -> None:
    """Tell who listens, if anybody does."""
    for listener in _listeners:
        listener(what, done, total)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let a function hear of what advances in the block, also from other threads."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
