"""The lung experiment as Slurm jobs on a real cluster: GPUs of jobs, kept files, and failures."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from foldwise.volumes.phantom import make_phantom
from foldwise.volumes.volume import read_volume, write_volume
from slurm_cluster import Cluster, finished_jobs
from warm import python

ROOT = Path(__file__).parents[2]
# Changes to experiments/lung.yaml: as small as possible.
TINY = {
    "cache": {"spacing": [6, 6, 6]},
    "split": {"folds": 2},
    "models": {
        "unet": {
            "network": {"features": [4, 4, 8, 8, 8, 4]},
            "patch": [32, 32, 32],
            "training": {
                "epochs": 1,
                "steps_per_epoch": 2,
                "validate_every": 1,
                "validation": {"samples": 2},
            },
        }
    },
}
# Validation cases are predicted and scored, too, since they choose the post-processing.
GPU_RULES = {"train": 2, "test": 4, "ensemble": 1}
CPU_RULES = {
    "check": 1,
    # The four training cases, and the one without a label.
    "prepare_part": 2,
    "index": 1,
    "score": 5,
    "metrics": 3,
    "export": 3,
    "choose": 1,
    "report": 1,
}


def submit(cluster: Cluster, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return subprocess.run(
        [
            # From the root of the checkout, as in the README.
            *(python(), "-m", "snakemake", "--profile", "slurm", "--directory", str(folder)),
            *("--configfile", "experiments/lung.yaml", str(folder / "tiny.yaml")),
            # Jobs take seconds, but the plugin would first check them after 40 s.
            *("--slurm-init-seconds-before-status-checks=6", "--max-status-checks-per-second=1"),
            *("--latency-wait", "10", "--set-scatter", "prepare=1", *more),
        ],
        cwd=ROOT,
        env=cluster.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=800,
    )


@pytest.mark.slurm
@pytest.mark.slow
def test_the_lung_experiment_runs_as_slurm_jobs(slurm_cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows = ["case,group,image,label"]
    for number in range(1, 6):
        name = f"p{number:02d}"
        phantom = make_phantom(name, (4.0, 4.0, 4.0))
        write_volume(phantom.image, tmp_path / "data" / f"{name}.nii.gz")
        write_volume(phantom.label, tmp_path / "data" / f"{name}_l.nii.gz")
        label = f"{name}_l.nii.gz" if number < 5 else ""
        rows.append(f"{name},{name},{name}.nii.gz,{label}")
    (tmp_path / "data" / "lung.csv").write_text("\n".join(rows) + "\n")

    done = submit(slurm_cluster, tmp_path)
    assert done.returncode == 0, done.stdout[-6000:]
    expected = GPU_RULES | CPU_RULES
    jobs = finished_jobs(slurm_cluster, tmp_path, sum(expected.values()))
    for rule, count in expected.items():
        mine = [job for comment, job in jobs.items() if comment.split("_wildcards")[0] == f"rule_{rule}"]
        assert len(mine) == count, rule
        for job in mine:
            assert job["State"] == "COMPLETED"
            assert ("gres/gpu=1" in job["AllocTRES"]) == (rule in GPU_RULES), (rule, job)
            assert job["Partition"] == ("gpu" if rule in GPU_RULES else "cpu")
    for rule, count in expected.items():
        assert len(list((tmp_path / "logs" / "slurm" / f"rule_{rule}").rglob("*.log"))) == count, rule

    out = tmp_path / "results" / "lung"
    assert (
        json.loads((out / "summary.json").read_text(encoding="utf-8"))["models"]["unet"]["tumour"]["dice"][
            "n"
        ]
        == 4
    )
    provenance = json.loads((out / "unet" / "fold0" / "provenance.json").read_text(encoding="utf-8"))
    assert provenance["slurm_job_ids"]
    exported = read_volume(out / "unet" / "ensemble" / "export" / "p05.nii.gz")
    source = read_volume(tmp_path / "data" / "p05.nii.gz")
    assert np.array_equal(exported.affine, source.affine)

    # A job that fails names its log, and keeps it: here a crop is broken behind the workflow's back.
    (facts,) = (tmp_path / "results" / "data").glob("*/crop-*/p01/crop.json")
    facts.write_text("{")
    failed = submit(slurm_cluster, tmp_path, "--forcerun", "index", "--until", "index")
    assert failed.returncode != 0
    assert "logs/slurm/rule_index" in failed.stdout
    assert "crop.json: not readable as JSON" in (out / "logs" / "index.log").read_text(encoding="utf-8")
