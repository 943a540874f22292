"""`foldwise doctor`: what stands in the way of a run on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    experiment: Annotated[
        Path | None,
        typer.Argument(help="An experiment's settings (.yaml), to check its folder of results, too."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check Python, packages, GPUs, Slurm, disks and folders, and say what to do.

    The exit code is 1 if there is an error. If this command itself does not start:
    python -m foldwise.doctor
    """
    from foldwise.doctor import examine
    from foldwise.doctor.shown import show

    found = examine(experiment)
    show(found, as_json=as_json)
    if any(one.level == "error" for one in found):
        raise typer.Exit(1)
