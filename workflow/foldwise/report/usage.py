"""Resources that jobs requested and used: from Slurm's accounting, else from Snakemake's benchmarks."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from foldwise.processes import output_of
from foldwise.sampling import joined, read_from
from foldwise.training.attempts import Attempts

# The first line of a stage's log, see foldwise.command.run.
JOB = re.compile(r"Slurm job (\d+)")
FIELDS = [
    "JobIDRaw",
    "State",
    "ElapsedRaw",
    "TimelimitRaw",
    "ReqMem",
    "MaxRSS",
    "TotalCPU",
    "AllocCPUS",
    "AllocTRES",
]
# Number of jobs per call, which limits the command line's length.
AT_ONCE = 1000
# The report does not wait longer for Slurm's accounting. s.
ANSWER_S = 300


def usage(experiment: Path, data: Path) -> pd.DataFrame:
    """A row per rule, in the order of names; empty if nothing is known.

    Args:
        experiment: results/<experiment>, with logs, state and benchmarks.
        data: folder of the prepared data, with logs.

    Returns:
        Columns rule; jobs; failed, those that did not complete; minutes and mib, maximum used by a job;
        minutes_asked and mib_asked, maximum requested by a job; cpu, the share of the processors' time that
        was used; gpus, per job; gpu_hours; gpu_busy, the share of the time in which GPUs computed; gpu_mib,
        maximum in use on one of them.
    """
    rules, busy = told([experiment / "logs", data / "logs"], experiment / "state")
    jobs = accounted(list(rules)) if rules else pd.DataFrame()
    table = (
        by_rule(jobs, rules) if len(jobs) else benchmarked([experiment / "benchmarks", data / "benchmarks"])
    )
    if busy:
        sampled = pd.DataFrame(
            [
                {"rule": rule, "gpu_busy": each["busy"], "gpu_mib": each["peak_mib"]}
                for rule, each in busy.items()
            ]
        )
        # Rules without a benchmark, too.
        table = table.merge(sampled, how="outer") if len(table) else sampled
    elif len(table):
        held = [pd.read_csv(log)["peak_gpu_mib"].max() for log in sorted(experiment.glob("*/fold*/log.csv"))]
        table.loc[table["rule"] == "train", "gpu_mib"] = max(held, default=0) or None
    return table


def told(logs: Iterable[Path], state: Path) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """What stages' logs and the histories of training tell: which jobs there were, and how busy their GPUs.

    Args:
        logs: folders with a log, or a folder of logs, for each rule.
        state: folder of the checkpoints; Snakemake keeps only the log of a rule's last attempt.

    Returns:
        Slurm's job ids → rules; rule → the facts of all of its jobs, see `sampling.joined`.
    """
    rules: dict[str, str] = {}
    busy: dict[str, list[dict[str, Any]]] = {}
    for folder in logs:
        for path in sorted(folder.rglob("*.log")):
            name = path.relative_to(folder).parts[0].removesuffix(".log")
            rule, text = "prepare_part" if name == "parts" else name, path.read_text("utf-8", "replace")
            for job in JOB.findall(text):
                # A part's job runs the rules of its cases.
                if rules.get(job) != "prepare_part":
                    rules[job] = rule
            busy.setdefault(rule, []).extend(read_from(text))
    histories = [row for path in state.rglob("attempts.jsonl") for row in Attempts(path, 1).rows()]
    rules |= {str(row["slurm_job_id"]): "train" for row in histories if row["slurm_job_id"]}
    if attempts := [row["gpu"] for row in histories if "gpu" in row]:
        busy["train"] = attempts
    return rules, {rule: facts for rule, parts in sorted(busy.items()) if (facts := joined(parts))}


def accounted(jobs: Sequence[str]) -> pd.DataFrame:
    """The report of `sacct`, one row per known job; empty without Slurm or its accounting."""
    if shutil.which("sacct") is None:
        return pd.DataFrame()
    text = ""
    for first in range(0, len(jobs), AT_ONCE):
        command = ["sacct", "--parsable2", "--noheader", "--units=M", f"--format={','.join(FIELDS)}"]
        ids = ",".join(jobs[first : first + AT_ONCE])
        try:
            text += output_of([*command, f"--jobs={ids}"], timeout=ANSWER_S)
        except subprocess.SubprocessError:
            return pd.DataFrame()
    return parsed(text)


def parsed(text: str) -> pd.DataFrame:
    """A row per job from sacct's lines, in which a job is followed by its steps, named <job>.<step>.

    Returns:
        Columns job, state, minutes, minutes_asked, mib, mib_asked, cpu_s, cpus, gpus.
    """
    known: dict[str, dict[str, float | str | None]] = {}
    for line in text.splitlines():
        row = dict(zip(FIELDS, line.split("|"), strict=True))
        job, _, step = row["JobIDRaw"].partition(".")
        used = _number(row["MaxRSS"])
        if step:
            if job in known and used is not None:
                known[job]["mib"] = max(used, float(known[job]["mib"] or 0))
            continue
        cpus = int(row["AllocCPUS"] or 0)
        asked = _number(row["ReqMem"])
        known[job] = {
            "job": job,
            "state": row["State"].split(" ")[0],
            "minutes": (_number(row["ElapsedRaw"]) or 0) / 60,
            "minutes_asked": _number(row["TimelimitRaw"]),
            "mib": None,
            # Before Slurm 21.08, the letter c means per processor.
            "mib_asked": asked * cpus if asked is not None and row["ReqMem"].endswith("c") else asked,
            "cpu_s": _seconds(row["TotalCPU"]),
            "cpus": cpus,
            "gpus": _number(re.sub(r".*gres/gpu=(\d+).*|.*", r"\1", row["AllocTRES"])) or 0,
        }
    return pd.DataFrame(known.values())


def by_rule(jobs: pd.DataFrame, rules: Mapping[str, str]) -> pd.DataFrame:
    """Jobs joined by their rule; see `usage`."""
    rows = []
    for rule, group in jobs.groupby(jobs["job"].map(rules)):
        given = (60 * group["minutes"] * group["cpus"]).sum()
        rows.append(
            {
                "rule": rule,
                "jobs": len(group),
                "failed": int((~group["state"].isin(["COMPLETED", "RUNNING"])).sum()),
                **group[["minutes", "minutes_asked", "mib", "mib_asked", "gpus"]].astype(float).max(),
                "cpu": group["cpu_s"].sum() / given if given else None,
                "gpu_hours": (group["minutes"] * group["gpus"]).sum() / 60 or None,
            }
        )
    return pd.DataFrame(rows)


def benchmarked(folders: Iterable[Path]) -> pd.DataFrame:
    """Snakemake's measurements of rules with a `benchmark`; these have no requests."""
    rows = []
    for folder in folders:
        for rule in sorted(path for path in folder.glob("*") if path.is_dir()):
            read = [found for path in rule.rglob("*.tsv") if (found := _measured(path)) is not None]
            if len(table := pd.concat(read or [pd.DataFrame()])):
                row = {"rule": rule.name, "jobs": len(table), "minutes": table["s"].max() / 60}
                rows.append(row | {"mib": table["max_pss"].max()})
    return pd.DataFrame(rows).sort_values("rule") if rows else pd.DataFrame()


def _measured(path: Path) -> pd.DataFrame | None:
    """A measurement; None for a file that a killed job or a full disk left."""
    try:
        table = pd.read_csv(path, sep="\t", na_values="-")
    except (OSError, ValueError):
        return None
    return table if {"s", "max_pss"} <= {*table} else None


def _number(text: str) -> float | None:
    """The number at the start of a text; none in "", "UNLIMITED" or "Partition_Limit"."""
    found = re.match(r"[\d.]+", text)
    return float(found.group()) if found else None


def _seconds(text: str) -> float:
    """Seconds of [days-][hours:]minutes:seconds."""
    days, _, rest = text.rpartition("-")
    seconds = 0.0
    for part in rest.split(":"):
        seconds = 60 * seconds + float(part or 0)
    return 86400 * float(days or 0) + seconds
