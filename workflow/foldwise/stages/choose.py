"""Choose the treatment of new cases, e.g. post-processing, on all held-out cases of the cross-validation.

A restarted job continues with the remaining cases.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

from foldwise.command import Of, Output, run, stage
from foldwise.files import write_json
from foldwise.index import Index
from foldwise.section import Section
from foldwise.store import Store
from foldwise.systems.base import System


@stage
def choose(
    *,
    system: System[Any, Any],
    settings: Annotated[Section, Of("evaluate")],
    index: Annotated[Path, "label-path index"],
    predictions: Annotated[list[Path], "folder of each test stage"],
    state: Annotated[Store, "folder for unfinished work"],
    facts: Annotated[Output, "choice to write (.json)"],
) -> None:
    """Write the choice."""
    read = Index.read(index)
    paths = {path.stem: path for folder in predictions for path in sorted(folder.glob("*.h5"))}
    entries = [read[case] for case in paths]
    chosen = system.results.choose(paths, entries, read.task, settings, state.memory("choice"))
    write_json(facts, {"chosen": chosen, "cases": len(paths)})
    state.clear()
    logging.info("%d cases: %s", len(paths), chosen)


if __name__ == "__main__":
    run(choose.main)
