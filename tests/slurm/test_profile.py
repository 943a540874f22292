"""The throwaway cluster, and profiles/slurm on it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

import slurm_cluster as module
from foldwise.cluster import _minutes
from slurm_cluster import Cluster, UnavailableError, cluster, finished_jobs, wait_until

PROFILE = Path(__file__).parents[2] / "profiles" / "slurm"

# Named like rules of the workflow, since the profile knows these: it gives `train` a GPU.
SNAKEFILE = """\
rule all:
    input:
        "train.txt", "crop.txt", "test.txt"

rule train:
    output:
        "train.txt"
    shell:
        "echo GPU=$CUDA_VISIBLE_DEVICES > {output}"

rule crop:
    input:
        "s $(touch X) `touch X` ü&;.txt"
    output:
        "crop.txt"
    shell:
        "echo GPU=${{CUDA_VISIBLE_DEVICES-}} > {output}"

rule test:
    output:
        "test.txt"
    shell:
        "echo this went wrong; exit 3"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Working folder, with names that no shell may interpret."""
    project = tmp_path / "it's [mine] (1)"
    project.mkdir()
    (project / "Snakefile").write_text(SNAKEFILE)
    (project / "s $(touch X) `touch X` ü&;.txt").touch()
    return project


@pytest.mark.slurm
def test_profile_gives_gpus_to_gpu_rules_and_keeps_logs(slurm_cluster: Cluster, folder: Path) -> None:
    snakemake = [sys.executable, "-m", "snakemake", "--profile", str(PROFILE)]
    # These jobs take five seconds; the plugin would first check them after forty.
    quick = ["--slurm-init-seconds-before-status-checks=6", "--max-status-checks-per-second=1"]
    done = subprocess.run(
        [*snakemake, *quick, "--latency-wait", "5"],
        cwd=folder,
        env=slurm_cluster.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=600,
    )

    jobs = finished_jobs(slurm_cluster, folder, 3)
    assert "gres/gpu=1" in jobs["rule_train"]["AllocTRES"], done.stdout
    assert jobs["rule_train"]["Partition"] == "gpu"
    assert (folder / "train.txt").read_text().strip() in {"GPU=0", "GPU=1"}

    assert "gres/gpu" not in jobs["rule_crop"]["AllocTRES"]
    assert "mem=2000M" in jobs["rule_crop"]["AllocTRES"]
    assert jobs["rule_crop"]["Partition"] == "cpu"
    assert jobs["rule_crop"]["Timelimit"] == "01:00:00"
    assert (folder / "crop.txt").read_text() == "GPU=\n"

    assert not (folder / "X").exists()
    assert done.returncode != 0
    assert jobs["rule_test"]["State"] == "FAILED"
    logs = {path.parent.name: path for path in (folder / "logs" / "slurm").rglob("*.log")}
    assert set(logs) == {"rule_train", "rule_crop", "rule_test"}
    assert "this went wrong" in logs["rule_test"].read_text()
    assert str(logs["rule_test"]) in done.stdout


@pytest.mark.slurm
def test_the_generic_profile_sends_a_comment_and_tells_states(
    slurm_cluster: Cluster, folder: Path, tmp_path: Path
) -> None:
    """For sites that require flags that the Slurm executor refuses."""
    profile = shutil.copytree(PROFILE.with_name("slurm-generic"), tmp_path / "my $(touch X) profile")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--profile", str(profile)),
            *("--latency-wait", "5", "--seconds-between-status-checks", "1"),
        ],
        cwd=folder,
        env=slurm_cluster.env | {"USER": "somebody"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=600,
    )
    fields = ["JobName", "State", "Partition", "AllocTRES", "Comment", "WorkDir"]

    def jobs() -> dict[str, dict[str, str]]:
        here = [job for job in slurm_cluster.sacct(fields) if job["WorkDir"] == str(folder)]
        return {job["JobName"]: job for job in here if job["State"] in ("COMPLETED", "FAILED")}

    wait_until(lambda: len(jobs()) == 3)
    found = jobs()
    assert {job["Comment"] for job in found.values()} == {"somebody"}, done.stdout
    assert "gres/gpu=1" in found["foldwise-train"]["AllocTRES"]
    assert found["foldwise-train"]["Partition"] == "gpu"
    assert "gres/gpu" not in found["foldwise-crop"]["AllocTRES"]
    assert (folder / "crop.txt").exists()
    assert not (folder / "X").exists()
    assert done.returncode != 0
    assert found["foldwise-test"]["State"] == "FAILED"
    (log,) = (folder / "logs" / "slurm" / "test").glob("*.log")
    assert "this went wrong" in log.read_text()


@pytest.mark.slurm
def test_a_profile_is_written_from_what_slurm_says(
    slurm_cluster: Cluster, folder: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "foldwise.cluster", str(tmp_path / "mine")]
    done = subprocess.run(command, env=slurm_cluster.env, capture_output=True, encoding="utf-8", check=True)
    profile = yaml.safe_load((tmp_path / "mine" / "config.yaml").read_text(encoding="utf-8"))
    assert "slurm_partition" not in (tmp_path / "mine" / "config.yaml").read_text(encoding="utf-8")
    assert profile["set-resources"]["train"] == {"gres": "gpu:1"}
    # From the cluster's configuration: 8 processors and 16000 MiB per node, two GPUs on nodes of `gpu`.
    assert (
        "partition gpu (8 processors and 16000 MiB per node, gpu:h200:2 per node, no time limit)"
        in done.stdout
    )
    jobs = {"max_threads": 8, "max_mem_mb": 16000}
    limits = yaml.safe_load((tmp_path / "mine" / "partitions.yaml").read_text(encoding="utf-8"))
    assert limits == {"partitions": {"cpu": jobs, "gpu": {**jobs, "max_gpu": 2}}}
    again = subprocess.run(command, env=slurm_cluster.env, capture_output=True, encoding="utf-8")
    assert again.returncode == 1
    assert "exists already" in again.stderr
    # Jobs find their partitions by what they request.
    snakemake = [
        sys.executable,
        "-m",
        "snakemake",
        "--profile",
        str(tmp_path / "mine"),
        "--latency-wait",
        "5",
    ]
    quick = ["--slurm-init-seconds-before-status-checks=6", "--max-status-checks-per-second=1"]
    subprocess.run([*snakemake, *quick], cwd=folder, env=slurm_cluster.env, timeout=600)
    ran = finished_jobs(slurm_cluster, folder, 3)
    where = {name: ran[f"rule_{name}"]["Partition"] for name in ("train", "crop")}
    assert where == {"train": "gpu", "crop": "cpu"}


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [("infinite", None), ("30:00", 30), ("1:00:00", 60), ("2-00:00:00", 2880), ("1-12:30:00", 2190)],
)
def test_time_limits_of_sinfo(limit: str, minutes: int | None) -> None:
    assert _minutes(limit) == minutes


@pytest.mark.slurm
def test_jobs_of_a_stopped_node_fail_and_it_comes_back(slurm_cluster: Cluster) -> None:
    submit = ["sbatch", "--parsable", "--no-requeue", "--output=/dev/null", "--mem=100"]
    job = slurm_cluster.run(*submit, "--wrap=sleep 612").strip()

    def state() -> str:
        jobs = slurm_cluster.sacct(["JobID", "State"])
        return next((row["State"] for row in jobs if row["JobID"] == job), "")

    wait_until(lambda: state() == "RUNNING")
    slurm_cluster.stop_node("cpu1")
    wait_until(lambda: state() == "NODE_FAIL")
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "612"]]

    slurm_cluster.start_node("cpu1")
    node = ["srun", "--partition=cpu", "--mem=100", "printenv", "SLURMD_NODENAME"]
    assert slurm_cluster.run(*node) == "cpu1\n"


@pytest.mark.slurm
def test_second_cluster_is_refused(slurm_cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="is up"), cluster(tmp_path):
        pass
    assert "is UP" in slurm_cluster.run("scontrol", "ping")


@pytest.fixture
def system_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replaces /etc/slurm/slurm.conf, and its folder replaces /etc/slurm."""
    config = tmp_path / "system" / "slurm.conf"
    config.parent.mkdir()
    monkeypatch.setattr(module, "SYSTEM_CONFIG", config)
    monkeypatch.setattr(module, "MARKER", config.with_name("marker.json"))
    return config


