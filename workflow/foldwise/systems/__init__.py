"""The systems by name: ours, and those that other packages bring by the entry point `foldwise.systems`."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from foldwise.files import CaseError
from foldwise.systems.base import System

GROUP = "foldwise.systems"


@cache
def system_of(name: str) -> System[Any, Any]:
    """The system of a name.

    Raises:
        CaseError: there is none of that name, or two packages bring one, or the class is no complete system.
    """
    found = _found()
    if name not in found:
        raise CaseError(
            f"system: {name!r} is none of {', '.join(found)}; systems of other packages have to be installed"
        )
    made = found[name]
    if not isinstance(made, EntryPoint):
        return made
    try:
        system = made.load()()
    except Exception as error:  # of another package: any kind
        raise CaseError(f"system {name}, of {_origin(made)}: cannot be imported ({error})") from error
    if not isinstance(system, System) or system.name != name:
        raise CaseError(f"system {name}, of {_origin(made)}: {made.value} is no System of that name")
    return system


def names() -> list[str]:
    """Names of all systems, ours first."""
    return list(_found())


def origin(name: str) -> str:
    """The package that brings a system, with its version."""
    made = _found()[name]
    return _origin(made) if isinstance(made, EntryPoint) else "foldwise"


def own() -> dict[str, System[Any, Any]]:
    """The systems of this package."""
    from foldwise.systems.clips.system import Clips
    from foldwise.systems.interactive.system import Interactive
    from foldwise.systems.segmentation.system import Segmentation
    from foldwise.systems.surgical.system import Surgical

    ours: list[System[Any, Any]] = [Segmentation(), Surgical(), Interactive(), Clips()]
    return {system.name: system for system in ours}


@cache
def _found() -> dict[str, System[Any, Any] | EntryPoint]:
    found: dict[str, System[Any, Any] | EntryPoint] = {**own()}
    for point in entry_points(group=GROUP):
        if point.name in found:
            other = found[point.name]
            first = _origin(other) if isinstance(other, EntryPoint) else "foldwise"
            raise CaseError(f"system {point.name}: {first} and {_origin(point)} both bring one of that name")
        found[point.name] = point
    return found


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value
