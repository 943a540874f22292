"""Where a result came from, as JSON next to it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from foldwise import __version__
from foldwise.files import file_hash, short_hash
from foldwise.places import IS_INSTALLED
from foldwise.processes import output_of
from foldwise.sampling import sampled


def provenance(settings: Any, inputs: Sequence[Path], **more: Any) -> dict[str, Any]:
    """Code, settings, inputs, packages and machine of the current process, as plain values.

    Args:
        settings: the settings in force.
        inputs: files that determine the result; their SHA-256 is stored.
        more: anything else, e.g. seed and attempts.
    """
    rows = more.get("attempts", [])
    now = os.environ.get("SLURM_JOB_ID")
    jobs = [row["slurm_job_id"] for row in rows if row.get("slurm_job_id")] + ([now] if now else [])
    return {
        "foldwise": __version__,
        "commit": _commit(),
        "settings_hash": short_hash(settings, 16),
        "settings": settings,
        "inputs": {str(path): file_hash(path) for path in inputs},
        "python": platform.python_version(),
        "packages": packages(),
        "host": platform.node(),
        "slurm_job_ids": list(dict.fromkeys(jobs)),
        "gpu": sampled(),
        "command": sys.argv,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **more,
    }


def packages() -> dict[str, str | None]:
    """Version of each direct requirement, None if it is missing.

    Where Foldwise is not installed itself, e.g. in an environment of Snakemake's, of every installed package.
    """
    found = importlib.metadata.distributions()
    installed: dict[str, str | None] = {canonicalize_name(one.name): one.version for one in found}
    try:
        required = importlib.metadata.requires("foldwise")
    except importlib.metadata.PackageNotFoundError:
        required = None
    if not required:
        return installed
    names = [Requirement(line).name for line in required]
    return {name: installed.get(canonicalize_name(name)) for name in names}


def _commit() -> str | None:
    """The checkout's commit, with `-dirty` for local changes; None outside a checkout or without git."""
    if IS_INSTALLED:  # perhaps within the repository of something else
        return None
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return output_of(command, timeout=None, folder=Path(__file__).parent).strip()
    except (OSError, subprocess.CalledProcessError):
        return None
