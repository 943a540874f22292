"""Files that a model's file names, such as the weights of a network that finds regions for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from foldwise.files import CaseError, file_hash, files_in, short_hash, stamp_of

# The key of a model's file with what they contained when it was trained.
BESIDE = "beside"


def files_beside(places: Sequence[str], state: Mapping[str, Any]) -> dict[str, Path]:
    """The files and folders that are named.

    Args:
        places: where a model's file may name one, as `System.beside`.
        state: contents of a model's file, or a part of them.

    Returns:
        Place → path; only places with one.
    """
    return {place: Path(found) for place in places if (found := _at(state, place)) is not None}


def contents_beside(places: Sequence[str], state: Mapping[str, Any]) -> dict[str, str]:
    """Place → a hash of what the file or folder there contains."""
    return {place: _content(path, stamp_of(path)) for place, path in files_beside(places, state).items()}


def refuse_replaced(state: Mapping[str, Any]) -> None:
    """Refuse a model if files that it names have changed since it was trained.

    Raises:
        CaseError: one is missing or contains something else.
    """
    for place, content in state.get(BESIDE, {}).items():
        [path] = files_beside([place], state).values()
        if not path.exists():
            raise CaseError(f"{path}: missing, but the model needs it; put it there again")
        if contents_beside([place], state) != {place: content}:
            raise CaseError(
                f"{path}: not what it was when the model was trained; put it back, or train the model again"
            )


@lru_cache(maxsize=8)
def _content(path: Path, _version: str) -> str:
    """A hash of a file or folder; the models of all folds name the same one."""
    return short_hash([*map(file_hash, map(Path, files_in(path)))], 32)


def _at(state: Any, place: str) -> Any:
    for key in place.split("."):
        state = state.get(key) if isinstance(state, Mapping) else None
    return state
