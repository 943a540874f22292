"""What files are: whether they exist, their sizes and times, looked up once in a call of the user.

On a network file system every look waits for the server, whatever the CPU does: thousands of files are looked
at by several threads, and outputs that are missing are known from a list of their folder.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

AnyPath = Path | str
# A file, and the link to it if it is one.
Look = tuple[os.stat_result, os.stat_result]
# They wait for the server, not for the CPU.
THREADS = 32
# A folder is listed for at least so many files; a list takes four calls.
MANY = 8

_known: dict[str, Look | None] | None = None


@contextmanager
def looking_once() -> Iterator[None]:
    """Look at each file once in the block. Whoever changes a file in it calls `forget`."""
    global _known
    before, _known = _known, {}
    try:
        yield
    finally:
        _known = before


def look(path: AnyPath) -> Look | None:
    """A file or folder, and the link to it (itself if it is none); None if it is missing."""
    if _known is None:
        return _look(path)
    name = os.fspath(path)
    if name not in _known:
        _known[name] = _look(name)
    return _known[name]


def facts(path: AnyPath) -> os.stat_result | None:
    """What `os.stat` says of a file or folder; None if it is missing."""
    found = look(path)
    return None if found is None else found[0]


def exists(path: AnyPath) -> bool:
    """Whether there is a file or folder, and not only a broken link."""
    return look(path) is not None


def is_folder(path: AnyPath) -> bool:
    """Whether there is a folder."""
    found = look(path)
    return found is not None and stat.S_ISDIR(found[0].st_mode)


def look_at(paths: Iterable[AnyPath], *, listed: bool = False) -> None:
    """Look at many files at once, within `looking_once`; elsewhere nothing happens.

    Args:
        paths: files and folders.
        listed: list their folders first, since many may be missing. Not for folders that hold much else.
    """
    if _known is None:
        return
    names = [name for name in dict.fromkeys(os.fspath(path) for path in paths) if name not in _known]
    with ThreadPoolExecutor(THREADS) as pool:
        if listed:
            inner = defaultdict(list)
            for name in names:
                inner[os.path.dirname(name) or "."].append(name)  # noqa: PTH120
            many = [folder for folder, files in inner.items() if len(files) >= MANY]
            for folder, there in zip(many, pool.map(_names_in, many), strict=True):
                _known.update((name, None) for name in inner[folder] if os.path.basename(name) not in there)  # noqa: PTH119
        for _ in pool.map(look, [name for name in names if name not in _known]):
            pass


def forget(path: AnyPath) -> None:
    """Look at a file again the next time."""
    if _known is not None:
        _known.pop(os.fspath(path), None)


def _look(path: AnyPath) -> Look | None:
    try:
        found = os.lstat(path)
        return (os.stat(path) if stat.S_ISLNK(found.st_mode) else found), found  # noqa: PTH116
    except (OSError, ValueError):  # a header may name anything
        return None


def _names_in(folder: str) -> set[str]:
    try:
        return set(os.listdir(folder))  # noqa: PTH208
    except OSError:
        return set()
