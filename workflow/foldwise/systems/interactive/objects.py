"""The objects of a session, as a person names them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from foldwise.files import CaseError
from foldwise.volumes.objects import Code, Origin

# Told apart also by people with red-green blindness (Okabe and Ito, 2008; brightened for a dark ground).
COLOURS = ("#e69f00", "#56b4e9", "#00c08b", "#f0e442", "#3d8fd1", "#ff7043", "#d987c0", "#b0bec5")
LONGEST = 64
MOST = 2**16 - 1


@dataclass(frozen=True)
class Object:
    """An object.

    Attributes:
        name: unique in the session.
        value: its voxel value in label maps.
        colour: #rrggbb.
        hidden: not shown on the page; no step changes it, as nobody would see it.
        locked: no step changes it.
        origin: how its mask was found.
        codes: DICOM's category and type of what it is, if a file had them.
        removed: the object is gone; what is left keeps its number and value from being given to another one.
    """

    name: str
    value: int
    colour: str
    hidden: bool = False
    locked: bool = False
    origin: Origin = "MANUAL"
    codes: tuple[Code, Code] | None = None
    removed: bool = False

    @property
    def held(self) -> str:
        """Why no step may change it, and what to do first, in words; empty if steps may."""
        if self.removed:
            return "was removed; undo that"
        if self.locked:
            return "is locked; unlock it"
        return "is hidden; show it" if self.hidden else ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        codes = values.get("codes")
        pair = None if codes is None else (tuple(codes[0]), tuple(codes[1]))
        return cls(**{**values, "codes": pair})


def held(objects: Iterable[Object]) -> dict[int, str]:
    """Number of each object that no step may change → why; the first object has number 1."""
    return {number: each.held for number, each in enumerate(objects, start=1) if each.held}


def rgb(colour: str) -> tuple[int, int, int]:
    """#rrggbb as red, green and blue, 0 to 255."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def named(name: str, others: Iterable[Object], value: int | None = None, colour: str | None = None) -> Object:
    """A new object: its value and colour are free ones, unless given.

    Raises:
        CaseError: the name is empty, too long or taken, or the value is taken.
    """
    present = list(others)
    name = name.strip()
    if not name or len(name) > LONGEST:
        raise CaseError(f"object {name!r}: a name has 1 to {LONGEST} characters")
    if name in (each.name for each in present if not each.removed):
        raise CaseError(f"object {name!r}: there is one of this name already")
    values = {each.value for each in present}
    if value in values:
        raise CaseError(f"object {name!r}: its value {value} is that of another object")
    if len(present) >= MOST:
        raise CaseError(f"a session has at most {MOST} objects")
    if colour is not None and not re.fullmatch("#[0-9a-fA-F]{6}", colour):
        raise CaseError(f"object {name!r}: colour {colour!r}; expected #rrggbb")
    free = value if value is not None else next(n for n in range(1, MOST + 1) if n not in values)
    return Object(name, free, colour or COLOURS[len(present) % len(COLOURS)])