@pytest.mark.parametrize("leftover", [False, True])
def test_foreign_config_is_never_touched(system_config: Path, tmp_path: Path, leftover: bool) -> None:
    system_config.write_text("ClusterName=theirs\n")
    if leftover:
        module.MARKER.write_text(json.dumps({"folder": str(tmp_path / "gone"), "kept": False}))
    before = {path: path.read_text() for path in system_config.parent.iterdir()}

    with pytest.raises(UnavailableError, match="its own Slurm"), cluster(tmp_path):
        pass

    assert {path: path.read_text() for path in system_config.parent.iterdir()} == before
    assert not (tmp_path / "slurm").exists()


@pytest.mark.slurm
def test_leftover_of_a_killed_run_is_replaced(
    slurm_cluster: Cluster, system_config: Path, tmp_path: Path
) -> None:
    killed, new = tmp_path / "killed", tmp_path / "new"
    module.MARKER.write_text(json.dumps({"folder": str(killed), "kept": False}))
    system_config.symlink_to(killed / "etc" / "slurm.conf")
    daemon = subprocess.Popen(["sleep", "300"], env=os.environ | {module.OWN: str(killed)})
    # Popen returns when the old program's files are closed: its environment may follow later.
    wait_until(lambda: bool(module._processes(killed)))

    with module._claim(new, kept=False):
        assert not psutil.pid_exists(daemon.pid)
        assert not system_config.is_symlink()
        assert json.loads(module.MARKER.read_text())["folder"] == str(new)
    daemon.wait()
