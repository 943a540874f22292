"""Choose the treatment of new cases, e.g. post-processing, on all held-out cases of the cross-validation."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

from foldwise.command import Of, Output, run, stage
from foldwise.files import write_json
from foldwise.scores import read_rows
from foldwise.section import Section
from foldwise.systems.base import System


@stage
def choose(
    *,
    system: System[Any, Any],
    settings: Annotated[Section, Of("evaluate")],
    scores: Annotated[list[Path], "folders of the scores of all held-out cases"],
    facts: Annotated[Output, "choice to write (.json)"],
) -> None:
    """Write the choice."""
    known = read_rows(scores)
    chosen = system.results.choose(known, settings)
    write_json(facts, {"chosen": dict(chosen), "cases": len(known)})
    logging.info("%d cases: %s", len(known), dict(chosen))


if __name__ == "__main__":
    run(choose.main)
