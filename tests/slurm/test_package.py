"""The installed package, outside of a checkout, with the profile that it brings."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from experiments import EXPERIMENT, add_case
from slurm_cluster import Cluster, finished_jobs


@pytest.mark.slurm
@pytest.mark.slow
def test_run_with_the_profile_of_the_package(slurm_cluster: Cluster, site: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my scans"
    folder.mkdir()
    for number in range(4):
        add_case(folder, number)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(EXPERIMENT), encoding="utf-8")
    # Jobs take seconds, but the plugin would first check them after 40 s.
    quick = ["--slurm-init-seconds-before-status-checks=6", "--max-status-checks-per-second=1"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "foldwise", "run", "tiny.yaml", "results/tiny/unet/fold0/model.pt"),
            *("--profile", "slurm", *quick),
            *("--latency-wait", "10", "--set-scatter", "prepare=1"),
        ],
        cwd=folder,
        env=slurm_cluster.env | {"PYTHONPATH": str(site)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    jobs = finished_jobs(slurm_cluster, folder, 3)
    held = {name.split("_wildcards")[0]: "gres/gpu=1" in job["AllocTRES"] for name, job in jobs.items()}
    assert held == {"rule_prepare_part": False, "rule_index": False, "rule_train": True}
    log = (folder / "results" / "tiny" / "logs" / "train" / "unet_fold0.log").read_text(encoding="utf-8")
    assert "device: CPU" in log
