"""A session on disk: its steps, each in a file, which can be undone and redone.

session.json       the scan's hashes
step_0001.npz      the first step: changed voxels with both values, new marks, quality, objects; etc.
undone_0002.npz    a step that was undone, until another one takes its place
lock               held by the process that writes
written.json       hashes of the files saved, so that no foreign file is replaced
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from filelock import FileLock, Timeout

from foldwise.files import CaseError, atomic_path, file_hash, read_json, write_json
from foldwise.systems.interactive.marks import KINDS, Marks, Said
from foldwise.systems.interactive.objects import Object
from foldwise.systems.interactive.state import State

VERSION = 2
# Steps whose changed voxels are kept in memory, for pages that lag behind.
REMEMBERED = 200


@dataclass(frozen=True)
class Moment:
    """What is known after a step.

    Attributes:
        state: labels, marks and quality.
        objects: the first one has number 1.
        text: what the step did.
        message: what the person must know about it; possibly empty.
        token: of the step, random: an undone number is used again.
    """

    state: State
    objects: tuple[Object, ...] = ()
    text: str = ""
    message: str = ""
    token: str = "0"


class History:
    """The steps of a session's folder; one process writes at a time."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], first: Moment) -> None:
        """Start a session, or continue the one in the folder.

        Args:
            folder: created if missing.
            facts: facts that must not change between calls, as JSON values: the scan's hashes and shape.
            first: before the first step.

        Raises:
            CaseError: another process has the session, it belongs to another scan, a step cannot be read, or
                the folder holds foreign files.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / "lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise CaseError(
                f"{folder}: another process has this session open; close its page or wait for it, or use "
                f"another folder"
            ) from None
        try:
            self._open({"version": VERSION, **facts})
            self.moments = [replace(first, state=_light(first.state))]
            self.now = first
            for path in self._files("step"):
                self._take(path)
        except BaseException:
            self.close()
            raise
        self._changes: list[tuple[str, str, np.ndarray]] = []

    def close(self) -> None:
        """Let other processes have the session."""
        self._lock.release()

    def _open(self, given: Mapping[str, Any]) -> None:
        path = self.folder / "session.json"
        if not path.exists():
            # A session writes these names; without a session, such files are foreign.
            if there := self._files("step") + self._files("undone"):
                raise CaseError(
                    f"{there[0]}: not part of a session; a new one here would replace it; use another folder"
                )
            write_json(path, dict(given))
        before = read_json(path)
        if not isinstance(before, dict):
            raise CaseError(f"{path}: not a session of Foldwise; use another folder")
        if before.get("version") != VERSION:
            raise CaseError(f"{self.folder}: a session of another version of Foldwise; use another folder")
        if changed := [key for key in given if before.get(key) != given[key]]:
            raise CaseError(
                f"{self.folder}: the session there was started with another {changed[0]}; use another "
                f"folder. Nothing was changed"
            )

    def _files(self, kind: str) -> list[Path]:
        return sorted(self.folder.glob(f"{kind}_[0-9][0-9][0-9][0-9].npz"))

    def _path(self, kind: str, number: int) -> Path:
        return self.folder / f"{kind}_{number:04d}.npz"

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.moments) - 1

    @property
    def version(self) -> str:
        """Changes with every step, undo and redo."""
        return f"{self.steps}-{self.now.token}"

    @property
    def undone(self) -> str | None:
        """What can be redone, in words; None: nothing."""
        path = self._path("undone", self.steps + 1)
        return _Step.read(path).text if path.exists() else None

    def add(
        self,
        after: State,
        objects: Sequence[Object],
        text: str,
        message: str = "",
        changed: np.ndarray | None = None,
    ) -> None:
        """Store a step, whole or not at all; steps that were undone are dropped.

        Args:
            after: the state after it.
            objects: after it.
            text: what it does, in words.
            message: what the person must know.
            changed: flat indices of all changed voxels, and perhaps others; default: they are compared.
        """
        step = _Step.between(self.now.state, after, objects, text, message, changed)
        with atomic_path(self._path("step", self.steps + 1)) as temporary:
            step.write(temporary)
            # Before the step is there: redone after it, they would change other voxels than they did.
            for path in self._files("undone"):
                path.unlink()
        self._became(step.moment(after), step.indices)

    def undo(self) -> None:
        """Undo the last step.

        Raises:
            CaseError: there is none.
        """
        if not self.steps:
            raise CaseError(f"{self.folder}: nothing to undo")
        path = self._path("step", self.steps)
        step = _Step.read(path)
        path.replace(self._path("undone", self.steps))
        labels = _filled(self.now.state.labels, step.indices, step.before)
        version = self.version
        self.moments.pop()
        before = self.moments[-1]
        state = replace(before.state, labels=labels)
        state.count_from(self.now.state, step.indices)
        self.now = replace(before, state=state)
        self._log(version, step.indices)

    def redo(self) -> None:
        """Redo the step undone last.

        Raises:
            CaseError: there is none.
        """
        path = self._path("undone", self.steps + 1)
        if not path.exists():
            raise CaseError(f"{self.folder}: nothing to redo")
        step = _Step.read(path)
        path.replace(self._path("step", self.steps + 1))
        self._became(step.apply(self.now), step.indices)

    def changes(self, since: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Flat indices and present values of voxels that changed since a version; None: not known."""
        if since == self.version:
            return np.zeros(0, np.int64), np.zeros(0, self.now.state.labels.dtype)
        starts = [number for number, (before, _, _) in enumerate(self._changes) if before == since]
        if not starts:
            return None
        indices = np.unique(np.concatenate([changed for _, _, changed in self._changes[starts[-1] :]]))
        return indices, self.now.state.labels.flat[indices]

    def _became(self, moment: Moment, indices: np.ndarray) -> None:
        version = self.version
        self.moments.append(replace(moment, state=_light(moment.state)))
        self.now = moment
        self._log(version, indices)

    def _log(self, version: str, indices: np.ndarray) -> None:
        self._changes = [*self._changes[1 - REMEMBERED :], (version, self.version, indices)]

    def _take(self, path: Path) -> None:
        if path != self._path("step", self.steps + 1):
            raise CaseError(
                f"{self._path('step', self.steps + 1)}: this step is missing, but later ones are there; put "
                f"it back, or delete {path} and all later ones"
            )
        moment = _Step.read(path).apply(self.now)
        self.moments.append(replace(moment, state=_light(moment.state)))
        self.now = moment

    def refuse_foreign(self, *paths: Path) -> None:
        """Ensure that files to replace were written by this session and not edited since.

        Raises:
            CaseError: a file was not, or was edited.
        """
        for path in paths:
            if path.exists() and (not path.is_file() or file_hash(path) not in self._written()):
                raise CaseError(
                    f"{path}: was not written by this session, or was changed since, and is not replaced. "
                    f"Move it elsewhere, or name another file with --mask or --quality. All steps are kept "
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


@dataclass(frozen=True)
class _Step:
    """A step's file: what changed.

    Attributes:
        indices, before, after: flat indices of changed voxels, and their values.
        marks: object numbers and their new marks, in order.
        quality: of all objects afterwards.
        axis, last, objects, text, message, token: afterwards.
    """

    indices: np.ndarray
    before: np.ndarray
    after: np.ndarray
    marks: tuple[tuple[int, Marks], ...]
    quality: Mapping[int, np.ndarray]
    axis: int
    last: int | None
    objects: tuple[Object, ...]
    text: str
    message: str
    token: str

    @classmethod
    def between(
        cls,
        before: State,
        after: State,
        objects: Sequence[Object],
        text: str,
        message: str,
        changed: np.ndarray | None,
    ) -> Self:
        """The step from one state to the next."""
        if changed is None and after.labels is before.labels:
            changed = np.zeros(0, np.int64)
        indices = np.flatnonzero(before.labels != after.labels) if changed is None else np.unique(changed)
        marks = tuple(
            (number, each)
            for number, said in after.marks.items()
            for each in said[len(before.marks.get(number, ())) :]
        )
        return cls(
            indices,
            before.labels.flat[indices],
            after.labels.flat[indices],
            marks,
            after.quality,
            after.axis,
            after.last,
            tuple(objects),
            text,
            message,
            secrets.token_hex(4),
        )

    def apply(self, moment: Moment) -> Moment:
        """What is known after the step."""
        marks: dict[int, Said] = {**moment.state.marks}
        for number, each in self.marks:
            marks[number] = (*marks.get(number, ()), each)
        # The marks of an object go with it.
        marks = {number: said for number, said in marks.items() if not self.objects[number - 1].removed}
        labels = _filled(moment.state.labels, self.indices, self.after)
        state = State(labels, self.axis, self.quality, marks, self.last)
        state.count_from(moment.state, self.indices)
        return self.moment(state)

    def moment(self, state: State) -> Moment:
        """What is known after the step, with the state after it."""
        return Moment(state, self.objects, self.text, self.message, self.token)

    def write(self, path: Path) -> None:
        facts = {
            "axis": self.axis,
            "last": self.last,
            "objects": [each.as_dict() for each in self.objects],
            "text": self.text,
            "message": self.message,
            "token": self.token,
            "marks": [[number, each.axis, each.painted] for number, each in self.marks],
        }
        arrays = {f"quality_{number}": found for number, found in self.quality.items()}
        for place, (_, each) in enumerate(self.marks):
            arrays |= {
                f"marks_{place}_{kind}": getattr(each, kind) for kind in KINDS if len(getattr(each, kind))
            }
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                facts=np.array(json.dumps(facts)),
                indices=self.indices,
                before=self.before,
                after=self.after,
                **arrays,  # type: ignore[arg-type]
            )
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a step.

        Raises:
            CaseError: it is not one.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                facts = json.loads(str(file["facts"]))
                marks = []
                for place, (number, axis, painted) in enumerate(facts["marks"]):
                    prefix = f"marks_{place}_"
                    kinds = {kind: file[prefix + kind] for kind in KINDS if prefix + kind in file}
                    marks.append((number, Marks(axis, **kinds, painted=painted)))
                quality = {
                    int(name.removeprefix("quality_")): file[name]
                    for name in file.files
                    if name.startswith("quality_")
                }
                objects = tuple(Object.from_dict(each) for each in facts["objects"])
                texts = (facts["text"], facts["message"], facts["token"])
                arrays = (file["indices"], file["before"], file["after"])
                return cls(*arrays, tuple(marks), quality, facts["axis"], facts["last"], objects, *texts)
        except Exception as error:  # a truncated archive raises half a dozen kinds
            raise CaseError(
                f"{path}: not a readable step ({error}); delete it and all later ones to go back to the step "
                f"before it"
            ) from error


def _filled(labels: np.ndarray, indices: np.ndarray, values: np.ndarray) -> np.ndarray:
    filled = labels.astype(np.promote_types(labels.dtype, values.dtype))
    filled.flat[indices] = values
    return filled


def _light(state: State) -> State:
    """A state without its label map, which the steps' files restore."""
    return replace(state, labels=np.zeros((0, 0, 0), np.uint8))
