"""A throwaway Slurm cluster on this machine: three nodes, fake GPUs, accounting.

`cpu1` is in partition `cpu` (the default one); `gpu1` and `gpu2`, with two fake GPUs each, are in
partition `gpu`. Jobs hold GPUs and see CUDA_VISIBLE_DEVICES as usual; no device is behind it.

Everything is in one folder except two entries of /etc/slurm: `slurm.conf`, a link into that folder
(needed there, since the job step of Snakemake's Slurm plugin drops SLURM_CONF), and a marker that
names its owner. A machine with its own Slurm is never touched.

To keep a cluster running while developing::

    python tests/helpers/slurm_cluster.py up DIR      # DIR must not exist yet
    python tests/helpers/slurm_cluster.py down DIR    # deletes DIR
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

SYSTEM_CONFIG = Path("/etc/slurm/slurm.conf")
MARKER = SYSTEM_CONFIG.with_name("foldwise-test-cluster.json")
CLIENTS = ["sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo", "sacct", "sacctmgr"]
DAEMONS = ["munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd"]
NODES = ["cpu1", "gpu1", "gpu2"]

# Mark a cluster's processes: both are in the environment of daemons, clients and jobs.
# slurmstepd, the parent of each job's processes, keeps SLURM_CONF and the second one only.
OWN = "FOLDWISE_TEST_CLUSTER"
NODE = "SLURMD_NODENAME"

SLURM_CONF = """\
ClusterName=foldwise
SlurmctldHost=localhost
SlurmctldPort={slurmctld}
SlurmUser=root
SlurmdUser=root
# Slurm's daemons run jobs as root: only users who can read the key may command them, and only from here.
AuthType=auth/munge
# A requeued job starts again only after its first credential has expired: here, soon. s.
AuthInfo=socket={folder}/munge.sock,cred_expire=10
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/log/%n.steps.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
# Small jobs must not wait for the scheduler's next round.
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
ReturnToService=2
KillWait=10
MinJobAge=300
JobAcctGatherType=jobacct_gather/linux
# No cgroups: memory is sampled every two seconds, and jobs above their request are killed.
JobAcctGatherFrequency=task=2
JobAcctGatherParams=UsePss,OverMemoryKill
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={slurmdbd}
AccountingStoragePass={folder}/munge.sock
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
# Nodes may have more processors than this machine.
SlurmdParameters=config_overrides
NodeName=DEFAULT CPUs=8 RealMemory=16000
NodeName=cpu1 NodeHostname=localhost Port={cpu1}
NodeName=gpu1 NodeHostname=localhost Port={gpu1} Gres=gpu:h200:2
NodeName=gpu2 NodeHostname=localhost Port={gpu2} Gres=gpu:h200:2
PartitionName=cpu Nodes=cpu1 Default=YES MaxTime=INFINITE
PartitionName=gpu Nodes=gpu[1-2] MaxTime=INFINITE
"""

GRES_CONF = """\
NodeName=gpu1 Name=gpu Type=h200 File={folder}/gpu1/gpu[0-1]
NodeName=gpu2 Name=gpu Type=h200 File={folder}/gpu2/gpu[0-1]
"""

# The database's socket is set in slurmdbd's environment: this file has no key for it.
SLURMDBD_CONF = """\
DbdHost=localhost
DbdPort={slurmdbd}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
"""


class UnavailableError(Exception):
    """No cluster can or may be started here; the message gives the reason."""


class ClusterError(Exception):
    """The cluster failed to do what was requested; the message contains its programs' output."""


