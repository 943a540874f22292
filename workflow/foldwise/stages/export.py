"""Write predictions as files for other programs, under the cases' own names."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

from foldwise.command import Of, Output, run, stage
from foldwise.exported import export_folder
from foldwise.files import read_json, whole_folder
from foldwise.index import Index
from foldwise.section import Section
from foldwise.systems.base import System


@stage
def export(
    *,
    system: System[Any, Any],
    settings: Annotated[Section, Of("export")],
    index: Annotated[Path, "label-path index of the cases"],
    predictions: Annotated[Path, "folder of predictions"],
    scores: Annotated[list[Path], "folders of their scores"],
    choice: Annotated[Path, "choice of other cases (.json)"],
    folder: Annotated[Output, "folder to write"],
) -> None:
    """Export the predictions."""
    read, chosen = Index.read(index), read_json(choice)["chosen"]
    paths = {path.stem: path for path in whole_folder(predictions, ".h5")}
    scored = {path.stem: path for each in scores for path in each.glob("*.h5")}
    entries = [read[case] for case in paths]
    export_folder(folder, partial(system.results.export, paths, entries, settings, chosen, scored=scored))


if __name__ == "__main__":
    run(export.main)
