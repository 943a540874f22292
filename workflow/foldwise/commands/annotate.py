"""`foldwise annotate`: segment a scan interactively."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Box = tuple[float, float, float, float, float, float]


def annotate(
    scan: Annotated[list[Path], typer.Argument(help="The scan: a file or DICOM folder; one per channel.")],
    model: Annotated[
        Path | None, typer.Option(help="model.pt or .foldwise file of an interactive model.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="Engine to start with; default: memory with --model, else classical.")
    ] = None,
    automatic: Annotated[
        str,
        typer.Option(
            metavar="MODEL|COMMAND",
            help="For the engine automatic: a segmentation model, or a command with {scan} and {mask}.",
        ),
    ] = "",
    server: Annotated[str, typer.Option(help="For nninteractive: its server's address.")] = "",
    weights: Annotated[Path | None, typer.Option(help="For sam2: folder of SAM 2, by transformers.")] = None,
    channel: Annotated[int, typer.Option(help="Channel for engines that see one.", min=0)] = 0,
    session: Annotated[
        Path | None, typer.Option(help="Folder that keeps all steps; default: <scan>_annotation.")
    ] = None,
    objects: Annotated[
        str, typer.Option(metavar="NAME,…", help="Objects to segment; default: the model's, else one.")
    ] = "",
    axis: Annotated[
        str | None,
        typer.Option(
            metavar="x|y|z", help="The file's axis across the slices; default: the thickest slices."
        ),
    ] = None,
    region: Annotated[
        Path | None, typer.Option(help="Mask of the region, if the model was trained with one.")
    ] = None,
    points: Annotated[Path | None, typer.Option(help="Points (.csv).")] = None,
    scribble: Annotated[Path | None, typer.Option(help="Scribble on the scan's grid (.nii.gz).")] = None,
    box: Annotated[Box | None, typer.Option(metavar="X0 Y0 Z0 X1 Y1 Z1", help="Box on one slice.")] = None,
    nothing: Annotated[int | None, typer.Option(metavar="SLICE", help="No object is on this slice.")] = None,
    object_: Annotated[str, typer.Option("--object", help="Object of --box, if there are several.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Undo the last step first.")] = False,
    redo: Annotated[bool, typer.Option("--redo", help="Redo the step undone last first.")] = False,
    remove: Annotated[
        str, typer.Option(metavar="NAME", help="Remove this object, with its voxels and marks, first.")
    ] = "",
    propose: Annotated[
        bool, typer.Option("--propose", help="Take the proposal of --automatic first.")
    ] = False,
    start: Annotated[
        Path | None,
        typer.Option(help="Objects to start from: a label map, .seg.nrrd, DICOM SEG or RTSTRUCT."),
    ] = None,
    resample: Annotated[
        bool, typer.Option("--resample", help="Resample --start to the scan's grid (nearest voxel).")
    ] = False,
    mask: Annotated[
        Path | None, typer.Option(help="Objects to write; default: in the session's folder.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="nifti|slicer|dicom-seg|rtstruct", help="Default: by --mask."),
    ] = None,
    quality: Annotated[
        Path | None, typer.Option(help="Quality to write (.csv); default: in the session's folder.")
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Open the web page; so does a call without marks.")
    ] = False,
    port: Annotated[int, typer.Option(help="Port of the web page; 0: any free port.", min=0, max=65535)] = 0,
) -> None:
    """Segment a scan interactively: marks, a round, the next slice to look at.

    Marks come from files, or are made on a local web page. The session's folder keeps every step, so the next
    call continues from the last one. Standard output receives JSON.

    Points are a CSV with the columns x, y, z (voxel indices in the scan's file, from 0), kind (inside,
    outside, extreme, box: two opposite corners, or line: both ends of the longest diameter) and, for several
    objects, object. A scribble is a NIfTI on the scan's grid: an object's label value marks the object, 255
    marks the outside (254 if 255 is an object's value).
    """
    from foldwise.annotate import annotate as annotated
    from foldwise.files import CaseError
    from foldwise.systems.interactive.engines.choice import Options

    if axis not in (None, "x", "y", "z"):
        raise CaseError(f"--axis {axis}: use x, y or z, an axis of the file")
    annotated(
        volumes=scan,
        options=Options(model, automatic, server=server, weights=weights, channel=channel),
        engine=engine,
        session=session,
        objects=[name.strip() for name in objects.split(",") if name.strip()],
        axis=axis,
        region=region,
        points=points,
        scribble=scribble,
        box=box,
        nothing=nothing,
        object_=object_,
        undo=undo,
        redo=redo,
        remove=remove,
        propose=propose,
        start=start,
        resample=resample,
        form=form,
        mask=mask,
        quality=quality,
        serve=serve,
        port=port,
    )
