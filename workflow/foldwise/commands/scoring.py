"""`foldwise score-phases`: scores of surgical phases in text files, of any method."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def score_phases(
    predictions: Annotated[
        Path, typer.Argument(help="Folder of text files with a row per frame (frame, phase), or one file.")
    ],
    truth: Annotated[Path, typer.Argument(help="The same for the annotation; names must match.")],
    fps: Annotated[float, typer.Option(min=1e-6, max=1e4, help="Rows of a prediction per second.")],
    truth_fps: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            max=1e4,
            help="Rows of the annotation per second. Needed if its rows are numbered at another rate; by "
            "default frames with the same number are the same.",
        ),
    ] = None,
    phases: Annotated[
        str, typer.Option(help="cholec80, m2cai, or the names of phases in their order, separated by commas.")
    ] = "cholec80",
    first_number: Annotated[
        int | None,
        typer.Option(min=0, max=1, help="Number of the first phase, in files with numbers but without a 0."),
    ] = None,
    cut: Annotated[
        bool,
        typer.Option("--cut", help="Score only frames that both files have, instead of refusing others."),
    ] = False,
    chosen_on: Annotated[
        str | None,
        typer.Option(
            help="Videos on which the epoch was chosen, separated by commas, or a file with one a line; "
            "warns if they are among the scored ones."
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print the definition of each protocol.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Also write everything as JSON.")] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Also write the scores as CSV, with those of phases.")
    ] = None,
) -> None:
    """Score surgical phases in text files by five protocols side by side."""
    from foldwise.files import write_json, write_text
    from foldwise.metrics import scoring
    from foldwise.metrics.tracks import Rates, refuse_read

    refuse_read([path for path in (json, csv) if path], [predictions, truth])
    names = scoring.phases_of(phases)
    chosen = scoring.names_of(chosen_on) if chosen_on else []
    scored = scoring.score(predictions, truth, Rates(fps, truth_fps, cut), names, first_number, chosen)
    for warning in scored.warnings:
        typer.echo(f"warning: {warning}", err=True)
    print(scoring.page(scored, explain))
    if json:
        write_json(json, scoring.nested(scored))
    if csv:
        import pandas as pd

        write_text(csv, pd.DataFrame(scoring.table(scored)).to_csv(index=False))
