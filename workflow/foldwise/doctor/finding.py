"""What the doctor says of one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table.

    Attributes:
        topic: what was looked at.
        level: ok; warning: some work would fail or be slow; error: nothing runs, or not as it should.
        found: what was found.
        todo: what to do; "" if nothing.
    """

    topic: str
    level: Level
    found: str
    todo: str = ""
