"""The systems by name: ours, and those that other packages register as entry point `foldwise.systems`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from foldwise.files import CaseError
from foldwise.systems.base import System

GROUP = "foldwise.systems"


@cache
def system_of(name: str) -> System[Any, Any]:
    """The system with a given name.

    Raises:
        CaseError: the name is unknown or registered by two packages, or the class is not a complete system.
    """
    found = _found()
    if name not in found:
        raise CaseError(
            f"system: {name!r} is not one of {', '.join(found)}; install the package that provides it"
        )
    entry = found[name]
    if not isinstance(entry, EntryPoint):
        return entry()
    try:
        system = entry.load()()
    except Exception as error:  # another package may raise anything
        raise CaseError(f"system {name}, of {_origin(entry)}: cannot be imported ({error})") from error
    if not isinstance(system, System) or system.name != name:
        raise CaseError(f"system {name}, of {_origin(entry)}: {entry.value} is not a System with that name")
    return system


def names() -> list[str]:
    """Names of all systems, ours first."""
    return list(_found())


def origin(name: str) -> str:
    """The package that provides a system, with its version."""
    entry = _found()[name]
    return _origin(entry) if isinstance(entry, EntryPoint) else "foldwise"


def own() -> dict[str, System[Any, Any]]:
    """The systems of this package."""
    return {name: system_of(name) for name in _OWN}


@cache
def _found() -> dict[str, Callable[[], System[Any, Any]] | EntryPoint]:
    found: dict[str, Callable[[], System[Any, Any]] | EntryPoint] = {**_OWN}
    for point in entry_points(group=GROUP):
        if point.name in found:
            other = found[point.name]
            first = _origin(other) if isinstance(other, EntryPoint) else "foldwise"
            raise CaseError(
                f"system {point.name}: {first} and {_origin(point)} both provide a system with that name"
            )
        found[point.name] = point
    return found


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


# Each is imported only when it is asked for: a job needs one system and starts sooner without the others.


def _segmentation() -> System[Any, Any]:
    from foldwise.systems.segmentation.system import Segmentation

    return Segmentation()


def _surgical() -> System[Any, Any]:
    from foldwise.systems.surgical.system import Surgical

    return Surgical()


def _interactive() -> System[Any, Any]:
    from foldwise.systems.interactive.system import Interactive

    return Interactive()


def _clips() -> System[Any, Any]:
    from foldwise.systems.clips.system import Clips

    return Clips()


_OWN: dict[str, Callable[[], System[Any, Any]]] = {
    "segmentation": _segmentation,
    "surgical": _surgical,
    "interactive": _interactive,
    "clips": _clips,
}
