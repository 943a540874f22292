"""Slurm: its programs, and what it offers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from foldwise.doctor.finding import Finding

PROGRAMS = ("sinfo", "sbatch", "squeue", "scancel")
# Partitions that profiles/slurm names.
NAMED = {"cpu", "gpu"}
# A training that gets less is continued too often. Minutes.
SHORT_MIN = 60


def slurm() -> Iterator[Finding]:
    """Programs and partitions, with time limits and generic resources."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if len(missing) == len(PROGRAMS):
        yield Finding("Slurm", "ok", "none here: jobs run on this machine")
        return
    if missing:
        todo = "call from a login node, or load the cluster's module for Slurm"
        yield Finding("Slurm", "warning", f"{', '.join(missing)} not found", todo)
        return
    from foldwise.cluster import default_minutes, partitions
    from foldwise.files import CaseError

    try:
        found, defaults = partitions(), default_minutes()
    except CaseError as error:
        todo = "ask the cluster's admin whether Slurm runs; without a cluster, remove its programs"
        yield Finding("Slurm", "warning", str(error), todo)
        return
    for one in found:
        most = _time(one.minutes)
        given = defaults.get(one.name, one.minutes)
        limit = (
            f"jobs get {_time(given)} unless they ask, and {most} at most" if given != one.minutes else most
        )
        cpus, mib, _ = one.most
        text = f"{limit}; nodes with up to {cpus} processors, {mib / 1024:.0f} GiB" + (
            f", {one.gpus}" if one.gpus else ", no GPU"
        )
        short = one.minutes is not None and one.minutes < SHORT_MIN
        todo = "set `runtime` of train and test in the profile to less than that" if short else ""
        name = f"partition {one.name}{' (default)' if one.default else ''}"
        yield Finding(name, "warning" if short else "ok", text, todo)
    todo = "write a profile for this cluster: python -m foldwise.cluster profiles/mine"
    if NAMED - {one.name for one in found}:
        yield Finding(
            "profile slurm", "warning", "names the partitions cpu and gpu, which are not both here", todo
        )
    if not any(one.gpus for one in found):
        yield Finding("Slurm", "warning", "no partition has GPUs: all jobs compute on CPUs", todo)


def _time(minutes: int | None) -> str:
    if minutes is None:
        return "no time limit"
    days, rest = divmod(minutes, 1440)
    return f"{days} d {rest // 60} h" if days else f"{rest // 60} h {rest % 60:02d} min"
