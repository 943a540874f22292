"""New cases for trained models, and how their source is understood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foldwise.index import Entry


@dataclass(frozen=True)
class NewCases:
    """New cases; their caches do not exist yet.

    Attributes:
        entries: the cases.
        lines: how the source is understood and what is left out, for the user.
    """

    entries: Sequence[Entry]
    lines: Sequence[str]

    @classmethod
    def of(cls, source: Path, entries: Sequence[Entry]) -> NewCases:
        """Cases of a source; whatever else is in the folder is named as left out."""
        taken = {Path(path) for entry in entries for each in entry.files.values() for path in each}
        first = ", ".join(Path(path).name for each in entries[0].files.values() for path in each)
        lines = [f"{len(entries)} case(s), e.g. {entries[0].case} ← {first}"]
        rest = []
        if source.is_dir() and source not in taken:
            rest = sorted(path.name for path in source.iterdir() if path not in taken)
        return cls(entries, lines + ([f"left out: {', '.join(rest)}"] if rest else []))
