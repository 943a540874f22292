"""Jobs in Slurm's queue, and their experiments; on a cluster: tests/slurm/test_status.py."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from foldwise.status import Job, note_run, queue


def test_a_job_belongs_to_the_experiment_whose_call_named_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue = tmp_path / "squeue"
    jobs = "7|PENDING|(Priority)|foldwise_a|rule_train", "8|RUNNING|gpu1|foldwise_b|rule_train"
    squeue.write_text("#!/bin/sh\n" + "".join(f"echo '{job}'\n" for job in jobs), encoding="utf-8")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    first, second, nothing = (tmp_path / name / "state" / "runs.txt" for name in "abc")
    for runs, name in ((first, "old"), (first, "foldwise_a"), (second, "foldwise_b")):
        note_run(runs, SimpleNamespace(run_uuid=name))
    note_run(nothing, SimpleNamespace())  # jobs run on this machine
    waiting, running = Job("7", "PENDING", "(Priority)"), Job("8", "RUNNING", "gpu1")
    assert queue(first) == {"7": waiting, "8": running, "rule_train": waiting}
    assert queue(second) == {"7": waiting, "8": running, "rule_train": running}
    assert queue(nothing) == {"7": waiting, "8": running}
