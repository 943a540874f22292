"""The history of the attempts at one training: an append-only file next to the checkpoints."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

from foldwise.errors import writing
from foldwise.files import CaseError
from foldwise.sampling import joined, sampled


class Attempts:
    """Every start, end and error of a training run, over all its jobs.

    A failure that repeats without progress is a bug, not bad luck: `start` refuses a third try within one
    call of Snakemake, whose first attempt (`number` 1) starts the count again. Attempts with other settings
    or data (another fingerprint) do not count.
    """

    def __init__(self, path: Path, number: int, fingerprint: str = "") -> None:
        self.path = path
        self.number = number
        self.fingerprint = fingerprint

    def start(self, step: int) -> None:
        """Record a start.

        Raises:
            CaseError: the two previous attempts failed, the second at no later step than the first.
        """
        if self.number > 1:
            own = _of_training(self.rows(), self.fingerprint)
            ended = [row for row in own if row["event"] != "start"][-2:]
            errors = [row for row in ended if row["event"] == "error"]
            if len(errors) == 2 and errors[1]["step"] <= errors[0]["step"]:
                raise CaseError(
                    f"two attempts failed at step {errors[1]['step']} without progress; not tried again. "
                    f"The first error was:\n{errors[0]['traceback']}"
                )
        self.note("start", step)

    def note(self, event: str, step: int, **more: Any) -> None:
        """Append a row: start, stopped, error or finished."""
        row = {
            "event": event,
            "step": step,
            "fingerprint": self.fingerprint,
            "attempt": self.number,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
            "host": os.uname().nodename,
            "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
            **more,
        }
        if event != "start" and (gpu := sampled()):
            row["gpu"] = gpu
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with writing(self.path, self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    @property
    def killed(self) -> int:
        """How often a job of this training ended without a record, e.g. by SIGKILL when out of memory.

        A job that Slurm requeues continues under the same id, and is not counted.
        """
        rows = self.rows()
        rows = _of_training(rows, rows[-1].get("fingerprint", "")) if rows else []
        return sum(
            row["event"] == "start"
            and (after is None or (after["event"] == "start" and not _same_job(row, after)))
            for row, after in zip_longest(rows, rows[1:])
        )

    @property
    def gpu(self) -> dict[str, Any] | None:
        """How busy the GPUs were in all attempts at this training but killed ones; None without a GPU."""
        return joined(row.get("gpu") for row in _of_training(self.rows(), self.fingerprint))

    def rows(self) -> list[dict[str, Any]]:
        """All rows; a last line truncated by a kill is skipped."""
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                if isinstance(row := json.loads(line), dict):
                    rows.append(row)
        return rows


def _of_training(rows: list[dict[str, Any]], fingerprint: str) -> list[dict[str, Any]]:
    return [row for row in rows if row.get("fingerprint", "") == fingerprint]


def _same_job(row: dict[str, Any], other: dict[str, Any]) -> bool:
    return row["slurm_job_id"] is not None and row["slurm_job_id"] == other["slurm_job_id"]
