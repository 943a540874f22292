"""What is kept between calls, keyed by everything that it was made from.

Nothing else writes into `state/`, apart from training, which owns its checkpoints. A key is a hash, so what
was made from other files, models or settings is simply not found; a broken entry counts as not found, too.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from foldwise.errors import writing
from foldwise.files import (
    HEADERS,
    CaseError,
    file_hash,
    named_in,
    read_json,
    short_hash,
    stamp_of,
    write_json,
)

SUFFIX = ".h5"
# <name>-<what it was made from>-<content>.h5, each as a hash; a memory; a folder that a killed job left.
_OWN = re.compile(rf"\.?([0-9a-f]{{12}})-([0-9a-f]{{16}}-[0-9a-f]{{16}}{SUFFIX}|memory\.json.*|\w{{8}})")


class Memory:
    """Plain values in one JSON file, e.g. counts of networks, and hashes of files. Threads may share it."""

    def __init__(self, path: Path | None) -> None:
        """Read the file, if it exists; a broken one is an empty memory. None: nothing is kept."""
        self._path, self._lock = path, threading.Lock()
        self._known, self._new = self._read(), dict[str, Any]()
        self._stamps: dict[Path, str] = {}

    def get(self, *made_of: Any) -> Any | None:
        """The value that was put with the same `made_of` (JSON values), or None."""
        return self._known.get(short_hash(made_of, 16))

    def put(self, value: Any, *made_of: Any) -> None:
        """Keep a JSON value, which is not None, until `save` writes it."""
        with self._lock:
            key = short_hash(made_of, 16)
            self._known[key] = self._new[key] = value

    def stamp(self, path: Path) -> str:
        """The stamp of a source's files (files.stamp_of), looked up once in the life of this object."""
        if path not in self._stamps:
            beside = None
            if path.suffix.lower() in HEADERS:
                read = partial(_named_in, path)
                beside = map(Path, self.of_stamp(stamp_of(path, ()), read, "beside", str(path)) or ())
            self._stamps[path] = stamp_of(path, beside)
        return self._stamps[path]

    def of_source(self, path: Path, read: Callable[[], Any], *name: Any) -> Any:
        """What `read` returns, called only if the files of a source are not those of the last time."""
        return self.of_stamp(self.stamp(path), read, *name, str(path))

    def of_sources(self, paths: Sequence[Path], read: Callable[[], Any], *name: Any) -> Any:
        """The same for what is read from several sources together."""
        stamp = short_hash([self.stamp(path) for path in paths], 16)
        return self.of_stamp(stamp, read, *name, [str(path) for path in paths])

    def of_stamp(self, stamp: str, read: Callable[[], Any], *name: Any) -> Any | None:
        """What `read` returns, called only if the stamp (files.stamp_of) is not that of the last time.

        Args:
            stamp: of the files that are read.
            read: returns a JSON value, or None, which is not kept.
            name: JSON values, under which the last value is kept.
        """
        known = self.get(*name)
        if known is not None and known[0] == stamp:
            return known[1]
        if (found := read()) is not None:
            self.put([stamp, found], *name)
        return found

    def file_hash(self, path: Path) -> str:
        """The hash of a file's content, computed again only if the file was written in the meantime."""
        return str(self.of_stamp(stamp_of(path), partial(file_hash, path), "hash", str(path)))

    def save(self) -> None:
        """Write what is new, with what other processes have written in the meantime."""
        with self._lock:
            if self._new and self._path is not None:
                write_json(self._path, {**self._read(), **self._new})
                self._new = {}

    def _read(self) -> dict[str, Any]:
        try:
            found = read_json(self._path) if self._path is not None else {}
        except CaseError:
            return {}
        return found if isinstance(found, dict) else {}


class Store:
    """A stage's folder in `state/`: what a stopped job leaves to the next one.

    A file is found only by its name and all that it was made from, and only if it is whole. Jobs that put
    files of different names may share the folder.
    """

    def __init__(self, folder: Path) -> None:
        """Name the folder, which may be missing."""
        self.folder = folder

    def get(self, name: str, *made_of: Any) -> Path | None:
        """The file that was put with the same name and `made_of` (JSON values), or None."""
        for path in self.folder.glob(f"{_mark(name)}-{short_hash(made_of, 16)}-*"):
            with suppress(OSError):
                if path.stem.endswith(f"-{file_hash(path)[:16]}"):
                    return path
        return None

    def put(self, write: Callable[[Path], object], name: str, *made_of: Any) -> Path:
        """Keep the file that `write` writes, and return its path."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=f".{_mark(name)}-", dir=self.folder) as temporary,
            writing(Path(temporary), self.folder),
        ):
            made = Path(temporary) / f"made{SUFFIX}"
            write(made)
            key = f"{_mark(name)}-{short_hash(made_of, 16)}-{file_hash(made)[:16]}"
            return made.replace(self.folder / f"{key}{SUFFIX}")

    def has(self, name: str) -> bool:
        """Whether there is a file of this name, whatever it was made from."""
        return any(self.folder.glob(f"{_mark(name)}-*{SUFFIX}"))

    def memory(self, name: str) -> Memory:
        """A memory for plain values."""
        return Memory(self.folder / f"{_mark(name)}-memory.json")

    def give(self, paths: Mapping[str, Path], folder: Path) -> None:
        """Put files into another folder, too, as <name>.h5; they stay here until `clear`.

        Args:
            paths: name → file of this store.
            folder: an existing folder.
        """
        for name, path in paths.items():
            target = folder / f"{name}{SUFFIX}"
            try:
                os.link(path, target)
            except OSError:  # a file system without links
                shutil.copyfile(path, target)

    def clear(self, but: Iterable[str] = ()) -> None:
        """Remove all files and memories except those of some names, and nothing that is not the store's."""
        kept = set(map(_mark, but))
        for path in self.folder.glob("*"):
            if (own := _OWN.fullmatch(path.name)) and own[1] not in kept:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
        if not kept:  # no other job uses the folder
            with suppress(OSError):  # missing, or not empty
                self.folder.rmdir()


def _named_in(path: Path) -> list[str]:
    return list(map(str, named_in(path)))


def _mark(name: str) -> str:
    return short_hash(name, 12)
