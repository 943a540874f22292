"""Faults on a real cluster: training continues after each, and its model equals that of an undisturbed run.

Every fault has a separate folder and call of Snakemake; most run at the same time, since they mostly wait.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import torch

from experiments import add_case, snakemake
from foldwise.training.attempts import Attempts
from slurm_cluster import Cluster

ROOT = Path(__file__).parents[2]
PER_EPOCH = 10
SETTINGS: dict[str, Any] = {
    "network": {"name": "BasicUNet", "features": [8, 8, 16, 16, 32, 8]},
    "patch": [32, 32, 32],
    # A checkpoint at each validation, after each epoch.
    "training": {
        "epochs": 8,
        "steps_per_epoch": PER_EPOCH,
        "batch": 2,
        "validate_every": 1,
        "validation": {"samples": 2},
    },
}
EXPERIMENT: dict[str, Any] = {
    "experiment": "tiny",
    "data": {"sheet": "cases.csv", "labels": {"ball": 5}},
    "split": {"folds": 2},
    "models": {"unet": SETTINGS},
}
# Also tried with two minutes; shorter here to save time. s.
OUTAGE_S = float(os.environ.get("FOLDWISE_OUTAGE_S", "30"))
# `--set-resources` replaces the profile's list.
GPU = ("train:slurm_partition=gpu", "train:gres=gpu:1")
CPU = ("train:slurm_partition=cpu",)
# In the run's folder, found before the real tqdm; the code after it also runs in the training.
SHIM = """\
import sys
import threading
import time
from pathlib import Path

here = sys.path.pop(0)
del sys.modules["tqdm"]
import tqdm

sys.path.insert(0, here)
"""
# A job with a GPU requests at least 3,300 MiB; half as much again is enough for this and the rest.
LEAK = f"""{SHIM}
held = []


def leak(attempts):
    while not attempts.exists():
        time.sleep(0.2)
    held.append(b"1" * (3300 << 20))


if "foldwise.stages.train" in sys.orig_argv:
    state = Path(next(word for word in sys.orig_argv if word.startswith("--state=")).partition("=")[2])
    threading.Thread(target=leak, args=(state / "attempts.jsonl",), daemon=True).start()
"""
# From the third epoch of a job on, PAUSE is done after each step.
PAUSE = f"""{SHIM}
hold, update, steps = Path("hold").absolute(), tqdm.tqdm.update, []


def wait(bar, n=1):
    update(bar, n)
    steps.append(n)
    if len(steps) > {2 * PER_EPOCH}:
        PAUSE


if "foldwise.stages.train" in sys.orig_argv:
    tqdm.tqdm.update = wait
