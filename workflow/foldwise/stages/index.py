"""Write the label-path index (pickle) and a readable copy (JSON)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

from foldwise.command import Of, Output, run, stage
from foldwise.files import CaseError
from foldwise.index import make_index, missing_classes
from foldwise.settings import Data, Split
from foldwise.systems.base import System


@stage
def index(
    *,
    system: System[Any, Any],
    settings: Split,
    data: Annotated[Data, Of("data")],
    prepared: Annotated[Path, "folder of the prepared cases"],
    caches: Annotated[Path, "folder of the caches"],
    index: Annotated[Output, "pickle to write"],
    splits: Annotated[Output, "JSON to write"],
) -> None:
    """Assign the labelled cases to folds."""
    if settings.file and settings.file.resolve() in (index.resolve(), splits.resolve()):
        raise CaseError(f"{settings.file}: would be overwritten; give --index and --splits other names")
    task, entries = system.entries(data, prepared, caches)
    made = make_index(entries, task, settings)
    for text in missing_classes(made, settings):
        logging.warning(text)
    made.write(index, splits)


if __name__ == "__main__":
    run(index.main)
