"""A session on disk: the prepared scan, and one file per round, so that the next call continues from it.

session.json       the scan, the model, and the hashes of both
case.h5            the prepared scan
round_0001.npz     the state after the first round and the hints that led to it; etc.
written.json       hashes of the masks and tables written, so that no foreign file is replaced

Several processes may open a folder. A round's file is only ever created, never replaced, and only by a
process that knows the round before it.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from foldwise.files import CaseError, file_hash, read_json, write_json
from foldwise.systems.interactive.hints import Hints
from foldwise.systems.interactive.session import State

VERSION = 1
FIELDS = ("inside", "outside", "extreme", "box")


class OutdatedError(CaseError):
    """Another page or command has changed the session."""


class Workspace:
    """A session's folder.

    Attributes:
        seen: the last `version` that this process read or wrote; changes are refused if the folder has
            another one.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Start a session, or continue the one in the folder.

        Args:
            folder: created if missing.
            facts: facts that must not change between calls, as JSON values: hashes of scan and model.

        Raises:
            CaseError: the session there belongs to another scan or model, or the folder holds foreign files.
        """
        self.folder = folder
        path = folder / "session.json"
        given = {"version": VERSION, **facts}
        if not path.exists():
            # A session writes these names; without a session, such files are foreign.
            mine = [*self._files, *(folder / name for name in ("case.h5", "mask.nii.gz", "quality.csv"))]
            if there := [file for file in mine if file.exists()]:
                raise CaseError(
                    f"{there[0]}: not part of a session; a new one here would replace it; use another folder"
                )
            folder.mkdir(parents=True, exist_ok=True)
            # Another process may start it at the same time; then its facts are compared below.
            with suppress(FileExistsError), _created(path) as temporary:
                temporary.write_text(json.dumps(given, indent=2) + "\n", encoding="utf-8")
        self.seen = self.version
        before = read_json(path)
        if not isinstance(before, dict):
            raise CaseError(f"{path}: not a session of Foldwise; use another folder")
        if changed := [key for key in given if before.get(key) != given[key]]:
            raise CaseError(
                f"{folder}: the session there was started with another {changed[0]}; continue with that one, "
                f"or use another folder. Nothing was changed"
            )

    @property
    def scan(self) -> Path:
        """The prepared scan."""
        return self.folder / "case.h5"

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return len(self._files)

    @property
    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("round_[0-9][0-9][0-9][0-9].npz"))

    @property
    def version(self) -> str:
        """The last round: its number and the time it was written, since an undone number is used again."""
        for path in reversed(self._files):
            with suppress(FileNotFoundError):  # just undone
                return f"{_number(path)}-{path.stat().st_mtime_ns}"
        return "0"

    def state(self, empty: State) -> State:
        """The state after the last round; `empty` before the first.

        Raises:
            CaseError: a round's file is broken or of another grid.
        """
        self.seen = self.version
        if not self._files:
            return empty
        path = self._files[-1]
        try:
            with np.load(path, allow_pickle=False) as file:
                before = State(file["probabilities"], file["quality"], tuple(file["hinted"].tolist()))
        except Exception as error:  # a truncated archive raises half a dozen kinds
            raise CaseError(
                f"{path}: not a readable round ({error}); delete it to go back one round"
            ) from error
        if before.probabilities.shape != empty.probabilities.shape:
            raise CaseError(
                f"{path}: contains masks of shape {before.probabilities.shape}, this scan has "
                f"{empty.probabilities.shape}; use another folder"
            )
        return before

    def add(self, state: State, place: int, hints: Mapping[int, Hints]) -> None:
        """Store a round, whole or not at all.

        Raises:
            OutdatedError: another process added or undid a round.
        """
        self.refuse_outdated()
        number = _number(self._files[-1]) + 1 if self._files else 1
        try:
            with _created(self.folder / f"round_{number:04d}.npz") as temporary:
                np.savez_compressed(
                    temporary,
                    probabilities=state.probabilities,
                    quality=state.quality,
                    hinted=np.array(state.hinted, int),
                    hints=np.array(json.dumps({"slice": place, "objects": _plain(hints)})),
                )
        except FileExistsError:
            raise self._outdated() from None
        self.seen = self.version

    def undo(self) -> None:
        """Undo the last round.

        Raises:
            CaseError: there is no round.
            OutdatedError: another process added or undid a round.
        """
        files = self._files
        self.refuse_outdated()
        if not files:
            raise CaseError(f"{self.folder}: no round to undo")
        try:
            files[-1].unlink()
        except FileNotFoundError:
            raise self._outdated() from None
        self.seen = self.version

    def refuse_foreign(self, *paths: Path) -> None:
        """Ensure that files to replace were written by this session and not edited since.

        Raises:
            CaseError: a file was not, or was edited.
        """
        for path in paths:
            if path.exists() and (not path.is_file() or file_hash(path) not in self._written()):
                raise CaseError(
                    f"{path}: was not written by this session, or was changed since, and is not replaced. "
                    f"Move it elsewhere, or name other files with --mask and --quality. All rounds are kept "
                    f"in {self.folder}"
                )

    def remember(self, *paths: Path) -> None:
        """Record that files were written by this session."""
        write_json(self._list, sorted({*self._written(), *map(file_hash, paths)}))

    @property
    def _list(self) -> Path:
        return self.folder / "written.json"

    def _written(self) -> list[str]:
        return list(read_json(self._list)) if self._list.exists() else []

    def refuse_outdated(self) -> None:
        """Ensure that this process has read the last round.

        Raises:
            OutdatedError: it has not.
        """
        if self.version != self.seen:
            raise self._outdated()

    def _outdated(self) -> OutdatedError:
        return OutdatedError(
            f"{self.folder}: another page or command has changed this session; nothing was done. Look "
            f"at its current state, then try again"
        )


@contextmanager
def _created(path: Path) -> Iterator[Path]:
    """Yield a temporary file that takes a name if the block succeeds and the name is still free.

    Raises:
        FileExistsError: the name is taken.
    """
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("round_"))


def _plain(hints: Mapping[int, Hints]) -> dict[int, dict[str, Any]]:
    return {
        number: {"nothing": given.nothing, **{name: getattr(given, name).tolist() for name in FIELDS}}
        for number, given in hints.items()
    }
