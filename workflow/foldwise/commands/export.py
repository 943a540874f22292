"""`foldwise export`: a trained model in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    source: Annotated[
        Path, typer.Argument(help="A model's folder in the results: results/<experiment>/<model>.")
    ],
    target: Annotated[Path, typer.Argument(help="File to write (.foldwise).")],
    fold: Annotated[
        list[int] | None, typer.Option(help="Take this fold's model alone; may be repeated. Default: all.")
    ] = None,
) -> None:
    """Write a trained model into one file, which `foldwise predict` needs and nothing else."""
    from foldwise.packed import pack

    about = pack(source, target, fold or ())
    print(f"{target}: {len(about.folds)} model(s) of {about.system}, {target.stat().st_size / 2**20:.1f} MiB")
