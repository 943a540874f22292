"""`foldwise doctor`: what stands in the way of a run on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    experiment: Annotated[
        Path | None,
        typer.Argument(help="An experiment's settings (.yaml), to look at its results' folder, too."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of findings for programs.")] = False,
) -> None:
    """Look at Python, packages, GPUs, Slurm, disks and folders, and say what to do.

    Ends with exit code 1 if there is an error. Where this command itself does not start:
    python -m foldwise.doctor
    """
    from foldwise.doctor import examine
    from foldwise.doctor.shown import show

    found = examine(experiment)
    show(found, as_json=as_json)
    if any(one.level == "error" for one in found):
        raise typer.Exit(1)
