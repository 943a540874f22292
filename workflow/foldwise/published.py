"""The folder of new cases' predictions: it holds what the last call made, and the user's own files.

Every published file has its own record in the hidden folder `.foldwise`, so parts that run at the same time
need not wait for each other. A file that is no longer made, or is made again, is removed if it still is as it
was written; one that was edited, or never was ours, is moved to a folder beside this one.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from foldwise.files import (
    CaseError,
    atomic_path,
    file_hash,
    read_json,
    short_hash,
    source_files,
    stamp_of,
    write_json,
)
from foldwise.index import Entry

RECORDS = ".foldwise"


class Published:
    """Files that one part of a prediction publishes."""

    def __init__(
        self, folder: Path, source: Path, cases: Collection[str], keys: Mapping[str, str], part: str
    ) -> None:
        """Remove what was published from an earlier state of the source.

        Args:
            folder: folder of the exported files.
            source: sheet or folder of the new cases.
            cases: all cases of the source.
            keys: case of this part → hash of everything its prediction depends on.
            part: `<number>of<parts>`.

        Raises:
            CaseError: it holds predictions of another source.
        """
        self.folder, self._part = folder, part
        self._others = set(cases) - set(keys)
        # No case: tables of all cases of this part.
        self._keys: dict[Any, str] = {**keys, None: short_hash([part, dict(keys)], 16)}
        # Relative, so that it stays valid when the project is moved.
        self._source = os.path.relpath(os.path.realpath(source), os.path.realpath(folder))
        for name, record in self._records().items():
            if record.get("source") != self._source:
                other = os.path.normpath(folder / record.get("source", ""))
                raise CaseError(
                    f"{folder}: holds predictions of {other} (e.g. {name}), not of {source}; move the folder "
                    f"away, or give another one"
                )
        self._forget(lambda name, record: record.get("key") != self._keys.get(record.get("case")))

    def publish(self, cases: Path, tables: Path, last: Path) -> list[str]:
        """Copy files to their place, each one whole or not at all, and forget those that are no longer made.

        Args:
            cases: holds a folder of files for each case.
            tables: folder of tables of all cases; each of several parts has its own.
            last: file that `write` replaces afterwards.

        Returns:
            The files, by their paths in the folder.
        """
        made = [
            self._place(path, path.relative_to(cases / case.name), case.name)
            for case in sorted(cases.iterdir())
            for path in _files(case)
        ]
        for path in _files(tables):
            name = path.relative_to(tables)
            one = self._part.endswith("of1")
            made.append(self._place(path, name if one else name.with_stem(f"{name.stem}-{self._part}"), None))
        self._forget(lambda name, record: name not in made and self.folder / name != last)
        return made

    def write(self, path: Path, values: Any) -> None:
        """Write a JSON file, which is one of the published ones if it lies in the folder."""
        if not path.is_relative_to(self.folder):
            write_json(path, values)
            return
        name = path.relative_to(self.folder).as_posix()
        self._remove(name)
        write_json(path, values)
        self._write_record(name, path, None)

    def _place(self, made: Path, within: Path, case: str | None) -> str:
        name = within.as_posix()
        self._remove(name)
        self._write_record(name, made, case)
        with atomic_path(self.folder / name) as temporary:
            shutil.copyfile(made, temporary)
        return name

    def _forget(self, outdated: Callable[[str, Mapping[str, Any]], bool]) -> None:
        """Remove outdated files, but not those for which another part of this division is responsible."""
        division = self._part.partition("of")[2]
        for name, record in self._records().items():
            case, part = record.get("case"), record.get("part", "")
            another = part != self._part and part.partition("of")[2] == division
            others = another if case is None else case in self._others
            if outdated(name, record) and not others and self._remove(name):
                logging.info("removed %s: no longer made", self.folder / name)

    def _remove(self, name: str) -> bool:
        """Remove a file if it is as it was written; move it to a folder beside this one if it is not.

        Returns:
            Whether it was removed.
        """
        path, record = self.folder / name, self._record(name)
        ours = False
        with suppress(FileNotFoundError, IsADirectoryError):  # the user or another part changed it
            digest = file_hash(path)
            ours = record.exists() and read_json(record).get("hash") == digest
            if ours:
                path.unlink()
            else:
                aside = self.folder.with_name(f"{self.folder.name}-aside") / digest[:8] / name
                aside.parent.mkdir(parents=True, exist_ok=True)
                path.replace(aside)
                logging.warning("%s: was not written by Foldwise, or was edited; moved to %s", path, aside)
        record.unlink(missing_ok=True)
        return ours

    def _write_record(self, name: str, content: Path, case: str | None) -> None:
        own = {"source": self._source, "part": self._part, "case": case, "key": self._keys[case]}
        write_json(self._record(name), {**own, "hash": file_hash(content)})

    def _record(self, name: str) -> Path:
        return self.folder / RECORDS / f"{name}.json"

    def _records(self) -> dict[str, dict[str, Any]]:
        """Name of each published file → its record."""
        found = {}
        for path in sorted((self.folder / RECORDS).rglob("*.json")):
            with suppress(CaseError):  # another part removed it
                name = path.relative_to(self.folder / RECORDS).as_posix().removesuffix(".json")
                found[name] = read_json(path)
        return found


def refuse_among(folder: Path, entries: Iterable[Entry]) -> None:
    """Refuse to publish beside the files of new cases, which could be replaced or be taken for others.

    Args:
        folder: folder of the exported files.
        entries: the new cases.

    Raises:
        CaseError: the folder holds a file of a case, or is a case's own or in it.
    """
    within = Path(os.path.realpath(folder))
    for path in (Path(path) for entry in entries for each in entry.files.values() for path in each):
        place = Path(os.path.realpath(path))
        # Also a link in the folder, whose name may be that of a label map.
        beside = within in (place.parent, Path(os.path.realpath(path.parent)))
        if beside or within.is_relative_to(place):
            raise CaseError(f"{folder}: holds {path}, which is to be predicted; give another folder to write")


def files_of(entry: Entry) -> list[Path]:
    """All files of a new case."""
    paths = [Path(path) for _, each in sorted(entry.files.items()) for path in each]
    return [file for path in paths for file in source_files(path)]


def stamps_of(entry: Entry) -> list[str]:
    """Their stamps (files.stamp_of)."""
    return [stamp_of(file) for file in files_of(entry)]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
