"""Segment a scan with a trained interactive model: hints on a slice, propagation, and where to look next.

Hints come from files, or with --serve from a local web page. The session's folder keeps every round, so that
the next call goes on from the last one. What stands on standard output is JSON.

Points are a CSV with the columns x, y, z (voxel indices in the scan's file, from 0), kind (inside, outside,
extreme, or box: two opposite corners) and, where there are several, object. A scribble is a NIfTI on the
scan's grid: an object's label value marks it, 255 what is outside (254 if 255 is an object's value). The
object of a box is named by --object.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from foldwise.command import parser, run, written
from foldwise.files import CaseError, file_hash, source_files, write_text
from foldwise.index import Entry
from foldwise.interactive.files import Marked, joined, read_box, read_points, read_scribble
from foldwise.interactive.hints import Hints
from foldwise.interactive.model import Stack, Trained, propagator_of, read_stack, read_trained
from foldwise.interactive.results import mask_in_source, quality_rows
from foldwise.interactive.session import HALF, State
from foldwise.interactive.workspace import Workspace
from foldwise.systems.segmentation.new import prepare_case
from foldwise.volumes.volume import read_header, write_volume


def main() -> None:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--volume", required=True, type=Path, nargs="+", help="the scan; a file per channel")
    made.add_argument("--model", required=True, type=Path, help="model.pt of the interactive system")
    made.add_argument("--session", required=True, type=Path, help="folder that keeps the rounds")
    made.add_argument("--points", type=Path, help="points (.csv)")
    made.add_argument("--scribble", type=Path, help="scribble on the scan's grid (.nii.gz)")
    made.add_argument(
        "--box", type=float, nargs=6, metavar=("X0", "Y0", "Z0", "X1", "Y1", "Z1"), help="box on one slice"
    )
    made.add_argument("--nothing", type=int, metavar="SLICE", help="nothing of any object is on this slice")
    made.add_argument("--object", default="", help="object of --box, where there are several")
    made.add_argument("--undo", action="store_true", help="take the last round back first")
    made.add_argument(
        "--mask", type=written, help="mask to write (.nii.gz); default: in the session's folder"
    )
    made.add_argument("--quality", type=written, help="quality to write (.csv); default: likewise")
    made.add_argument("--serve", action="store_true", help="open the web page instead of reading hints")
    made.add_argument("--port", type=int, default=0, help="of the web page; 0: a free one")
    args = made.parse_args()
    mask = args.mask or args.session / "mask.nii.gz"
    quality = args.quality or args.session / "quality.csv"
    annotation = Annotation(args.volume, args.model, args.session)
    annotation.workspace.refuse_foreign(mask, quality)
    if args.serve:
        from foldwise.web.server import serve

        serve(annotation, mask, quality, args.port)
        return
    marked = _marked(args, annotation)
    for place, hints in marked.items():
        annotation.propagator.refuse(place, hints)  # all of them, before anything is changed
    if args.undo:
        annotation.undo()
    for place, hints in marked.items():
        annotation.round(place, hints)
    annotation.save(mask, quality)
    if remark := annotation.remark():
        logging.warning("%s", remark)
    print(json.dumps({**annotation.summary(), "mask": str(mask), "quality": str(quality)}, indent=2))


class Annotation:
    """A session with a scan and a model; every round is on disk before the next one can begin."""

    def __init__(self, volumes: list[Path], model: Path, folder: Path) -> None:
        """Prepare the scan, or take up the session in the folder.

        Raises:
            CaseError: scan or model cannot be used, or the session is of others.
        """
        self.trained: Trained = read_trained(model)
        self.volumes = volumes
        self.header = read_header(volumes[0])
        facts = {"scan": [_digest(path) for path in volumes], "model": self.trained.digest}
        self.workspace = Workspace(folder, facts)
        if not self.workspace.scan.exists():
            self._prepare(folder)
        self.stack: Stack = read_stack(self.workspace.scan, self.trained.settings)
        self.targets = self.trained.targets
        self.propagator = propagator_of(self.trained.network, self.stack, self.trained.settings, self.targets)
        self._empty = State.empty(len(self.targets.names), self.propagator.shape)
        self.state = self.workspace.state(self._empty)

    def _prepare(self, folder: Path) -> None:
        images = tuple(str(path) for path in self.volumes)
        entry = Entry("case", "case", {"images": images}, "", {}, 0)
        with tempfile.TemporaryDirectory(prefix=".prepared.", dir=folder) as temporary:
            made = prepare_case(entry, self.trained.state, Path(temporary))
            made.replace(self.workspace.scan)

    def round(self, place: int, hints: dict[int, Hints]) -> None:
        """A round on a slice of the stack.

        Raises:
            CaseError: the hints are of no use, or another process changed the session; it stays as it was.
        """
        self.workspace.refuse_outdated()
        state = self.propagator.round(self.state, place, hints)
        self.workspace.add(state, place, hints)
        self.state = state

    def undo(self) -> None:
        """Take the last round back."""
        self.workspace.undo()
        self.state = self.workspace.state(self._empty)

    def refresh(self) -> None:
        """Take up what another process did to the session."""
        if self.workspace.version != self.workspace.seen:
            self.state = self.workspace.state(self._empty)

    def save(self, mask: Path, quality: Path) -> None:
        """Write the mask in the scan's own geometry, and the quality of every slice.

        Raises:
            CaseError: a file that another hand wrote or changed would be replaced, or another process changed
                the session.
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
        """What a person must know of the last round: objects not found, hints not followed; else empty."""
        state, names = self.state, self.targets.names
        if not state.hinted:
            return ""
        not_found = state.not_found()
        made = [
            f"{names[number]}: not found on any slice; mark it by a scribble or a box where it is clear."
            for number in not_found
        ]
        rest = [number for number in range(len(names)) if number not in not_found]
        for place in sorted(state.hinted):
            if (state.quality[rest, place] < HALF).any():
                index = self.stack.places.slice_in_source(place)
                made.append(f"The mask does not follow the hints on slice {index}.")
        return " ".join(made)


def _marked(args: Namespace, annotation: Annotation) -> Marked:
    names, places = annotation.targets.names, annotation.stack.places
    several: list[Marked] = []
    if args.points:
        several.append(read_points(args.points, names, places))
    if args.scribble:
        values = {name: annotation.targets.value(name) for name in names}
        several.append(read_scribble(args.scribble, annotation.header, values, places))
    if args.box:
        several.append(read_box(args.box, args.object, names, places))
    marked = joined(several)
    if args.nothing is not None:
        marked[places.slice_of_source(args.nothing)] = {n: Hints(nothing=True) for n in range(len(names))}
    if not marked and not args.undo:
        raise CaseError(
            "no hints: give --points, --scribble, --box or --nothing, or open the page by --serve"
        )
    return marked


def _digest(path: Path) -> str:
    files = source_files(path)
    return file_hash(path) if files == [path] else ",".join(file_hash(file)[:16] for file in files)


if __name__ == "__main__":
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)  # the address holds the token
    run(main)
