"""A session of a person with a scan and a model; the command and the web page work on it."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path
from typing import Any

from foldwise.files import CaseError, file_hash, source_files, write_text
from foldwise.index import Entry
from foldwise.systems.interactive.hints import Hints
from foldwise.systems.interactive.masks import mask_in_source, quality_rows
from foldwise.systems.interactive.model import Stack, Trained, propagator_of, read_stack, read_trained
from foldwise.systems.interactive.session import HALF, State
from foldwise.systems.interactive.workspace import Workspace
from foldwise.volumes.prepare import prepare_scan
from foldwise.volumes.volume import read_header, write_volume


class Annotation:
    """A session with a scan and a model; every round is on disk before the next one can start."""

    def __init__(self, volumes: list[Path], model: Path, folder: Path, region: Path | None = None) -> None:
        """Prepare the scan, or resume the session in the folder.

        Args:
            volumes: the scan, a file per channel.
            model: the model's file.
            folder: of the session.
            region: mask of the region, if the model needs one; a session that is resumed has it.

        Raises:
            CaseError: the scan or model cannot be used, or the session belongs to others.
        """
        self.trained: Trained = read_trained(model)
        self.volumes = volumes
        self.header = read_header(volumes[0])
        digests = [_digest(path) for path in volumes]
        self.workspace = Workspace(folder, {"scan": digests, "model": self.trained.digest})
        if not self.workspace.scan.exists():
            self._prepare(folder, digests, region)
        self.stack: Stack = read_stack(self.workspace.scan, self.trained.settings)
        self.targets = self.trained.targets
        self.propagator = propagator_of(self.trained.network, self.stack, self.trained.settings, self.targets)
        self._empty = State.empty(len(self.targets.names), self.propagator.shape)
        self.state = self.workspace.state(self._empty)

    def _prepare(self, folder: Path, digests: list[str], region: Path | None) -> None:
        files = {"images": tuple(str(path) for path in self.volumes)}
        if region is not None:
            files["region"] = (str(region),)
        entry = Entry("case", "case", files, "", {}, 0)
        with tempfile.TemporaryDirectory(prefix=".prepared.", dir=folder) as temporary:
            prepared = prepare_scan(entry, self.trained.state, Path(temporary))
            if [_digest(path) for path in self.volumes] != digests:
                raise CaseError(f"{self.volumes[0]}: changed while it was read; start with another folder")
            prepared.replace(self.workspace.scan)

    def round(self, place: int, hints: dict[int, Hints]) -> None:
        """Do a round on a slice of the stack.

        Raises:
            CaseError: the hints cannot be used, or another process changed the session; it stays as it was.
        """
        self.workspace.refuse_outdated()
        state = self.propagator.round(self.state, place, hints)
        self.workspace.add(state, place, hints)
        self.state = state

    def undo(self) -> None:
        """Undo the last round."""
        self.workspace.undo()
        self.state = self.workspace.state(self._empty)

    def refresh(self) -> None:
        """Read changes that another process made to the session."""
        if self.workspace.version != self.workspace.seen:
            self.state = self.workspace.state(self._empty)

    def save(self, mask: Path, quality: Path) -> None:
        """Write the mask in the scan's geometry, and the quality of every slice.

        Raises:
            CaseError: a file that this session did not write, or that was edited since, would be replaced; or
                another process changed the session.
        """
        self.workspace.refuse_outdated()
        self.workspace.refuse_foreign(mask, quality)
        write_volume(mask_in_source(self.state, self.stack.lineage, self.stack.axis, self.targets), mask)
        rows = quality_rows(self.state, self.targets.names, self.stack.places)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(quality, text.getvalue())
        self.workspace.remember(mask, quality)

    def summary(self) -> dict[str, Any]:
        """Rounds so far and the slice to look at next, as an index along the file's own axis."""
        place = self.state.suggestion()
        return {
            "rounds": self.workspace.rounds,
            "axis": "xyz"[self.stack.places.source_axis],
            "next_slice": None if place is None else self.stack.places.slice_in_source(place),
            "message": self.remark(),
        }

    def remark(self) -> str:
        """What a person must know about the last round: objects not found, hints not followed; else empty."""
        state, names = self.state, self.targets.names
        if not state.hinted:
            return ""
        not_found = state.not_found()
        remarks = [
            f"{names[number]}: not found on any slice; mark it with a scribble or a box where it is clear."
            for number in not_found
        ]
        rest = [number for number in range(len(names)) if number not in not_found]
        for place in sorted(state.hinted):
            if (state.quality[rest, place] < HALF).any():
                index = self.stack.places.slice_in_source(place)
                remarks.append(f"The mask does not follow the hints on slice {index}.")
        return " ".join(remarks)


def _digest(path: Path) -> str:
    files = source_files(path)
    return file_hash(path) if files == [path] else ",".join(file_hash(file)[:16] for file in files)
