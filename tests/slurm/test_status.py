"""Which jobs in Slurm's queue `foldwise status` calls an experiment's own."""

import subprocess
from pathlib import Path

import pytest
import yaml

from experiments import EXPERIMENT, ROOT, add_case
from slurm_cluster import Cluster, wait_until
from warm import python


@pytest.mark.slurm
@pytest.mark.slow
def test_two_experiments_with_one_model_name_in_one_folder(slurm_cluster: Cluster, tmp_path: Path) -> None:
    for number in range(4):
        add_case(tmp_path, number)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(EXPERIMENT), encoding="utf-8")
    (tmp_path / "other.yaml").write_text(
        yaml.safe_dump(EXPERIMENT | {"experiment": "other"}), encoding="utf-8"
    )
    snakemake = [python(), "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    settings = ["--set-scatter", "prepare=1", "--configfile", "tiny.yaml"]

    def call(*words: str) -> list[str]:
        return [*snakemake, *words, *settings]

    subprocess.run(call("--cores", "2", "results/tiny/index.pkl"), cwd=tmp_path, check=True)
    submitted = subprocess.Popen(
        [
            *call("results/tiny/unet/fold0/model.pt", "--profile", str(ROOT / "profiles" / "slurm")),
            # Held, so that it waits for as long as the test looks.
            *("--set-resources", "train:slurm_extra=--hold", "--set-threads", "train=1"),
            *("--slurm-init-seconds-before-status-checks=6", "--max-status-checks-per-second=1"),
        ],
        cwd=tmp_path,
        env=slurm_cluster.env,
    )

    def row(experiment: str) -> str:
        status = [python(), "-m", "foldwise", "status", f"{experiment}.yaml"]
        done = subprocess.run(
            status, cwd=tmp_path, env=slurm_cluster.env, capture_output=True, encoding="utf-8", check=True
        )
        return next(line for line in done.stdout.splitlines() if line.startswith("unet"))

    try:
        here = ["squeue", "--noheader", "--format=%k|%Z"]
        wait_until(lambda: f"rule_train_wildcards_unet_0|{tmp_path}" in slurm_cluster.run(*here))
        mine, others = row("tiny"), row("other")
        assert "queued" in mine
        assert "PENDING" in mine
        assert "waiting" in others
        assert "PENDING" not in others
    finally:
        # Told to end, Snakemake waits for its jobs.
        submitted.terminate()
        slurm_cluster.run("scancel", "--me")
        submitted.wait(100)
