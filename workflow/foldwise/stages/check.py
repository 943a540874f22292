"""Check an experiment's data and forecast its memory and disk: the sheet, all headers, all labels."""

from __future__ import annotations

from typing import Annotated, Any

from foldwise.command import Folder, Of, Output, run, stage
from foldwise.experiment.examine import examine
from foldwise.experiment.settings import Experiment
from foldwise.files import write_json
from foldwise.systems.base import System


@stage
def check(
    *,
    system: System[Any, Any],
    settings: Annotated[Experiment, Of()],
    counts: Annotated[Folder, "JSON file with the stored sizes of networks"],
    out: Annotated[Output, "findings to write (.json)"],
) -> None:
    """Check everything and write check.json."""
    facts, lines = examine(system, settings, counts)
    write_json(out, facts)
    for warning in facts["warnings"]:
        print(f"warning: {warning}")
    print("\n".join(lines))


if __name__ == "__main__":
    run(check.main)
