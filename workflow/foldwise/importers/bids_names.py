"""Names of files in BIDS: entities and a suffix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foldwise.files import CaseError
from foldwise.volumes.suffixes import stem_of, suffix_of

# The entities of a case.
Case = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Name:
    """What the name of a file says.

    Attributes:
        pairs: its entities, e.g. ("acq", "3d"), in the order of the name.
        suffix: e.g. T1w.
    """

    pairs: Case
    suffix: str

    @property
    def entities(self) -> dict[str, str]:
        """Key → value of its entities."""
        return dict(self.pairs)

    @classmethod
    def of(cls, stem: str) -> Name | None:
        """The name of a file without its extension, or a part of it; None for names in another form."""
        *pairs, suffix = stem.split("_")
        split = [pair.partition("-") for pair in pairs]
        if not suffix.isalnum() or not all(map(all, split)):
            return None
        return cls(tuple((key, value) for key, _, value in split), suffix)

    def fits(self, wanted: Name) -> bool:
        """Whether it has a suffix and some entities."""
        return self.suffix == wanted.suffix and wanted.entities.items() <= self.entities.items()

    def without(self, keys: Iterable[str]) -> Case:
        """Its entities except some."""
        left_out = set(keys)
        return tuple(pair for pair in self.pairs if pair[0] not in left_out)


def volumes_below(roots: Sequence[Path]) -> dict[Path, Name]:
    """All volumes of subjects below some folders, with what their names say."""
    found = {}
    for root in roots:
        for path in sorted(root.rglob("sub-*")):
            if suffix_of(path.name) and not path.is_dir():
                found[path] = Name.of(stem_of(path.name)) or Name(
                    (), "a name that is not in the form of BIDS"
                )
    return found


def parse_names(text: str, option: str) -> list[Name]:
    """Suffixes with their entities, separated by commas, from a command line.

    Raises:
        CaseError: one has another form.
    """
    parsed = {part: Name.of(part) for part in filter(None, (part.strip() for part in text.split(",")))}
    if wrong := [part for part, name in parsed.items() if name is None]:
        raise CaseError(f"{option}: {wrong[0]!r} is not a suffix with its entities, e.g. T1w or acq-3d_FLAIR")
    return [name for name in parsed.values() if name is not None]


def kinds(files: Mapping[Path, Name]) -> str:
    """Suffixes of files with their numbers, for messages."""
    counts = Counter(name.suffix for name in files.values())
    return ", ".join(f"{count} × {suffix}" for suffix, count in sorted(counts.items()))


def text_of(case: Case) -> str:
    """The entities of a case as in a name."""
    return "_".join(f"{key}-{value}" for key, value in case)
