"""Requested and used resources: values from hand-written accounting lines, and rules from logs."""

from pathlib import Path

import pandas as pd
import pytest

from foldwise.report.usage import by_rule, parsed, told, usage
from foldwise.training.attempts import Attempts

# In the order of the fields; steps follow their job. Job 7: 30 of 60 minutes, 2 of 4 processors busy.
LINES = """\
7|COMPLETED|1800|60|3300M||01:00:00|4|billing=4,cpu=4,gres/gpu=2,mem=3300M,node=1
7.batch|COMPLETED|1800|||812.50M|00:00:10|4|cpu=4,gres/gpu=2,mem=3300M,node=1
7.0|COMPLETED|1790|||2100M|00:59:50|4|cpu=4,gres/gpu=2,mem=3300M,node=1
8|CANCELLED by 0|3600|60|3300M||2-00:00:00|4|billing=4,cpu=4,gres/gpu=2,mem=3300M,node=1
9|COMPLETED|90|UNLIMITED|500Mc||01:30.500|2|billing=2,cpu=2,mem=1000M,node=1
9.batch|COMPLETED|90|||90.25M|01:30.500|2|cpu=2,mem=1000M,node=1
"""


def test_accounting_lines_by_rule() -> None:
    jobs = parsed(LINES)
    assert jobs["cpu_s"].tolist() == [3600, 172800, 90.5]
    table = by_rule(jobs, {"7": "train", "8": "train", "9": "index"}).set_index("rule")
    train, index = table.loc["train"], table.loc["index"]
    assert (train["jobs"], train["failed"], train["minutes"], train["minutes_asked"]) == (2, 1, 60, 60)
    assert (train["mib"], train["mib_asked"], train["gpus"]) == (2100, 3300, 2)
    # Half an hour and an hour on two GPUs.
    assert train["gpu_hours"] == pytest.approx(3)
    # 176400 s of work in 90 minutes of 4 processors.
    assert train["cpu"] == pytest.approx((3600 + 172800) / (90 * 60 * 4))
    assert index["mib_asked"] == 1000
    assert pd.isna(index["minutes_asked"])
    assert index["cpu"] == pytest.approx(90.5 / 180)


def test_rules_of_jobs_are_told_by_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, job in (("experiment/index.log", 3), ("data/crop/a.log", 4), ("data/parts/cache_0.log", 4)):
        path = tmp_path / "logs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"12:00:00 INFO Slurm job {job} on node1\n", encoding="utf-8")
    attempts = Attempts(tmp_path / "state" / "unet" / "fold0" / "train" / "attempts.jsonl", 1)
    for number in ("5", "6"):
        monkeypatch.setenv("SLURM_JOB_ID", number)
        attempts.note("start", 0)
    folders = [tmp_path / "logs" / "experiment", tmp_path / "logs" / "data"]
    rules, _ = told(folders, tmp_path / "state")
    assert rules == {"3": "index", "4": "prepare_part", "5": "train", "6": "train"}


def test_without_slurm_benchmarks_tell(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks" / "train"
    folder.mkdir(parents=True)
    for fold, seconds in enumerate((60, 150)):
        (folder / f"unet_fold{fold}.tsv").write_text(f"s\tmax_pss\n{seconds}\t{900 - fold}\n")
    table = usage(tmp_path, tmp_path / "data")
    assert table[["rule", "jobs", "minutes", "mib"]].values.tolist() == [["train", 2, 2.5, 900]]
    assert usage(tmp_path / "nothing", tmp_path / "data").empty
