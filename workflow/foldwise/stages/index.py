"""Write the label-path index (pickle) and a readable copy (JSON)."""

from __future__ import annotations

import logging
from typing import Annotated, Any

from foldwise.command import Folder, Of, Output, run, stage
from foldwise.experiment.preparation import prepared_file
from foldwise.experiment.settings import Data, Split
from foldwise.files import CaseError
from foldwise.index import make_index, missing_classes
from foldwise.record import used
from foldwise.systems.base import System
from foldwise.twins import refuse_twins


@stage
def index(
    *,
    system: System[Any, Any],
    settings: Split,
    data: Annotated[Data, Of("data")],
    prepared: Annotated[Folder, "folder of the prepared cases"],
    caches: Annotated[Folder, "folder of the caches"],
    index: Annotated[Output, "pickle to write"],
    splits: Annotated[Output, "JSON to write"],
) -> None:
    """Assign the labelled cases to folds."""
    if settings.file and settings.file.resolve() in (index.resolve(), splits.resolve()):
        raise CaseError(f"{settings.file}: would be overwritten; give --index and --splits other names")
    if settings.file:
        used(settings.file)
    task, entries = system.entries(data, prepared, caches)
    used(*(prepared_file(prepared, entry.case) for entry in entries))
    refuse_twins(entries, {entry.case: entry.recording for entry in entries})
    made = make_index(entries, task, settings)
    for text in missing_classes(made, settings):
        logging.warning(text)
    made.write(index, splits)


if __name__ == "__main__":
    run(index.main)
