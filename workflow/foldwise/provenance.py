"""Where a result came from, as JSON next to it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foldwise import __version__
from foldwise.files import file_hash, short_hash
from foldwise.processes import output_of
from foldwise.sampling import sampled

# Direct requirements of Foldwise, in a checkout.
REQUIREMENTS = Path(__file__).parents[2] / "envs" / "requirements.in"


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
    """Version of each direct requirement, None if missing; outside a checkout, of every installed package."""
    installed = {_plain(one.name): one.version for one in importlib.metadata.distributions()}
    if not REQUIREMENTS.exists():
        return {**installed}
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return {name: installed.get(_plain(name)) for name in names}


def _plain(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _commit() -> str | None:
    """The checkout's commit, with `-dirty` for local changes; None outside a checkout or without git."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return output_of(command, timeout=None, folder=Path(__file__).parent).strip()
    except (OSError, subprocess.CalledProcessError):
        return None