"""
# Until its fault has struck, however busy the machine is.
HOLD = PAUSE.replace("PAUSE", "[time.sleep(0.1) for _ in iter(hold.exists, False)]")
# A step takes so long that a job of a minute does not get to the end of a third epoch.
SLOW = PAUSE.replace("PAUSE", "time.sleep(5)")


@dataclass
class Workflow:
    """A call of Snakemake that trains one model on one fold on the cluster.

    Attributes:
        struck: id of the job hit by the fault.
        seen: steps in its checkpoint at that time.
    """

    cluster: Cluster
    folder: Path
    struck: str = ""
    seen: int = 0
    resources: tuple[str, ...] = GPU
    status: tuple[str, ...] = ("--max-status-checks-per-second", "0.5")

    def start(self) -> subprocess.Popen[str]:
        self.log = (self.folder / "snakemake.log").open("a")
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
                "results/tiny/unet/fold0/model.pt",
                *("--profile", str(ROOT / "profiles" / "slurm"), "--set-threads", "train=1"),
                *("--slurm-init-seconds-before-status-checks=6", *self.status, "--latency-wait", "10"),
                *("--set-resources", *self.resources),
                *("--configfile", "experiment.yaml"),
            ],
            cwd=self.folder,
            env=self.cluster.env,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )

    @property
    def said(self) -> str:
        return (self.folder / "snakemake.log").read_text()

    @property
    def state(self) -> Path:
        return self.folder / "results" / "tiny" / "state" / "unet" / "fold0" / "train"

    def rows(self, event: str = "start") -> list[dict[str, Any]]:
        return [row for row in Attempts(self.state / "attempts.jsonl", 1).rows() if row["event"] == event]

    @property
    def saved(self) -> int:
        """Steps in the checkpoint, according to the log written with it."""
        logs = list(self.state.glob("*/log.csv"))
        return int(pd.read_csv(logs[0])["step"].iloc[-1]) if logs else 0

    def trains(self, epochs: int = 2) -> str:
        """Wait until this many epochs are saved; returns the id of the training job."""
        self.until(lambda: self.saved >= epochs * PER_EPOCH)
        self.seen, self.struck = self.saved, str(self.rows()[-1]["slurm_job_id"])
        return self.struck

    def release(self) -> None:
        """After the fault, training need not wait any more."""
        self.until(lambda: self.state_of(self.struck) != "RUNNING")
        self.free()

    def free(self) -> None:
        (self.folder / "hold").unlink()

    def until(self, condition: Callable[[], bool], seconds: float = 900) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.said[-3000:]
            time.sleep(0.3)

    def trainer(self) -> psutil.Process:
        """The process of the training, not the shells around it."""
        for process in psutil.process_iter(["cmdline", "cwd"]):
            if process.info["cwd"] == str(self.folder) and "foldwise.stages.train" in (
                process.info["cmdline"] or ()
            ):
                return process
        raise AssertionError("nothing trains")

    def state_of(self, number: str) -> str:
        return self.cluster.run("squeue", "--noheader", f"--jobs={number}", "--format=%T").strip()

    def ends(self, process: subprocess.Popen[str], code: int = 0) -> None:
        assert process.wait(timeout=600) == code, self.said[-3000:]

    def job(self, number: str, field: str) -> str:
        """A field of a job in the accounting, e.g. State."""
        rows = self.cluster.sacct(["JobID", field])
        return next((row[field] for row in rows if row["JobID"] == number), "")

    def equals(self, undisturbed: Path) -> None:
        """Weights and log are those of a run that nothing disturbed, to the last bit."""
        place = Path("results") / "tiny" / "unet" / "fold0"
        mine, theirs = (
            torch.load(folder / place / "model.pt", weights_only=True)
            for folder in (self.folder, undisturbed)
        )
        assert mine["epoch"] == theirs["epoch"]
        for name, weights in theirs["network"].items():
            assert torch.equal(mine["network"][name], weights), name
        logs = [pd.read_csv(folder / place / "log.csv") for folder in (self.folder, undisturbed)]
        columns = ["epoch", "step", "loss", "val_dice"]
        pd.testing.assert_frame_equal(logs[0][columns], logs[1][columns], check_exact=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished local run; its folder without the model is where faults begin."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for number in range(4):
        add_case(folder, number)
    snakemake(folder, EXPERIMENT, "results/tiny/unet/fold0/model.pt")
    return folder


@pytest.fixture(scope="module")
def begun(
    slurm_cluster: Cluster, undisturbed: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Workflow]:
    """Prepares folders in which nothing is trained yet."""

    def make(name: str, stand_in: str = HOLD, **more: Any) -> Workflow:
        folder = tmp_path_factory.mktemp(name) / "run"
        shutil.copytree(undisturbed, folder, ignore=shutil.ignore_patterns("unet", "train"))
        (folder / "tqdm.py").write_text(stand_in)
        (folder / "hold").touch()
        return Workflow(slurm_cluster, folder, **more)

    return make


@pytest.fixture(scope="module")
def faults(begun: Callable[..., Workflow]) -> Iterator[dict[str, Future[Workflow]]]:
    """All faults that do not affect the others, started at the same time."""
    scenarios = (
        timeout, sigkill, requeue, cancelled, leak, full_disk, dead_node, main_killed, two_at_once
    )  # fmt: skip
    with ThreadPoolExecutor(len(scenarios)) as pool:
        yield {scenario.__name__: pool.submit(scenario, begun) for scenario in scenarios}


@pytest.fixture
def alone(faults: dict[str, Future[Workflow]], begun: Callable[..., Workflow]) -> Callable[..., Workflow]:
    """As `begun`, after all the other faults: a job of a minute has no time for others' work."""
    for other in faults.values():
        other.exception()
    return begun


