"""Prepare a part of an experiment's cases in one job, as single jobs would.

Cases share processes, and a network is loaded once, if the system says what its rules ask of their stages;
otherwise Snakemake runs the rules for these cases. A failing case is named in the log and does not affect the
others; finished cases are left alone.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from foldwise.command import Output, request, run, stage
from foldwise.experiment.open import Opened, open_experiment
from foldwise.files import CaseError, read_json, refuse_failed, write_json, write_text
from foldwise.places import SNAKEFILE
from foldwise.together import Refused, Request, answer


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
    attempt: Annotated[int, "number of the try, from 1"] = 1,
    marker: Annotated[Output, "marker to write when the part is done (.json)"],
) -> None:
    """Prepare the part's cases."""
    opened = open_experiment({**settings, "part": part}, main=False)
    if opened.preparation.together:
        # What is wrong with a case's files does not change from one try to the next.
        noted = marker.with_suffix(".refused")
        known = read_json(noted) if attempt > 1 and noted.exists() else {}
        failed = prepare_together(opened, cores, rules, known)
        refused = {case: why for case, why in failed.items() if case in known or isinstance(why, Refused)}
        write_json(noted, refused)
        refuse_failed(failed, list(opened.cases))
        noted.unlink()
    else:
        _by_rules({**settings, "part": part}, target, rules, cores, mem_mib)
    write_text(marker, "{}\n")
    logging.info("part %s is prepared", part)


def prepare_together(
    opened: Opened[Any, Any],
    cores: int,
    rules: Collection[str] | None = None,
    refused: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Prepare an experiment's cases by processes that prepare one case after another.

    Args:
        opened: the experiment, e.g. with the cases of a part.
        cores: that may be used.
        rules: the stages; None: all.
        refused: cases that are not tried, and why.

    Returns:
        Case → why it failed, those included.
    """
    failed = dict(refused or {})
    settings, mark = opened.settings, opened.paths.stale
    device = settings.device if settings.device != "auto" else None
    for name, each in opened.preparation.stages.items():
        if rules is not None and name not in rules:
            continue
        assert each.asked is not None, "all stages say what they are asked"
        requests = []
        for case in opened.cases:
            depends = opened.depends.case(name, case)
            for asked in each.asked(case) if case not in failed else ():
                words = request(**asked.values, depends=depends, results=settings.results, device=device)
                inputs = [*asked.inputs, *([mark] if Path(mark).exists() else [])]
                requests.append(Request(case, words, asked.log, inputs, asked.outputs))
        needed = [each for each in requests if each.is_needed]
        logging.info("%s: %d of %d files are there", name, len(requests) - len(needed), len(requests))
        # A network uses all cores, and other processes would load it again.
        processes, threads = (1, cores) if each.neural else (cores, 1)
        failed |= answer(name, needed, processes, threads)
    return failed


def _by_rules(
    settings: dict[str, Any], target: str, rules: list[str], cores: int, mem_mib: int | None
) -> None:
    """Run the rules of a part's cases in Snakemake."""
    with tempfile.TemporaryDirectory(prefix="foldwise-") as scratch:
        config = Path(scratch) / "part.json"
        write_json(config, settings)
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
        part = settings["part"]
        raise CaseError(f"part {part}: not all of its cases could be prepared; the log above names them")


if __name__ == "__main__":
    run(prepare_part.main)
