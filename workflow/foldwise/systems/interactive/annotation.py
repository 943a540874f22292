"""A session of a person with a scan; the command and the web page work on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from foldwise.files import CaseError
from foldwise.systems.interactive import facts
from foldwise.systems.interactive.engines import Closing, Engine, Opener, Proposing, Request
from foldwise.systems.interactive.exchange import FILES, described, joined, write_quality
from foldwise.systems.interactive.history import History, Moment
from foldwise.systems.interactive.marks import settled
from foldwise.systems.interactive.objects import Object, held, named
from foldwise.systems.interactive.scans import digest, read_scan, thickest
from foldwise.systems.interactive.session import New, advance, edited, withdrawn
from foldwise.systems.interactive.state import HALF, State
from foldwise.volumes.objects import Origin
from foldwise.volumes.objects_in import read_objects
from foldwise.volumes.objects_out import Form, write_objects
from foldwise.volumes.volume import is_dicom_folder, read_header


class Annotation:
    """A session; every step is on disk before the next one can start.

    Attributes:
        scan: the scan on its own grid.
        header: of its first file.
        engine: name of the engine that rounds use unless another one is named.
        files: format → the file that is saved; by default in the session's folder.
        quality: the CSV that is saved with each of them.
    """

    def __init__(
        self,
        volumes: Sequence[Path],
        folder: Path,
        engines: Mapping[str, Opener],
        *,
        engine: str,
        objects: Iterable[Object] = (),
        axis: int | None = None,
    ) -> None:
        """Read the scan, and start or resume the session in the folder.

        Args:
            volumes: the scan, a file per channel or one with several.
            folder: of the session.
            engines: name → what opens it on the scan, when it is first used.
            engine: the engine to start with.
            objects: to segment; a session that is resumed has its own, and takes new ones.
            axis: across the slices (0 to 2); default: that with the thickest slices.

        Raises:
            CaseError: the scan cannot be read, or the session belongs to another scan or is in use.
        """
        self.volumes, self.engines, self.engine = list(volumes), dict(engines), engine
        self.header = read_header(volumes[0])
        digests = [digest(path) for path in volumes]
        self.scan = read_scan(volumes)
        self.files = {form: folder / name for form, name in FILES.items()}
        self.quality = folder / "quality.csv"
        self._opened: dict[str, Engine] = {}
        start = State.empty(self.scan.shape, thickest(self.scan) if axis is None else axis)
        same = {"scan": digests, "grid": list(self.scan.shape)}
        self.history = History(folder, same, Moment(start, tuple(objects)))
        if self.history.steps and axis not in (None, self.state.axis):
            self.history.add(replace(self.state, axis=axis, quality={}), self.objects, "axis")
        self._of_scan = facts.of_scan(self)
        for each in objects:
            # One that was removed is not wanted any more.
            if each.name not in {one.name for one in self.objects}:
                self.add_object(each.name, each.colour)

    @property
    def folder(self) -> Path:
        """Of the session."""
        return self.history.folder

    @property
    def state(self) -> State:
        """The present state."""
        return self.history.now.state

    @property
    def labels(self) -> np.ndarray:
        """Object numbers (x, y, z)."""
        return self.state.labels

    @property
    def objects(self) -> tuple[Object, ...]:
        """The objects; the first one has number 1."""
        return self.history.now.objects

    @property
    def names(self) -> list[str]:
        """Their names; empty for those that were removed."""
        return ["" if each.removed else each.name for each in self.objects]

    @property
    def version(self) -> str:
        """Changes with every step, undo and redo."""
        return self.history.version

    def round(
        self,
        marks: New,
        engine: str | None = None,
        axis: int | None = None,
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        """Ask an engine for the objects with new marks; without any, one that can for a proposal.

        Raises:
            CaseError: the marks or the engine cannot be used; the session stays as it was.
            StoppedError: the person stopped the round.
        """
        name = engine or self.engine
        opened, before = self._open(name), self.state
        if not marks and isinstance(opened, Proposing):
            self._propose(opened, progress)
            self.engine = name
            return
        after = advance(
            opened,
            self.scan,
            before,
            marks,
            self.names,
            axis=axis,
            held=held(self.objects),
            progress=progress,
        )
        self.engine = name
        objects = self._found(marks, "SEMIAUTOMATIC")
        self.history.add(after, objects, f"round ({name})", self._remark(before, after, marks))

    def edit(self, indices: np.ndarray, values: np.ndarray, text: str = "painting") -> None:
        """Paint or erase voxels.

        Args:
            indices: flat indices of (x, y, z), the last axis fastest.
            values: object numbers, 0 for none.
            text: what the step does, in words.

        Raises:
            CaseError: an object is locked, hidden or unknown, or voxels lie outside the scan.
        """
        before = np.unique(self.labels.flat[indices]) if len(indices) else ()
        after = edited(self.state, indices, values, self.names, held(self.objects))
        # What a program found and a person changed is neither's alone.
        touched = {int(number) for number in (*before, *np.unique(values)) if number}
        found = {n for n in touched if self.objects[n - 1].origin != "MANUAL"}
        self.history.add(after, self._found(found, "SEMIAUTOMATIC"), text, changed=indices)

    def take(self, found: np.ndarray, objects: Sequence[Object], text: str, message: str = "") -> None:
        """Take a label map on, such as a proposal or a file's.

        It replaces objects that it has; all others, and every marked voxel, stay as they are.

        Args:
            found: (x, y, z) object numbers.
            objects: all of the session from now on; the present ones first.
            text: what the step does.
            message: what the person must know.

        Raises:
            CaseError: it has voxels of an object that is locked or hidden.
        """
        numbers = set(np.unique(found).tolist()) - {0}
        for number in numbers & set(held(self.objects)):
            raise CaseError(f"object {objects[number - 1].name} {held(self.objects)[number]} to change it")
        state = self.state
        labels = state.labels.astype(np.promote_types(state.labels.dtype, found.dtype))
        fixed = {number: settled(said, labels.shape) for number, said in state.marks.items()}
        free = (labels == 0) | np.isin(labels, list(numbers))
        labels[free] = found[free]
        for number, each in fixed.items():
            wrong = each.outside[labels.flat[each.outside] == number]
            labels.flat[wrong] = 0
            labels.flat[each.inside] = number
        kept = {number: quality for number, quality in state.quality.items() if number not in numbers}
        self.history.add(replace(state, labels=labels, quality=kept), objects, text, message)

    def undo(self) -> None:
        """Undo the last step."""
        self.history.undo()

    def redo(self) -> None:
        """Redo the step undone last."""
        self.history.redo()

    def changes(self, since: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Flat indices and present values of voxels that changed since a version; None: not known."""
        return self.history.changes(since)

    def add_object(self, name: str, colour: str | None = None) -> None:
        """Add an object.

        Raises:
            CaseError: the name is empty, too long or taken.
        """
        self.history.add(
            self.state, (*self.objects, named(name, self.objects, None, colour)), f"object {name}"
        )

    def change_object(
        self,
        number: int,
        name: str | None = None,
        colour: str | None = None,
        hidden: bool | None = None,
        locked: bool | None = None,
    ) -> None:
        """Rename, colour, hide or lock an object.

        Raises:
            CaseError: there is no such object, or the name is empty, too long or taken.
        """
        old = self._object(number)
        others = [each for each in self.objects if each is not old]
        renamed = named(old.name if name is None else name, others, old.value, colour).name
        given: dict[str, Any] = {"colour": colour, "hidden": hidden, "locked": locked}
        changed = replace(
            old, name=renamed, **{key: value for key, value in given.items() if value is not None}
        )
        objects = [changed if each is old else each for each in self.objects]
        self.history.add(self.state, objects, f"object {changed.name}")

    def remove_object(self, number: int) -> None:
        """Remove an object with its voxels and marks.

        All other objects keep their numbers and values; those of the removed one are not given to another.

        Raises:
            CaseError: there is no such object, or it is locked or hidden.
        """
        old, state = self._object(number), self.state
        if old.held:
            raise CaseError(f"object {old.name} {old.held} to remove it")
        labels = state.labels.copy()
        labels[labels == number] = 0
        marks = {other: said for other, said in state.marks.items() if other != number}
        quality = {other: found for other, found in state.quality.items() if other != number}
        objects = [replace(each, removed=True) if each is old else each for each in self.objects]
        after = replace(state, labels=labels, marks=marks, quality=quality)
        self.history.add(after, objects, f"removing {old.name}")

    @property
    def forms(self) -> tuple[Form, ...]:
        """The formats in which the objects can be saved: those of DICOM only for a scan in DICOM."""
        dicom = is_dicom_folder(self.volumes[0]) and not self.header.no_seg
        return ("nifti", "slicer", *(("dicom-seg", "rtstruct") if dicom else ()))

    def save(self, form: Form) -> list[Path]:
        """Write the objects in the scan's geometry, and the quality of every slice; return both files.

        Raises:
            CaseError: a file that this session did not write, or that was edited since, would be replaced; or
                the scan or the objects do not allow this format.
        """
        if not any(self.names):
            raise CaseError("there is no object to save; add one first")
        mask, quality = self.files[form], self.quality
        self.history.refuse_foreign(mask, quality)
        objects = described(self.labels, self.objects, self.scan)
        write_objects(objects, mask, form, self.volumes[0], replace=True)
        write_quality(self.state, self.names, quality)
        self.history.remember(mask, quality)
        return [mask, quality]

    def load(self, path: Path, *, resample: bool = False) -> None:
        """Take a file's objects on: a label map, a segmentation of 3D Slicer, a DICOM SEG or RTSTRUCT.

        Args:
            path: the file.
            resample: whether a label map on another grid is resampled to the nearest voxel.

        Raises:
            CaseError: it cannot be read, or belongs to another scan or grid.
        """
        objects = read_objects(path, self.volumes[0], self.header, resample=resample)
        found, listed, remarks = joined(objects, self.objects)
        self.take(found, listed, f"loading {path.name}", remarks.replace(str(path), path.name))

    def close(self) -> None:
        """Let other processes have the session, and engines' servers others."""
        for engine in self._opened.values():
            if isinstance(engine, Closing):
                engine.close()
        self.history.close()

    def facts(self) -> dict[str, Any]:
        """What the page shows, as JSON values."""
        return {**self._of_scan, **facts.of_session(self)}

    def _object(self, number: int) -> Object:
        if not 1 <= number <= len(self.objects) or self.objects[number - 1].removed:
            raise CaseError(f"there is no object {number}")
        return self.objects[number - 1]

    def _found(self, numbers: Iterable[int], origin: Origin) -> list[Object]:
        """The objects, some of which were found in this way."""
        among = set(numbers)
        return [
            replace(each, origin=origin) if number in among else each
            for number, each in enumerate(self.objects, start=1)
        ]

    def _propose(self, engine: Proposing, progress: Callable[[float], None]) -> None:
        known = dict(enumerate(self.names, start=1))
        request = Request(self.labels, {}, {}, self.state.axis, progress)
        found, names = engine.propose(request, known)
        objects = self._found(names, "AUTOMATIC")
        for number in range(len(objects) + 1, max([0, *names]) + 1):
            objects.append(replace(named(names[number], objects), origin="AUTOMATIC"))
        message = "" if names else "The program found no object."
        self.take(found, objects, f"proposal ({engine.name})", message)

    def _open(self, name: str) -> Engine:
        if name not in self.engines:
            raise CaseError(f"engine {name}: not available; use one of {', '.join(self.engines)}")
        if name not in self._opened:
            self._opened[name] = self.engines[name](self.scan)
        return self._opened[name]

    def _remark(self, before: State, after: State, marks: New) -> str:
        """What a person must know about a round; else empty."""
        remarks = [
            f"{self.names[number - 1]}: {count} earlier marked voxel(s) were replaced by the new marks."
            for number, count in withdrawn(before, marks).items()
        ]
        for number in sorted(marks):
            name = self.names[number - 1]
            if not after.area(number).any():
                remarks.append(f"{name}: not found on any slice; mark it where it is clear.")
                continue
            quality = after.quality_of(number)
            remarks += [
                f"{name}: the mask does not fit the box or extreme points on slice {place}."
                for place in sorted(after.hinted(number))
                if quality[place] < HALF
            ]
        return " ".join(remarks)