def timeout(begun: Callable[..., Workflow]) -> Workflow:
    """Slurm's limit is shorter than the rule's runtime says."""
    made = begun("timeout")
    process = made.start()
    made.cluster.run("scontrol", "update", f"jobid={made.trains()}", "endtime=now")
    made.release()
    made.ends(process)
    return made


def sigkill(begun: Callable[..., Workflow]) -> Workflow:
    workflow = begun("sigkill")
    process = workflow.start()
    workflow.trains()
    workflow.trainer().kill()
    workflow.free()
    workflow.ends(process)
    return workflow


def requeue(begun: Callable[..., Workflow]) -> Workflow:
    workflow = begun("requeue")
    process = workflow.start()
    workflow.cluster.run("scontrol", "requeue", workflow.trains())
    workflow.release()
    workflow.ends(process)
    return workflow


def cancelled(begun: Callable[..., Workflow]) -> Workflow:
    workflow = begun("cancelled")
    process = workflow.start()
    workflow.cluster.run("scancel", workflow.trains())
    workflow.release()
    workflow.ends(process)
    return workflow


def leak(begun: Callable[..., Workflow]) -> Workflow:
    """More memory than the job asked for; the next attempt's is enough."""
    made = begun("leak", LEAK)
    made.ends(made.start())
    return made


def full_disk(begun: Callable[..., Workflow]) -> Workflow:
    """The disk of the checkpoints fills up, and space is freed after the first failure."""
    workflow = begun("disk")
    workflow.state.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", workflow.state], check=True)
    try:
        process = workflow.start()
        workflow.trains()
        with (workflow.state / "ballast").open("wb", buffering=0) as ballast:
            try:
                while ballast.write(bytes(4096)):
                    pass
            except OSError:
                pass
        workflow.free()
        workflow.until(lambda: bool(workflow.rows("error")))
        (workflow.state / "ballast").unlink()
        workflow.ends(process)
        shutil.copytree(workflow.state, workflow.folder / "kept")
    finally:
        subprocess.run(["umount", "--lazy", workflow.state], check=True)
    shutil.copytree(workflow.folder / "kept", workflow.state, dirs_exist_ok=True)
    return workflow


def dead_node(begun: Callable[..., Workflow]) -> Workflow:
    """In a separate partition; the others' jobs run on nodes with GPUs."""
    workflow = begun("node", resources=CPU)
    process = workflow.start()
    workflow.trains()
    workflow.cluster.stop_node("cpu1")
    workflow.until(lambda: workflow.state_of(workflow.struck) == "PENDING")
    workflow.release()
    workflow.cluster.start_node("cpu1")
    workflow.ends(process)
    return workflow


def main_killed(begun: Callable[..., Workflow]) -> Workflow:
    """The main Snakemake dies, its job runs on, and Snakemake is called again."""
    workflow = begun("main")
    process = workflow.start()
    workflow.trains(1)
    process.kill()
    process.wait()
    workflow.free()
    subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--unlock",
         "--configfile", "experiment.yaml"],
        cwd=workflow.folder, env=workflow.cluster.env, check=True, capture_output=True,
    )  # fmt: skip
    workflow.ends(workflow.start())
    return workflow


def two_at_once(begun: Callable[..., Workflow]) -> Workflow:
    workflow = begun("two")
    process = workflow.start()
    workflow.until(lambda: bool(workflow.rows()))
    workflow.ends(workflow.start(), 1)
    workflow.free()
    workflow.ends(process)
    return workflow


def goes_on(workflow: Workflow, undisturbed: Path) -> list[dict[str, Any]]:
    """The starts, before and after the fault; less than an epoch was lost."""
    workflow.equals(undisturbed)
    rows = workflow.rows()
    assert rows[0]["step"] == 0
    assert rows[1]["step"] >= workflow.seen > 0
    return rows


