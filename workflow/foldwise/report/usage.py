"""What jobs asked for and used: from Slurm's accounting, else from Snakemake's benchmarks."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from foldwise.processes import output_of
from foldwise.training.attempts import Attempts

# A stage's log says so in its first line, see foldwise.command.run.
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
# So many jobs are asked for in one call, for the sake of the command line's length.
AT_ONCE = 1000
# An accounting that does not answer in this time holds up no report. s.
ANSWER_S = 300


def usage(experiment: Path, data: Path) -> pd.DataFrame:
    """A row per rule, in the order of the names; empty where nothing is known.

    Args:
        experiment: results/<experiment>, with logs, state and benchmarks.
        data: folder of the prepared data, with logs.

    Returns:
        Columns rule; jobs; failed, those that did not complete; minutes and mib, the most that a job used;
        minutes_asked and mib_asked, the most that one asked for; cpu, the share of the processors' time that
        was used; gpus, of a job; gpu_hours; gpu_mib, the most that training held.
    """
    rules = job_rules([experiment / "logs", data / "logs"], experiment / "state")
    jobs = accounted(list(rules)) if rules else pd.DataFrame()
    table = (
        by_rule(jobs, rules) if len(jobs) else benchmarked([experiment / "benchmarks", data / "benchmarks"])
    )
    if len(table):
        held = [pd.read_csv(log)["peak_gpu_mib"].max() for log in sorted(experiment.glob("*/fold*/log.csv"))]
        table.loc[table["rule"] == "train", "gpu_mib"] = max(held, default=0) or None
    return table


def job_rules(logs: Iterable[Path], state: Path) -> dict[str, str]:
    """Slurm's job ids → rules, as the stages' own logs and the histories of training tell them.

    Args:
        logs: folders with a log, or a folder of logs, for each rule.
        state: folder of the checkpoints; Snakemake keeps the log of a rule's last attempt alone.
    """
    rules: dict[str, str] = {}
    for folder in logs:
        for path in sorted(folder.rglob("*.log")):
            rule = path.relative_to(folder).parts[0].removesuffix(".log")
            for job in JOB.findall(path.read_text(encoding="utf-8", errors="replace")):
                # A part's job runs the rules of its cases.
                if rules.get(job) != "prepare_part":
                    rules[job] = "prepare_part" if rule == "parts" else rule
    for path in state.rglob("attempts.jsonl"):
        rules |= {
            str(row["slurm_job_id"]): "train" for row in Attempts(path, 1).rows() if row["slurm_job_id"]
        }
    return rules


def accounted(jobs: Sequence[str]) -> pd.DataFrame:
    """What `sacct` says of jobs, a row for each that it knows; empty without Slurm or its accounting."""
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
    """A row per job from sacct's lines, in which the steps of a job follow it, named <job>.<step>.

    Returns:
        Columns job, state, minutes, minutes_asked, mib, mib_asked, cpu_s, cpus, gpus.
    """
    made: dict[str, dict[str, float | str | None]] = {}
    for line in text.splitlines():
        row = dict(zip(FIELDS, line.split("|"), strict=True))
        job, _, step = row["JobIDRaw"].partition(".")
        used = _number(row["MaxRSS"])
        if step:
            if job in made and used is not None:
                made[job]["mib"] = max(used, float(made[job]["mib"] or 0))
            continue
        cpus = int(row["AllocCPUS"] or 0)
        asked = _number(row["ReqMem"])
        made[job] = {
            "job": job,
            "state": row["State"].split(" ")[0],
            "minutes": (_number(row["ElapsedRaw"]) or 0) / 60,
            "minutes_asked": _number(row["TimelimitRaw"]),
            "mib": None,
            # Before Slurm 21.08 with the letter c it is meant per processor.
            "mib_asked": asked * cpus if asked is not None and row["ReqMem"].endswith("c") else asked,
            "cpu_s": _seconds(row["TotalCPU"]),
            "cpus": cpus,
            "gpus": _number(re.sub(r".*gres/gpu=(\d+).*|.*", r"\1", row["AllocTRES"])) or 0,
        }
    return pd.DataFrame(made.values())


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
    """What Snakemake measured of the rules that have a `benchmark`; nothing was asked for there."""
    rows = []
    for folder in folders:
        for rule in sorted(path for path in folder.glob("*") if path.is_dir()):
            table = pd.concat(
                [pd.read_csv(path, sep="\t", na_values="-") for path in rule.rglob("*.tsv")]
                or [pd.DataFrame()]
            )
            if len(table):
                row = {"rule": rule.name, "jobs": len(table), "minutes": table["s"].max() / 60}
                rows.append(row | {"mib": table["max_pss"].max()})
    return pd.DataFrame(rows).sort_values("rule") if rows else pd.DataFrame()


def _number(text: str) -> float | None:
    """The number that a text begins with; none in "", "UNLIMITED" or "Partition_Limit"."""
    found = re.match(r"[\d.]+", text)
    return float(found.group()) if found else None


def _seconds(text: str) -> float:
    """Seconds of [days-][hours:]minutes:seconds."""
    days, _, rest = text.rpartition("-")
    seconds = 0.0
    for part in rest.split(":"):
        seconds = 60 * seconds + float(part or 0)
    return 86400 * float(days or 0) + seconds
