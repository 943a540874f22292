"""A session without files, for the tests of the page: what `Annotation` offers, with the simplest engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from foldwise.files import CaseError
from foldwise.systems.interactive.engines import Scan
from foldwise.systems.interactive.marks import Marks, settled
from foldwise.systems.interactive.objects import Object

COLOURS = ("#ff6384", "#4cc9f0", "#ffd166", "#90be6d")


class SessionStandIn:
    """A round gives an object its marked voxels, and nothing else.

    `hold` makes rounds wait until it is set or the round is stopped; `loaded` has what was loaded.
    """

    def __init__(self, scan: Scan, objects: tuple[str, ...] = (), modality: str = "CT") -> None:
        self.scan, self.modality = scan, modality
        self.labels = np.zeros(scan.shape, np.uint8)
        self.objects: list[Object] = []
        self.hold: threading.Event | None = None
        self.rounds: list[tuple[dict[int, tuple[Marks, ...]], str | None, int | None]] = []
        self.loaded: list[tuple[str, bytes]] = []
        self.message = ""
        self.said: dict[int, list[Marks]] = {}
        # Of each step: its name, the voxels it changed, and (2, n) their values before and after it.
        self._steps: list[tuple[str, np.ndarray, np.ndarray]] = []
        self._at, self.version = 0, "0"
        self._states = {"0": self.labels.copy()}
        for name in objects:
            self.add_object(name)

    def facts(self) -> dict[str, Any]:
        image, axis = self.scan.image, 2
        channels = [
            {
                "name": f"channel {number}",
                "low": float(np.percentile(each, 1)),
                "high": float(np.percentile(each, 99)),
                "min": float(each.min()),
                "max": float(each.max()),
            }
            for number, each in enumerate(image)
        ]
        quality: list[float | None] = [None] * self.scan.shape[axis]
        for place in np.flatnonzero((self.labels == 1).any((0, 1))).tolist():
            quality[place] = 0.9
        done, undone = self._steps[: self._at], self._steps[self._at :]
        return {
            "version": self.version,
            "session": "stand-in",
            "scan": "<b>scan</b>&ü.nii.gz",
            "shape": list(self.scan.shape),
            "affine": self.scan.affine.tolist(),
            "channels": channels,
            "dtype": image.dtype.name,
            "modality": self.modality,
            "objects": [
                {
                    "number": one.value,
                    "name": one.name,
                    "colour": one.colour,
                    "hidden": one.hidden,
                    "locked": one.locked,
                    "voxels": int((self.labels == one.value).sum()),
                }
                for one in self.objects
                if not one.removed
            ],
            "axis": axis,
            "engines": [
                {"name": "classical", "title": "Classical", "does": "grows from all marks"},
                {"name": "memory", "title": "Network", "does": "follows the object"},
            ],
            "engine": "classical",
            "hinted": sorted({place for said in self.said.values() for m in said for place in m.planes()}),
            "quality": {"1": quality},
            "suggestion": {"object": 1, "slice": 1, "reason": "nothing is known here"} if self.said else None,
            "message": self.message,
            "steps": self._at,
            "can_undo": bool(done),
            "can_redo": bool(undone),
            "undo_text": done[-1][0] if done else "",
            "redo_text": undone[0][0] if undone else "",
            "saves": list(self.forms),
            "marks": {str(number): [m.as_dict() for m in said] for number, said in self.said.items()},
        }

    def _new_version(self) -> None:
        self.version = str(len(self._states))
        self._states[self.version] = self.labels.copy()

    def _do(self, text: str, indices: np.ndarray, values: np.ndarray) -> None:
        self._steps[self._at :] = [(text, indices, np.stack([self.labels.flat[indices], values]))]
        self._at += 1
        self.labels.flat[indices] = values
        self._new_version()

    def round(
        self,
        marks: dict[int, tuple[Marks, ...]],
        engine: str | None,
        axis: int | None,
        progress: Callable[[float], None],
    ) -> None:
        if not marks:
            raise CaseError("no marks: mark an object first")
        progress(0.25)
        while self.hold is not None and not self.hold.wait(0.02):
            progress(0.5)
        self.rounds.append((marks, engine, axis))
        for number, said in marks.items():
            self.said.setdefault(number, []).extend(said)
            inside = settled(self.said[number], self.scan.shape).inside
            self._do("round", inside, np.full(len(inside), number))

    def edit(self, indices: np.ndarray, values: np.ndarray, text: str = "brush") -> None:
        if not np.isin(values, [0, *(one.value for one in self.objects)]).all():
            raise CaseError("a stroke names an object that is not there")
        self._do(text, indices, values)

    def undo(self) -> None:
        self._at -= 1
        _, indices, values = self._steps[self._at]
        self.labels.flat[indices] = values[0]
        self._new_version()

    def redo(self) -> None:
        _, indices, values = self._steps[self._at]
        self.labels.flat[indices] = values[1]
        self._at += 1
        self._new_version()

    def add_object(self, name: str, colour: str | None = None) -> None:
        number = len(self.objects) + 1
        self.objects.append(Object(name, number, colour or COLOURS[(number - 1) % len(COLOURS)]))
        if number > 255:
            self.labels = self.labels.astype(np.uint16)
        self._new_version()

    def change_object(self, number: int, **values: Any) -> None:
        if any(one.name == values.get("name") for one in self.objects):
            raise CaseError(f"{values['name']}: there is an object with this name")
        old = self.objects[number - 1]
        self.objects[number - 1] = Object(**(old.as_dict() | values))
        self._new_version()

    @property
    def forms(self) -> tuple[str, ...]:
        return ("nifti", "dicom-seg")

    def save(self, form: str) -> list[Path]:
        return [Path(f"/saved/{form}"), Path("/saved/quality.csv")]

    def load(self, path: Path, *, resample: bool = False) -> None:
        filename = path.name
        self.loaded.append((filename, path.read_bytes()))
        try:
            labels = np.asarray(nib.load(path).dataobj).astype(np.uint8)
        except ImageFileError:
            raise CaseError(f"{filename}: is no label map; expected NIfTI") from None
        for number in range(len(self.objects) + 1, int(labels.max()) + 1):
            self.add_object(f"object {number}")
        indices = np.flatnonzero(labels != self.labels)
        self._do("load", indices, labels.flat[indices])

    def changes(self, since: str) -> tuple[np.ndarray, np.ndarray] | None:
        if since not in self._states:
            return None
        indices = np.flatnonzero(self.labels != self._states[since])
        return indices, self.labels.flat[indices]
