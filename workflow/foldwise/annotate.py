"""A session with a scan: marks, rounds, the next slice to look at."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from foldwise.command import refuse_twice
from foldwise.files import CaseError
from foldwise.portable.packed import one_fold
from foldwise.systems.interactive.annotation import Annotation
from foldwise.systems.interactive.engines import Opener, trained
from foldwise.systems.interactive.engines.choice import ENGINES, Options, openers
from foldwise.systems.interactive.engines.classical import Classical
from foldwise.systems.interactive.exchange import FILES, form_of
from foldwise.systems.interactive.facts import summary
from foldwise.systems.interactive.files import Marked, joined, read_box, read_points, read_scribble
from foldwise.systems.interactive.marks import Marks
from foldwise.systems.interactive.model import Trained, read_trained
from foldwise.systems.interactive.objects import Object, held, named
from foldwise.systems.interactive.session import refuse
from foldwise.volumes.suffixes import stem_of

# The object of a session for which none is named.
OBJECT = "object"


def annotate(
    *,
    volumes: Sequence[Path],
    options: Options | None = None,
    engine: str | None = None,
    session: Path | None = None,
    region: Path | None = None,
    objects: Sequence[str] = (),
    axis: str | None = None,
    points: Path | None = None,
    scribble: Path | None = None,
    box: Sequence[float] | None = None,
    nothing: int | None = None,
    object_: str = "",
    undo: bool = False,
    redo: bool = False,
    remove: str = "",
    propose: bool = False,
    start: Path | None = None,
    resample: bool = False,
    mask: Path | None = None,
    form: str | None = None,
    quality: Path | None = None,
    serve: bool = False,
    port: int = 0,
) -> None:
    """Take a session on, with the values of the command line; the summary is printed as JSON.

    Without marks, or a start to save in another format, the page is served.

    Raises:
        CaseError: files that do not fit, or marks that cannot be used.
    """
    options = options or Options()
    session = session or Path(f"{stem_of(volumes[0].name)}_annotation")
    read = [("--region", region), ("--points", points), ("--scribble", scribble), ("--start", start)]
    read += [("--model", options.model)]
    read += [("--session", session), *(("the scan", path) for path in volumes)]
    written = [("--mask", mask), ("--quality", quality)]
    refuse_twice(
        (flag, path, group is written)
        for group in (read, written)
        for flag, path in group
        if path is not None
    )
    saved = form_of(mask or Path(FILES["nifti"]), form)
    if object_ and not box:
        raise CaseError("--object: is for --box alone; points have a column `object`, scribbles values")
    given = {"--points": points, "--scribble": scribble, "--box": box, "--nothing": nothing}
    given |= {
        "--undo": undo or None,
        "--redo": redo or None,
        "--remove": bool(remove) or None,
        "--propose": propose or None,
    }
    if resample and start is None:
        raise CaseError("--resample: is for --start alone")
    said = [flag for flag, value in given.items() if value is not None]
    if start is not None and not serve and (mask is not None or form is not None):
        said.append("--start")
    if serve and said:
        raise CaseError(f"{said[0]}: is not for --serve; mark on the page, or call without --serve")
    if region is not None and not region.is_file():
        raise CaseError(f"--region {region}: no such file")
    network = _trained(options.model) if options.model is not None else None
    own: dict[str, Opener] = {"classical": Classical}
    if network is not None:
        own["memory"] = trained.opener(network, volumes, session, region)
    if engine is not None and engine in ENGINES and (missing := ENGINES[engine].missing(options)):
        raise CaseError(f"--engine {engine}: give {missing}")
    annotation = Annotation(
        volumes,
        session,
        openers(options, **own),
        engine=engine or ("memory" if network is not None else "classical"),
        objects=_objects(objects, network),
        axis="xyz".index(axis) if axis else None,
    )
    try:
        for name in objects:
            # A removed object of this name does not come back; this is a new one.
            if name not in annotation.names:
                annotation.add_object(name)
        annotation.files[saved] = mask or annotation.files[saved]
        annotation.quality = quality or annotation.quality
        annotation.history.refuse_foreign(annotation.files[saved], annotation.quality)
        if start is not None and annotation.history.steps:
            raise CaseError(
                f"--start {start}: the session in {session} has steps, which it would replace; use another "
                f"folder (--session), or load the file on the page"
            )
        if not said:
            if start is not None:
                annotation.load(start, resample=resample)
            from foldwise.web.server import serve as serve_page

            serve_page(annotation, port)
            return
        steps = annotation.history.steps
        try:
            if start is not None:
                annotation.load(start, resample=resample)
            if remove:
                if remove not in annotation.names:
                    known = ", ".join(filter(None, annotation.names))
                    raise CaseError(f"--remove {remove}: there is no such object; use one of {known}")
                annotation.remove_object(annotation.names.index(remove) + 1)
            if propose:
                annotation.round({}, "automatic")
            marked = _marked(annotation, points, scribble, box, object_, nothing)
            if marked:
                refuse(marked, annotation.state, annotation.names, held(annotation.objects))
        except CaseError:
            # Nothing changes unless all marks can be used.
            while annotation.history.steps > steps:
                annotation.undo()
            raise
        if undo:
            annotation.undo()
        if redo:
            annotation.redo()
        if marked:
            annotation.round(marked)
        mask, quality = annotation.save(saved)
        if message := annotation.history.now.message:
            logging.warning("%s", message)
        print(json.dumps({**summary(annotation), "mask": str(mask), "quality": str(quality)}, indent=2))
    finally:
        annotation.close()


def _trained(model: Path) -> Trained:
    with tempfile.TemporaryDirectory(prefix="foldwise-") as scratch:
        return read_trained(one_fold(model, Path(scratch), "interactive"))


def _objects(names: Sequence[str], network: Trained | None) -> list[Object]:
    """The objects that the person named, else the model's, else one."""
    targets = network.targets if network is not None else None
    values = {name: targets.value(name) for name in targets.names} if targets is not None else {}
    objects: list[Object] = []
    for name in names or list(values) or [OBJECT]:
        objects.append(named(name, objects, values.get(name)))
    return objects


def _marked(
    annotation: Annotation,
    points: Path | None,
    scribble: Path | None,
    box: Sequence[float] | None,
    object_: str,
    nothing: int | None,
) -> Marked:
    there = {number: each for number, each in enumerate(annotation.objects, start=1) if not each.removed}
    names, axis = [each.name for each in there.values()], annotation.state.axis
    several: list[Marked] = []
    if points:
        several.append(read_points(points, names, axis))
    if scribble:
        values = {each.name: each.value for each in there.values()}
        several.append(read_scribble(scribble, annotation.header, values, axis))
    if box:
        several.append(read_box(box, object_, names, axis))
    if nothing is not None:
        empty = (Marks(axis, empty=np.array([nothing])),)
        several.append(dict.fromkeys(range(1, len(names) + 1), empty))
    numbers = list(there)
    return {numbers[place - 1]: given for place, given in joined(several).items()}
