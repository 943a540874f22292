"""`foldwise annotate`: segment a scan with a trained interactive model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Box = tuple[float, float, float, float, float, float]


def annotate(
    volume: Annotated[list[Path], typer.Option(help="The scan; a file per channel.")],
    model: Annotated[Path, typer.Option(help="model.pt or .foldwise file of an interactive model.")],
    session: Annotated[Path, typer.Option(help="Folder that keeps the rounds.")],
    channels: Annotated[
        list[Path] | None, typer.Argument(help="Further channels of the scan, after --volume.")
    ] = None,
    region: Annotated[
        Path | None, typer.Option(help="Mask of the region, if the model was trained with one.")
    ] = None,
    points: Annotated[Path | None, typer.Option(help="Points (.csv).")] = None,
    scribble: Annotated[Path | None, typer.Option(help="Scribble on the scan's grid (.nii.gz).")] = None,
    box: Annotated[Box | None, typer.Option(metavar="X0 Y0 Z0 X1 Y1 Z1", help="Box on one slice.")] = None,
    nothing: Annotated[int | None, typer.Option(metavar="SLICE", help="No object is on this slice.")] = None,
    object_: Annotated[str, typer.Option("--object", help="Object of --box, if the model has several.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Undo the last round first.")] = False,
    mask: Annotated[
        Path | None, typer.Option(help="Mask to write (.nii.gz); default: in the session's folder.")
    ] = None,
    quality: Annotated[
        Path | None, typer.Option(help="Quality to write (.csv); default: in the session's folder.")
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Open the web page instead of reading hints.")
    ] = False,
    port: Annotated[int, typer.Option(help="Port of the web page; 0: any free port.", min=0, max=65535)] = 0,
) -> None:
    """Segment a scan with a trained interactive model: hints on a slice, propagation, the next slice.

    Hints come from files, or with --serve from a local web page. The session's folder keeps every round, so
    the next call continues from the last one. Standard output receives JSON.

    Points are a CSV with the columns x, y, z (voxel indices in the scan's file, from 0), kind (inside,
    outside, extreme, or box: two opposite corners) and, for several objects, object. A scribble is a NIfTI
    on the scan's grid: an object's label value marks the object, 255 marks the outside (254 if 255 is an
    object's value).
    """
    from foldwise.annotate import annotate as annotated

    annotated(
        volume=[*volume, *(channels or [])],
        model=model,
        session=session,
        region=region,
        points=points,
        scribble=scribble,
        box=box,
        nothing=nothing,
        object_=object_,
        undo=undo,
        mask=mask,
        quality=quality,
        serve=serve,
        port=port,
    )
