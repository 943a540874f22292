"""Write a new index that trains on the cases with accepted new regions alone; the old index is kept."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from foldwise.command import Folder, Output, run, stage
from foldwise.files import read_json
from foldwise.index import Index, missing_classes
from foldwise.record import used
from foldwise.systems.clips.index import update_index


@stage
def update_labels(
    *,
    index: Annotated[Path, "index built from the sheet"],
    regions: Annotated[Folder, "folder of the regions and their facts"],
    updated: Annotated[Output, "index to write"],
    splits: Annotated[Output, "readable copy to write (.json)"],
) -> None:
    """Write the new index."""
    old = Index.read(index)
    used(*(regions / f"{entry.case}.json" for entry in old.entries))
    facts = {entry.case: read_json(regions / f"{entry.case}.json") for entry in old.entries}
    new = update_index(old, facts, regions)
    for text in missing_classes(new):
        logging.warning(text)
    new.write(updated, splits)
    accepted = sum(not found["review"] for found in facts.values())
    logging.info("%d of %d cases accepted", accepted, len(old.entries))


if __name__ == "__main__":
    run(update_labels.main)
