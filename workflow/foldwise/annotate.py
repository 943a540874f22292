"""Segment a scan with a trained interactive model: hints on a slice, propagation, the next slice to look at.

Hints come from files, or with --serve from a local web page. The session's folder keeps every round, so the
next call continues from the last one. Standard output receives JSON.

Points are a CSV with the columns x, y, z (voxel indices in the scan's file, from 0), kind (inside, outside,
extreme, or box: two opposite corners) and, for several objects, object. A scribble is a NIfTI on the scan's
grid: an object's label value marks the object, 255 marks the outside (254 if 255 is an object's value).
--object names the object of a box.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from foldwise.command import parser, refuse_twice, run, written
from foldwise.files import CaseError
from foldwise.systems.interactive.annotation import Annotation
from foldwise.systems.interactive.files import Marked, joined, read_box, read_points, read_scribble
from foldwise.systems.interactive.hints import Hints


def main() -> None:
    """Read the command line."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--volume", required=True, type=Path, nargs="+", help="the scan; a file per channel"
    )
    arguments.add_argument(
        "--region", type=Path, help="mask of the region, if the model was trained with one"
    )
    arguments.add_argument("--model", required=True, type=Path, help="model.pt of the interactive system")
    arguments.add_argument("--session", required=True, type=Path, help="folder that keeps the rounds")
    arguments.add_argument("--points", type=Path, help="points (.csv)")
    arguments.add_argument("--scribble", type=Path, help="scribble on the scan's grid (.nii.gz)")
    arguments.add_argument(
        "--box", type=float, nargs=6, metavar=("X0", "Y0", "Z0", "X1", "Y1", "Z1"), help="box on one slice"
    )
    arguments.add_argument("--nothing", type=int, metavar="SLICE", help="no object is on this slice")
    arguments.add_argument("--object", default="", help="object of --box, if the model has several")
    arguments.add_argument("--undo", action="store_true", help="undo the last round first")
    arguments.add_argument(
        "--mask", type=written, help="mask to write (.nii.gz); default: in the session's folder"
    )
    arguments.add_argument(
        "--quality", type=written, help="quality to write (.csv); default: in the session's folder"
    )
    arguments.add_argument("--serve", action="store_true", help="open the web page instead of reading hints")
    arguments.add_argument("--port", type=int, default=0, help="port of the web page; 0: any free port")
    given = vars(arguments.parse_args())
    annotate(object_=given.pop("object"), **given)


def annotate(
    *,
    volume: list[Path],
    model: Path,
    session: Path,
    region: Path | None = None,
    points: Path | None = None,
    scribble: Path | None = None,
    box: Sequence[float] | None = None,
    nothing: int | None = None,
    object_: str = "",
    undo: bool = False,
    mask: Path | None = None,
    quality: Path | None = None,
    serve: bool = False,
    port: int = 0,
) -> None:
    """Take a session on, with the values of the command line; the summary is printed as JSON.

    Raises:
        CaseError: files that do not fit, hints that cannot be used, or none.
    """
    read = [("--region", region), ("--points", points), ("--scribble", scribble), ("--model", model)]
    read += [("--session", session), *(("--volume", path) for path in volume)]
    written_ = [("--mask", mask), ("--quality", quality)]
    refuse_twice(
        (flag, path, named is written_)
        for named in (read, written_)
        for flag, path in named
        if path is not None
    )
    mask, quality = mask or session / "mask.nii.gz", quality or session / "quality.csv"
    annotation = Annotation(volume, model, session, region)
    annotation.workspace.refuse_foreign(mask, quality)
    if serve:
        from foldwise.web.server import serve as serve_page

        logging.getLogger("uvicorn.access").setLevel(logging.WARNING)  # the address contains the token
        serve_page(annotation, mask, quality, port)
        return
    several: list[Marked] = []
    names, places = annotation.targets.names, annotation.stack.places
    if points:
        several.append(read_points(points, names, places))
    if scribble:
        values = {name: annotation.targets.value(name) for name in names}
        several.append(read_scribble(scribble, annotation.header, values, places))
    if box:
        several.append(read_box(box, object_, names, places))
    marked = joined(several)
    if nothing is not None:
        marked[places.slice_of_source(nothing)] = {n: Hints(nothing=True) for n in range(len(names))}
    if not marked and not undo:
        raise CaseError(
            "no hints: give --points, --scribble, --box or --nothing, or open the page with --serve"
        )
    for place, hints in marked.items():
        annotation.propagator.refuse(place, hints)  # all hints, before anything changes
    if undo:
        annotation.undo()
    for place, hints in marked.items():
        annotation.round(place, hints)
    annotation.save(mask, quality)
    if remark := annotation.remark():
        logging.warning("%s", remark)
    print(json.dumps({**annotation.summary(), "mask": str(mask), "quality": str(quality)}, indent=2))


if __name__ == "__main__":
    run(main)