class Cluster:
    """A running cluster, see `cluster`.

    Attributes:
        folder: configuration (`etc/`), logs (`log/`), state and database of all daemons.
        env: environment for Slurm's clients and for Snakemake.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        others = ("SLURM", "SBATCH_", "SRUN_", "SALLOC_", "SACCT_", "SQUEUE_", "SINFO_")
        self.env = {key: value for key, value in os.environ.items() if not key.startswith(others)}
        self.env |= {"PATH": _search_path(), OWN: str(folder)}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, *command: str) -> str:
        """Run one of Slurm's clients, e.g. `run("scontrol", "requeue", "7")`; returns its output.

        Raises:
            ClusterError: it failed.
        """
        done = subprocess.run(command, env=self.env, capture_output=True, encoding="utf-8", timeout=60)
        if done.returncode:
            raise ClusterError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        return done.stdout

    def sacct(self, fields: Sequence[str]) -> list[dict[str, str]]:
        """Ask the accounting database for all jobs so far, oldest first, without their steps.

        The database follows the controller within seconds: poll for entries that do not exist yet.

        Args:
            fields: names for `sacct --format`, e.g. `["JobID", "State", "AllocTRES", "Comment"]`;
                they are the keys of each job's dictionary.
        """
        options = ["--allocations", "--parsable2", "--noheader", "--starttime=now-7days"]
        table = self.run("sacct", *options, f"--format={','.join(fields)}")
        return [dict(zip(fields, row.split("|"), strict=True)) for row in table.splitlines()]

    def stop_node(self, name: str) -> None:
        """Power off a node: its daemon and jobs are killed, and the controller is informed at once."""
        _kill(self.folder, name)
        self.run("scontrol", "update", f"nodename={name}", "state=down", "reason=test")

    def start_node(self, name: str) -> None:
        """Bring a stopped node back; returns when it accepts jobs."""
        self._launch_node(name)
        self._await(name, partial(self._is_up, name))

    def stop_controller(self) -> None:
        """Kill the controller and the accounting daemon; nodes and their jobs continue."""
        for label in ("slurmctld", "slurmdbd"):
            self._daemons[label].kill()
            self._daemons[label].wait()

    def start_controller(self) -> None:
        """Bring both back, with their previous state; returns when all nodes accept jobs."""
        self._launch("slurmdbd", "-D", MYSQL_UNIX_PORT=str(self.folder / "db.sock"))
        # Without it the controller ends again, unless it has saved its earlier information.
        self._await("slurmdbd", lambda: "foldwise" in self.run("sacctmgr", "--noheader", "show", "cluster"))
        self._launch("slurmctld", "-D")
        for name in NODES:
            self._await("slurmctld", partial(self._is_up, name))

    def start(self) -> None:
        """Start all daemons in the folder; returns when all nodes accept jobs."""
        munge, database = self.folder / "munge.sock", self.folder / "db.sock"
        files = [f"--{kind}-file={self.folder}/munge.{kind}" for kind in ("key", "pid", "seed")]
        # Forced, since folders above may be private or open to all, as temporary ones are.
        self._launch("munged", "--foreground", "--force", f"--socket={munge}", *files)

        # Root, recognised through the socket, is the only user: no password, no port.
        options = ["--no-defaults", "--user=root", f"--datadir={self.folder}/db"]
        root_only = ["--auth-root-authentication-method=socket", "--auth-root-socket-user=root"]
        self.run("mariadb-install-db", *options, *root_only, "--skip-test-db")
        self._launch("mariadbd", *options, "--skip-networking", f"--socket={database}")
        self._await("munged", munge.exists)
        self._await("mariadbd", database.exists)

        self._launch("slurmdbd", "-D", MYSQL_UNIX_PORT=str(database))
        self._await("slurmdbd", self._is_accounting)
        self._launch("slurmctld", "-D")
        for name in NODES:
            self._launch_node(name)
        for name in NODES:
            self._await(name, partial(self._is_up, name))

    def _launch_node(self, name: str) -> None:
        self._launch("slurmd", "-D", "-N", name, label=name, **{NODE: name})

    def _launch(self, program: str, *options: str, label: str = "", **environment: str) -> None:
        """Start a daemon in a separate session, out of reach of a terminal's Ctrl-C."""
        label = label or program
        config = self.folder / "etc" / "slurm.conf"
        with self._log(label).open("ab") as log:
            self._daemons[label] = subprocess.Popen(
                [program, *options],
                env=self.env | {"SLURM_CONF": str(config)} | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _await(self, label: str, ready: Callable[[], bool]) -> None:
        """Poll until `ready` returns true; failures at first count as "not yet"."""
        deadline = time.monotonic() + 60
        while True:
            refusal = ""
            try:
                if ready():
                    return
            except ClusterError as error:
                refusal = str(error)
            if self._daemons[label].poll() is not None or time.monotonic() > deadline:
                log = self._log(label).read_text(errors="replace")
                raise ClusterError(f"{label} did not start. {refusal}\n{log[-3000:]}")
            time.sleep(0.1)

    def _is_accounting(self) -> bool:
        return bool(self.run("sacctmgr", "--immediate", "add", "cluster", "foldwise"))

    def _is_up(self, name: str) -> bool:
        state = self.run("sinfo", "--noheader", f"--nodes={name}", "--format=%T")
        return state.strip() in {"idle", "mixed", "allocated"}

    def _log(self, label: str) -> Path:
        return self.folder / "log" / f"{label}.log"


@contextmanager
def cluster(tmp: Path) -> Iterator[Cluster]:
    """A cluster for the duration of a `with` block, in a new folder `slurm` of `tmp`.

    When the block ends, also by Ctrl-C or SIGTERM, all daemons and jobs are killed and /etc/slurm
    is as before; the folder is kept for its logs. The next run cleans up after a killed one.

    Raises:
        UnavailableError: Slurm's programs or root's rights are missing, the machine has a Slurm of
            its own, or another of these clusters is running.
        ClusterError: it did not start.
    """
    folder = tmp.resolve() / "slurm"
    with _claim(folder, kept=False), _terminated_like_interrupted():
        try:
            yield _start(folder)
        finally:
            _remove(folder)


def up(folder: Path) -> None:
    """Start a cluster in a new folder that runs until `down`; raises the same as `cluster`."""
    with _claim(folder, kept=True), _terminated_like_interrupted():
        try:
            _start(folder)
        except BaseException:
            _remove(folder)
            raise


def down(folder: Path) -> None:
    """Stop the cluster that `up` started in `folder`, and delete the folder.

    Raises:
        UnavailableError: there is no such cluster.
    """
    if _marked().get("folder") != str(folder):
        raise UnavailableError(f"no cluster was started in {folder}")
    _remove(folder)
    shutil.rmtree(folder)


@contextmanager
def _claim(folder: Path, *, kept: bool) -> Iterator[None]:
    """Mark /etc/slurm as ours, if there is no other Slurm here; clean up after a killed run.

    The marker is locked during the life of the process that wrote it; a kept cluster outlives it.
    """
    _refuse_unsuitable_machine()
    MARKER.parent.mkdir(exist_ok=True)
    with MARKER.open("a+") as marker:
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnavailableError("the cluster of another run is up") from None
        if earlier := _marked():
            left = Path(earlier["folder"])
            if earlier["kept"] and _processes(left):
                raise UnavailableError(f"a cluster is up: python {__file__} down {left}")
            _kill(left)
            SYSTEM_CONFIG.unlink(missing_ok=True)
        marker.truncate(0)
        json.dump({"folder": str(folder), "kept": kept}, marker)
        marker.flush()
        yield


def _refuse_unsuitable_machine() -> None:
    ours = f"{_marked().get('folder')}/etc/slurm.conf"
    if os.path.lexists(SYSTEM_CONFIG) and os.path.realpath(SYSTEM_CONFIG) != ours:
        raise UnavailableError(f"{SYSTEM_CONFIG} exists: this machine has its own Slurm")
    for process in psutil.process_iter(["name", "environ"]):
        name, environment = process.info["name"], process.info["environ"] or {}
        if name in {"slurmctld", "slurmd", "slurmdbd"} and OWN not in environment:
            raise UnavailableError(f"{name} is running: this machine has its own Slurm")
    if os.geteuid() != 0:
        raise UnavailableError("Slurm's daemons need root")
    missing = [name for name in CLIENTS + DAEMONS if not shutil.which(name, path=_search_path())]
    if missing:
        raise UnavailableError(f"not installed: {', '.join(missing)} (see .ci/install-slurm)")


def _marked() -> dict[str, Any]:
    """The contents of the marker; empty if there is none, or its writer was killed at once."""
    text = MARKER.read_text() if MARKER.exists() else ""
    return json.loads(text) if text else {}


def _start(folder: Path) -> Cluster:
    _write(folder)
    SYSTEM_CONFIG.symlink_to(folder / "etc" / SYSTEM_CONFIG.name)
    started = Cluster(folder)
    started.start()
    return started


def _write(folder: Path) -> None:
    """Write a cluster's folder: configuration, munge key, and device nodes as GPUs."""
    folder.mkdir(parents=True)
    for name in ("etc", "log", "state", "spool", "db", "gpu1", "gpu2"):
        (folder / name).mkdir()
    values = _free_ports(["slurmctld", "slurmdbd", *NODES]) | {"folder": folder}
    files = {"slurm.conf": SLURM_CONF, "gres.conf": GRES_CONF, "slurmdbd.conf": SLURMDBD_CONF}
    for name, text in files.items():
        file = folder / "etc" / name
        file.touch(mode=0o600 if name == "slurmdbd.conf" else 0o644)
        file.write_text(text.format(**values))
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    for node in ("gpu1", "gpu2"):
        for index in range(2):
            # Another /dev/null: for CUDA_VISIBLE_DEVICES, Slurm numbers GPUs only by devices.
            os.mknod(folder / node / f"gpu{index}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))


def _free_ports(names: Sequence[str]) -> dict[str, Any]:
    with ExitStack() as held:
        servers = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in names]
        return {name: server.getsockname()[1] for name, server in zip(names, servers, strict=True)}


def _remove(folder: Path) -> None:
    """Kill the cluster and restore /etc/slurm."""
    _kill(folder)
    SYSTEM_CONFIG.unlink(missing_ok=True)
    MARKER.unlink(missing_ok=True)


def _kill(folder: Path, node: str = "") -> None:
    """Kill a cluster's processes, or those of one node.

    Their state is deleted as well, so no orderly shutdown is needed.
    """
    deadline = time.monotonic() + 20
    while processes := _processes(folder, node):
        if time.monotonic() > deadline:
            raise ClusterError(f"these processes do not end: {processes}")
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=5)