@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.timeout(1800)
class TestFaults:
    """Each ends with the weights of an undisturbed run, bit for bit."""

    def test_a_training_longer_than_its_limit_takes_four_jobs(
        self, alone: Callable[..., Workflow], undisturbed: Path
    ) -> None:
        workflow = alone("limit", SLOW, resources=(*GPU, "train:runtime=1"))
        # On a busy machine, ten jobs of a minute may not be enough; a second call continues.
        while workflow.start().wait(timeout=1400):
            assert len(workflow.rows()) < 30, workflow.said[-3000:]
        workflow.equals(undisturbed)
        rows = workflow.rows()
        jobs = [str(row["slurm_job_id"]) for row in rows]
        assert len(set(jobs)) == len(jobs) >= 4
        # It saved its state each time, and no step was done twice.
        stops = [row["step"] for row in workflow.rows("stopped")]
        assert [row["step"] for row in rows[1:]] == stops
        # On a busy machine, the Snakemake around a training that stopped in time may end after the limit.
        assert {workflow.job(job, "State") for job in jobs[:-1]} <= {"FAILED", "TIMEOUT"}
        assert {workflow.job(job, "Timelimit") for job in jobs} == {"00:01:00"}

    def test_a_limit_that_strikes_unforeseen(
        self, faults: dict[str, Future[Workflow]], undisturbed: Path
    ) -> None:
        workflow = faults["timeout"].result()
        goes_on(workflow, undisturbed)
        assert workflow.job(workflow.struck, "State") == "TIMEOUT"

    def test_sigkill(self, faults: dict[str, Future[Workflow]], undisturbed: Path) -> None:
        workflow = faults["sigkill"].result()
        rows = goes_on(workflow, undisturbed)
        assert len(rows) == 2
        assert workflow.job(workflow.struck, "State") == "FAILED"

    def test_requeue(self, faults: dict[str, Future[Workflow]], undisturbed: Path) -> None:
        workflow = faults["requeue"].result()
        rows = goes_on(workflow, undisturbed)
        assert {str(row["slurm_job_id"]) for row in rows} == {workflow.struck}

    def test_dead_node(self, faults: dict[str, Future[Workflow]], undisturbed: Path) -> None:
        workflow = faults["dead_node"].result()
        rows = goes_on(workflow, undisturbed)
        assert {str(row["slurm_job_id"]) for row in rows} == {workflow.struck}

    def test_cancelled_from_outside(self, faults: dict[str, Future[Workflow]], undisturbed: Path) -> None:
        workflow = faults["cancelled"].result()
        goes_on(workflow, undisturbed)
        assert workflow.job(workflow.struck, "State").startswith("CANCELLED")

    def test_out_of_memory(self, faults: dict[str, Future[Workflow]], undisturbed: Path) -> None:
        workflow = faults["leak"].result()
        workflow.equals(undisturbed)
        fields = ["JobID", "State", "ReqMem", "WorkDir"]
        first, second = (
            job for job in workflow.cluster.sacct(fields) if job["WorkDir"] == str(workflow.folder)
        )
        assert (first["ReqMem"], second["ReqMem"]) == ("3300M", "4800M")
        assert second["State"] == "COMPLETED"
        said = "".join(path.read_text() for path in (workflow.cluster.folder / "log").glob("gpu*.log"))
        assert f"StepId={first['JobID']}.0 exceeded memory limit" in said

    def test_full_disk(self, faults: dict[str, Future[Workflow]], undisturbed: Path) -> None:
        workflow = faults["full_disk"].result()
        goes_on(workflow, undisturbed)
        (error,) = workflow.rows("error")
        assert "the checkpoint could not be written" in error["traceback"]

    def test_main_killed(self, faults: dict[str, Future[Workflow]], undisturbed: Path) -> None:
        workflow = faults["main_killed"].result()
        workflow.equals(undisturbed)
        # The first job did all the work; the second one waited for it.
        assert [row["step"] for row in workflow.rows("finished")] == [8 * PER_EPOCH]
        assert workflow.job(workflow.struck, "State") == "COMPLETED"

    def test_two_at_once(self, faults: dict[str, Future[Workflow]], undisturbed: Path) -> None:
        workflow = faults["two_at_once"].result()
        workflow.equals(undisturbed)
        assert "cannot be locked" in workflow.said
        assert len(workflow.rows()) == 1


@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_controller_for_a_while(alone: Callable[..., Workflow], undisturbed: Path) -> None:
    # As the profile has it: 30 attempts, 10 s apart, which outlast five minutes.
    made = alone("controller", status=("--max-status-checks-per-second", "0.1"))
    process = made.start()
    made.trains()
    made.cluster.stop_controller()
    time.sleep(OUTAGE_S)
    made.cluster.start_controller()
    made.free()
    made.ends(process)
    made.equals(undisturbed)
    assert len(made.rows()) == 1
