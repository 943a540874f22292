"""The folder of new cases' predictions: which files Foldwise wrote, and from which state of which source.

Every published file has its own record in the hidden folder `.foldwise`, so parts that run at the same time
need not wait for each other. Only files with a record are ever replaced or removed.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from foldwise.files import CaseError, atomic_path, read_json, write_json

RECORDS = ".foldwise"


class Published:
    """Files that one part of a prediction publishes."""

    def __init__(
        self, folder: Path, source: Path, cases: Collection[str], keys: Mapping[str, str], part: str
    ) -> None:
        """Check the folder, and refuse it if it belongs to another source.

        Args:
            folder: folder of the exported files.
            source: sheet or folder of the new cases.
            cases: all cases of the source.
            keys: case of this part → hash of everything its prediction depends on.
            part: `<number>of<parts>`.

        Raises:
            CaseError: it holds predictions of another source, or a case's file without a record.
        """
        self.folder, self.cases, self.keys, self.part = folder, cases, keys, part
        # Relative, so that it stays valid when the project is moved.
        self.source = os.path.relpath(os.path.realpath(source), os.path.realpath(folder))
        for name, record in self._records():
            if record["source"] != self.source:
                other = os.path.normpath(folder / record["source"])
                raise CaseError(
                    f"{folder}: holds predictions of {other} (e.g. {name}), not of {source}; move the folder "
                    f"away, or give one of the two sources another name"
                )
        for path in self.folder.rglob("*"):
            name = path.relative_to(folder).as_posix()
            ours = name.startswith(f"{RECORDS}/") or self._record(name).exists()
            if path.is_file() and self._owner(name) in keys and not ours:
                raise CaseError(
                    f"{path}: exists, but is not recorded as one of {source}; move the folder {folder} away"
                )

    def forget(self) -> None:
        """Remove published files of cases that are gone or changed."""
        for name, record in self._records():
            if not self._current(name, record["key"]):
                logging.info("removed %s: from an earlier state of the source", self.folder / name)
                (self.folder / name).unlink(missing_ok=True)
                self._record(name).unlink(missing_ok=True)

    def publish(self, made: Path) -> None:
        """Copy the files of a folder to their place, each one whole or not at all."""
        for path in sorted(path for path in made.rglob("*") if path.is_file()):
            name = path.relative_to(made)
            owner = self._owner(name.as_posix())
            if owner is None and not self.part.endswith("of1"):
                # A table of all cases; every part has its own table.
                name = name.with_stem(f"{name.stem}-{self.part}")
            key = self.part if owner is None else self.keys[owner]
            write_json(self._record(name.as_posix()), {"source": self.source, "key": key})
            with atomic_path(self.folder / name) as temporary:
                shutil.copyfile(path, temporary)

    def _current(self, name: str, key: str) -> bool:
        owner = self._owner(name)
        if owner is None:
            # A table; tables of concurrent parts stay.
            return key != self.part and key.rpartition("of")[2] == self.part.rpartition("of")[2]
        return self.keys.get(owner, key) == key

    def _owner(self, name: str) -> str | None:
        """The case that a file belongs to."""
        last = name.rpartition("/")[2]
        found = [c for c in self.cases if last.startswith(c) and not last[len(c) : len(c) + 1].isalnum()]
        return max(found, key=len, default=None)

    def _record(self, name: str) -> Path:
        return self.folder / RECORDS / f"{name}.json"

    def _records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for path in sorted((self.folder / RECORDS).rglob("*.json")):
            with suppress(CaseError):  # another part removed it
                name = path.relative_to(self.folder / RECORDS).as_posix().removesuffix(".json")
                yield name, read_json(path)