def _processes(folder: Path, node: str = "") -> list[psutil.Process]:
    """A cluster's processes, or one node's: those with its mark, and all their descendants."""
    marks = {f"{OWN}={folder}", f"SLURM_CONF={folder}/etc/slurm.conf"}
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            # Not with psutil's `environ`, which reads nothing from a process that renamed itself.
            entries = set(Path(f"/proc/{process.pid}/environ").read_text(errors="replace").split("\0"))
            if marks & entries and (not node or f"{NODE}={node}" in entries):
                found |= {process, *process.children(recursive=True)}
    return list(found)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM end the block like Ctrl-C, through `finally`."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _search_path() -> str:
    """PATH with the folders of daemons, which some shells lack."""
    return os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["up", "down"])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    try:
        {"up": up, "down": down}[arguments.action](arguments.folder.resolve())
    except (UnavailableError, ClusterError, FileExistsError) as error:
        sys.exit(str(error))


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def finished_jobs(running: Cluster, folder: Path, count: int) -> dict[str, dict[str, str]]:
    """The jobs submitted from a folder, by their comment (rule), once all have ended."""
    fields = ["JobID", "State", "Partition", "AllocTRES", "Comment", "WorkDir", "Timelimit"]

    def jobs() -> dict[str, dict[str, str]]:
        ended = {"COMPLETED", "FAILED"}
        here = [job for job in running.sacct(fields) if job["WorkDir"] == str(folder)]
        return {job["Comment"]: job for job in here if job["State"] in ended}

    wait_until(lambda: len(jobs()) == count)
    return jobs()


if __name__ == "__main__":
    main()
