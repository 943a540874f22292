"""Prepare a part of an experiment's cases in one job, by the same rules as one by one.

A case that fails names itself in the log and takes no other one with it; what is done already is left alone.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from foldwise.command import Output, run, stage
from foldwise.files import CaseError, write_json, write_text

SNAKEFILE = Path(__file__).parents[3] / "Snakefile"


@stage
def prepare_part(
    *,
    settings: Annotated[dict[str, Any], "of the experiment, what preparation depends on; as JSON"],
    part: Annotated[str, "name of the part, e.g. training_3of30"],
    target: Annotated[Literal["indexed", "prepared"], "how far"] = "prepared",
    rules: Annotated[list[str], "rules that prepare a case"],
    cores: Annotated[int, "cases at a time"] = 1,
    mem_mib: Annotated[int | None, "memory that they may take together, in MiB"] = None,
    marker: Annotated[Output, "what says that the part is done (.json)"],
) -> None:
    """Run the rules of a part's cases."""
    with tempfile.TemporaryDirectory(prefix="foldwise-") as scratch:
        config = Path(scratch) / "part.json"
        write_json(config, {**settings, "part": part})
        command = [
            *(sys.executable, "-m", "snakemake", target, "--snakefile", str(SNAKEFILE)),
            *("--configfile", str(config), "--allowed-rules", target, *rules),
            # The job's own Snakemake holds the lock, and other parts write beside this one.
            *("--nolock", "--rerun-incomplete", "--keep-going", "--show-failed-logs"),
            *("--quiet", "progress", "--cores", str(cores)),
            *(("--resources", f"mem_mb={mem_mib}") if mem_mib else ()),
        ]
        done = subprocess.run(command)
    if done.returncode:
        raise CaseError(f"part {part}: not all of its cases could be prepared; the log above names them")
    write_text(marker, "{}\n")
    logging.info("part %s is prepared", part)


if __name__ == "__main__":
    run(prepare_part.main)
