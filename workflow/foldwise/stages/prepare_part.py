"""Prepare a part of an experiment's cases in one job, by the same rules as single cases.

A failing case is named in the log and does not affect the others; finished cases are left alone.
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
from foldwise.places import SNAKEFILE


@stage(gpus=lambda values: values.get("devices", 0))
def prepare_part(
    *,
    settings: Annotated[dict[str, Any], "settings that preparation depends on, as JSON"],
    part: Annotated[str, "name of the part, e.g. training_3of30"],
    target: Annotated[Literal["indexed", "prepared"], "target"] = "prepared",
    rules: Annotated[list[str], "rules that prepare a case"],
    cores: Annotated[int, "cases at once"] = 1,
    mem_mib: Annotated[int | None, "memory that they may take together, in MiB"] = None,
    devices: Annotated[int, "number of GPUs that they share"] = 0,
    marker: Annotated[Output, "marker to write when the part is done (.json)"],
) -> None:
    """Run the rules of a part's cases."""
    with tempfile.TemporaryDirectory(prefix="foldwise-") as scratch:
        config = Path(scratch) / "part.json"
        write_json(config, {**settings, "part": part})
        command = [
            *(sys.executable, "-m", "snakemake", target, "--snakefile", str(SNAKEFILE)),
            *("--configfile", str(config), "--allowed-rules", target, *rules),
            # The job's own Snakemake holds the lock, and other parts write at the same time.
            *("--nolock", "--rerun-incomplete", "--keep-going", "--show-failed-logs"),
            *("--quiet", "progress", "--cores", str(cores)),
            # Each time that a job ends, Snakemake looks at all inputs of the jobs that could start.
            *("--scheduler-subsample", str(max(8, 2 * cores))),
            *(("--resources", f"mem_mb={mem_mib}") if mem_mib else ()),
        ]
        done = subprocess.run(command)
    if done.returncode:
        raise CaseError(f"part {part}: not all of its cases could be prepared; the log above names them")
    write_text(marker, "{}\n")
    logging.info("part %s is prepared", part)


if __name__ == "__main__":
    run(prepare_part.main)
