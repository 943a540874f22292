"""`foldwise status`: how far an experiment is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def status(
    experiment: Annotated[
        list[Path] | None,
        typer.Argument(help="The experiment's settings (.yaml), as for `run`. Default: config.yaml."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Repeat until everything is done, or Ctrl-C.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between repetitions with --watch.")] = 10,
) -> None:
    """Show the progress of an experiment, here or on a cluster: cases, folds, jobs. Changes nothing.

    Call it in the folder where the experiment was started.
    """
    configfiles = experiment or [Path("config.yaml")]
    if watch:
        from foldwise.watching import watch as watched

        watched(configfiles, every)
        return
    from foldwise.status import look

    print(look(configfiles).text)
