"""A session with a trained interactive model: hints on a slice, propagation, the next slice to look at."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from foldwise.command import refuse_twice
from foldwise.files import CaseError
from foldwise.portable.packed import one_fold
from foldwise.systems.interactive.annotation import Annotation
from foldwise.systems.interactive.files import Marked, joined, read_box, read_points, read_scribble
from foldwise.systems.interactive.hints import Hints


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
    if mask is not None and not mask.name.endswith((".nii", ".nii.gz")):
        raise CaseError(f"--mask {mask}: the name of a mask must end in .nii or .nii.gz")
    if object_ and not box:
        raise CaseError("--object: is for --box alone; points have a column `object`, scribbles values")
    told = {"--points": points, "--scribble": scribble, "--box": box, "--nothing": nothing}
    told |= {"--undo": undo or None}
    if serve and (given := [flag for flag, value in told.items() if value is not None]):
        raise CaseError(f"{given[0]}: is not for --serve; give hints on the page, or call without --serve")
    if region is not None and not region.is_file():
        raise CaseError(f"--region {region}: no such file")
    mask, quality = mask or session / "mask.nii.gz", quality or session / "quality.csv"
    with tempfile.TemporaryDirectory(prefix="foldwise-") as scratch:
        annotation = Annotation(volume, one_fold(model, Path(scratch), "interactive"), session, region)
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
