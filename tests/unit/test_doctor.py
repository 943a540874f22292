"""What the doctor finds: on this machine, and on machines where something is wrong."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from fake_nvml import Install, gpu
from foldwise import cuda, gpus
from foldwise.cuda import Build
from foldwise.doctor import examine, folders, hardware, probe, shown, slurm, software
from foldwise.doctor.finding import Finding
from foldwise.places import ROOT
from slurm_cluster import Cluster


def by_topic(found: Iterable[Finding]) -> dict[str, Finding]:
    return {one.topic: one for one in found}


def doctor(
    *more: str, module: str = "foldwise.doctor", **environment: str
) -> tuple[int, list[dict[str, str]]]:
    done = subprocess.run(
        [sys.executable, "-m", *module.split(), *more, "--json"],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


def errors(found: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    return {one["topic"]: one for one in found if one["level"] == "error"}


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Packages that end Python, that are damaged, and that provide a broken system."""
    site = tmp_path / "site"
    sources = {
        "torch": "import os; os._exit(7)",
        "snakemake": "raise ImportError('damaged')",
        "broken_signals": "1 / 0",
    }
    for name, text in sources.items():
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").write_text(text, encoding="utf-8")
    about = site / "broken_signals-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: broken-signals\nVersion: 1.0\n", encoding="utf-8"
    )
    (about / "entry_points.txt").write_text(
        "[foldwise.systems]\nsignals = broken_signals:Signals\n", encoding="utf-8"
    )
    return site


def test_the_command_on_this_machine(tmp_path: Path) -> None:
    experiment = tmp_path / "experiment.yaml"
    experiment.write_text(f"results: {tmp_path / 'far' / 'away'}\n", encoding="utf-8")
    code, found = doctor("doctor", str(experiment), module="foldwise")
    assert code == 0, errors(found)
    topics = {one["topic"]: one for one in found}
    assert topics["results"]["found"] == str(tmp_path / "far" / "away")
    assert topics["imports"]["found"].endswith("snakemake, torch, torchvision, monai")
    assert topics["systems"]["found"] == "segmentation, clips, surgical, interactive"
    # It leaves nothing behind.
    assert list(tmp_path.iterdir()) == [experiment]


def test_broken_packages_are_findings(broken: Path, tmp_path: Path) -> None:
    paths = os.pathsep.join([str(broken), *sys.path])
    code, found = doctor(PYTHONPATH=paths, HOME="/dev/null/home", XDG_CACHE_HOME="")
    assert code == 1
    wrong = errors(found)
    assert wrong.keys() == {"import torch", "import snakemake.cli", "system signals", "Snakemake's cache"}
    assert "exit code 7" in wrong["import torch"]["found"]
    assert "damaged" in wrong["import snakemake.cli"]["found"]
    assert (
        "ZeroDivisionError" in wrong["system signals"]["found"]
        or "broken" in wrong["system signals"]["found"]
    )
    assert "XDG_CACHE_HOME" in wrong["Snakemake's cache"]["todo"]
    assert all(one["todo"] for one in found if one["level"] != "ok")
    # What it advises helps: Snakemake itself ends in a traceback here, before any Snakefile is read.
    (tmp_path / "Snakefile").write_text("rule all:\n    shell: 'true'\n", encoding="utf-8")
    for cache, code in (("", 1), (str(tmp_path / "cache"), 0)):
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "--cores", "1", "--dry-run"],
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            env={**os.environ, "HOME": "/dev/null/home", "XDG_CACHE_HOME": cache},
        )
        assert done.returncode == code
        assert ("sourcecache.py" in done.stdout) == bool(code)


def test_where_the_command_cannot_start_it_names_the_module(tmp_path: Path) -> None:
    (tmp_path / "h5py.py").write_text("raise ImportError('libhdf5.so is missing')", encoding="utf-8")
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "foldwise", "doctor"],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 1
    assert "libhdf5.so is missing; `python -m foldwise.doctor` says" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_import_that_hangs_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hangs.py").write_text("import time; time.sleep(99)", encoding="utf-8")
    (tmp_path / "talks.py").write_text("print('{hello')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = probe.probed(["json", "hangs", "talks", "no.such"], timeout_s=2)
    assert found["json"] == found["talks"] == {}
    assert found["hangs"] == {"error": "its import did not end within 2 s"}
    assert "ModuleNotFoundError" in found["no.such"]["error"]


def test_a_check_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "probed", lambda names: {})
    monkeypatch.setattr(hardware, "open_files", lambda: 1 / 0)
    found = by_topic(examine(Path("/no/such.yaml")))
    assert found["open files"].level == "error"
    assert "ZeroDivisionError" in found["open files"].found
    assert found["experiment"].level == "error"


def test_packages_are_compared_with_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "requirements.txt"
    lines = (
        "numpy==2.2.0",
        "torch==2.15.0 ; sys_platform == 'linux'",
        "colorama==1 ; sys_platform == 'win32'",
        "zope_interface==7",
    )
    lock.write_text("".join(f"{line} \\\n    --hash=sha256:00\n" for line in lines), encoding="utf-8")
    monkeypatch.setattr(software, "lock_file", lambda: lock)
    monkeypatch.setattr(
        software, "_needed", lambda: ["numpy>=2.2", "torch>=2.10", "pywin32>=1; sys_platform=='win32'"]
    )
    installed = {"numpy": "2.2.0", "torch": "2.15.0+cu132", "zope-interface": "7"}
    monkeypatch.setattr(software, "_installed", lambda: installed)
    assert list(software.packages()) == [Finding("packages", "ok", "3 as in requirements.txt")]
    installed["torch"] = "2.12.1+cu126"
    (found,) = software.packages()
    assert (found.level, found.found) == (
        "warning",
        "other than in requirements.txt: torch 2.12.1+cu126, not 2.15.0",
    )
    del installed["numpy"]
    installed["torch"] = "2.9.0"
    found, other = software.packages()
    assert (found.level, found.found) == ("error", "numpy is missing, torch 2.9.0 is not >=2.10")
    assert found.todo == f"pip install -r {lock}"
    assert other.level == "warning"


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (Build("2", "13.2"), "requirements.txt"),
        (Build("2", "12.8"), "requirements-cuda12.txt"),
        (Build("2", None), "requirements-cpu.txt"),
        (None, "requirements.txt"),
    ],
)
def test_the_lock_is_that_of_the_build(
    machine: Install, monkeypatch: pytest.MonkeyPatch, build: Build | None, name: str
) -> None:
    machine()
    monkeypatch.setattr(software, "torch_build", lambda: build)
    assert software.lock_file() == ROOT / "envs" / name
    assert software.lock_file().is_file()


@pytest.mark.parametrize(
    ("listed", "build", "torch", "level", "found"),
    [
        ([{}], Build("2", "13.2"), {"count": 1}, "ok", "PyTorch sees 1"),
        (
            [{"cuda": 12020}],
            Build("2", "13.2"),
            {"count": 0, "cuda": "too old"},
            "error",
            "for CUDA up to 12.2",
        ),
        ([{}], Build("2", None), {"count": 0, "cuda": "no CUDA"}, "error", "the CPU alone"),
        ([{}], Build("2", "13.2"), {"count": 1, "cuda": "no kernel image"}, "error", "no kernel image"),
        ([{}], Build("2", "13.2"), {"count": 0, "cuda": "no answer"}, "error", "no answer"),
        ([{"minor": 5}], Build("2", "13.2"), {"count": 0}, "warning", "cannot be opened"),
    ],
)
def test_gpus(
    machine: Install,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    listed: list[dict[str, Any]],
    build: Build,
    torch: dict[str, Any],
    level: str,
    found: str,
) -> None:
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(gpus, "DEVICES", tmp_path / "nvidia")
    monkeypatch.setattr(hardware, "torch_build", lambda: build)
    machine(*(gpu(**{"minor": 0, **one}) for one in listed))
    seen = by_topic(hardware.gpu({"torch": torch}))
    assert seen["GPU"].found.startswith("0: Fake, 16 GiB (GPU-")
    assert seen["CUDA"].level == level
    assert found in seen["CUDA"].found
    monkeypatch.setenv(gpus.VISIBLE, "7")
    hides = by_topic(hardware.gpu({"torch": torch}))["CUDA"]
    assert (hides.level, hides.found) == ("warning", "CUDA_VISIBLE_DEVICES='7' hides all")


def test_without_a_gpu_nothing_is_wrong(machine: Install) -> None:
    machine()
    (found,) = hardware.gpu({"torch": {"count": 0, "cuda": "no driver"}})
    assert (found.level, found.found) == ("ok", "none here: jobs on this machine compute on the CPU")
    (found,) = hardware.gpu({"torch": {"count": 2}})
    assert (found.level, found.found) == ("ok", "2, of another maker")


def test_a_driver_that_does_not_answer(
    machine: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(gpus, "DEVICES", tmp_path / "nvidia")
    monkeypatch.setattr(hardware, "torch_build", lambda: Build("2", "13.2"))
    machine("mismatch")
    (found,) = hardware.gpu({"torch": {"count": 0, "cuda": "x"}})
    assert found.level == "error"
    assert "restart the machine" in found.todo
    assert cuda.offered() is None


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def levels() -> list[str]:
        return [one.level for one in (*hardware.shared_memory(), *hardware.open_files())]

    monkeypatch.setattr(hardware, "SHM", tmp_path)
    for free, soft, expected in (
        (2**31, 4096, ["ok", "ok"]),
        (2**26, 256, ["warning", "warning"]),
        (2**31, hardware.resource.RLIM_INFINITY, ["ok", "ok"]),
    ):
        usage = SimpleNamespace(free=free, total=2**32)
        monkeypatch.setattr(hardware.shutil, "disk_usage", lambda path, usage=usage: usage)
        monkeypatch.setattr(hardware.resource, "getrlimit", lambda kind, soft=soft: (soft, 4096))
        assert levels() == expected
    monkeypatch.setattr(hardware, "SHM", tmp_path / "none")
    assert levels()[0] == "error"


def test_little_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for gib, level in ((0.2, "error"), (5, "warning"), (50, "ok")):
        usage = SimpleNamespace(free=gib * 2**30, total=100 * 2**30)
        monkeypatch.setattr(folders.shutil, "disk_usage", lambda path, usage=usage: usage)
        assert {one.level for one in folders.space(tmp_path / "new")} == {level}


def test_a_folder_in_which_a_file_blocks_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "results").touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    found = by_topic(folders.folders(tmp_path / "results" / "here"))
    assert found["results"].level == "error"
    assert "Not a directory" in found["results"].found
    assert found["TMPDIR"].level == "warning"
    assert found["working folder"].level == "ok"


def test_a_full_disk_is_found_by_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(folders.os, "fsync", full)
    found = by_topic(folders.folders(tmp_path))
    assert "Disk quota exceeded" in found["results"].found
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_or_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert {one.level for one in folders.file_system(tmp_path)} == {"ok"}

    # As on NFS with local locks alone: taken, but no other process sees it.
    monkeypatch.setattr(folders.fcntl, "flock", lambda file, operation: None)

    # As on Lustre without -o flock.
    def refused(file: Any, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(folders.fcntl, "lockf", refused)
    monkeypatch.setattr(folders.os, "link", lambda a, b: refused(a, 0))
    monkeypatch.setattr(folders.time, "time", lambda: 0.0)
    found = by_topic(folders.file_system(tmp_path))
    assert found["locks, results"].found == "no flock and no fcntl between processes"
    assert "no hard links" in found["files, results"].found
    assert "s ahead" in found["files, results"].found
    assert fcntl.LOCK_EX


def test_slurm_without_an_answer_and_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [one.level for one in slurm.slurm()] == ["ok"]
    script = tmp_path / "sinfo"
    script.write_text("#!/bin/sh\necho sinfo: no controller >&2; exit 1\n", encoding="utf-8")
    script.chmod(0o755)
    (found,) = slurm.slurm()
    assert (found.level, found.found) == ("warning", "sbatch, squeue, scancel not found")
    for name in ("sbatch", "squeue", "scancel"):
        (tmp_path / name).symlink_to(script)
    (found,) = slurm.slurm()
    assert "sinfo: Slurm does not answer (sinfo: no controller)" in found.found


def test_partitions_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "sinfo"
    lines = {
        "%L": "short*|n/a\nbig|1-00:00:00",
        "%a": "short*|30:00|8|16000|(null)|up\nbig|7-00:00:00|64|512000|gpu:h200:4|up",
    }
    cases = "".join(f'*"{key}") printf "{text}\\n";;\n' for key, text in lines.items())
    script.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}esac\n', encoding="utf-8")
    script.chmod(0o755)
    for name in ("sbatch", "squeue", "scancel"):
        (tmp_path / name).symlink_to(script)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    found = by_topic(slurm.slurm())
    assert found["partition short (default)"].level == "warning"
    assert found["partition short (default)"].found.startswith("0 h 30 min; nodes with up to 8")
    assert found["partition big"].found == (
        "jobs get 1 d 0 h unless they ask, and 7 d 0 h at most; "
        "nodes with up to 64 processors, 500 GiB, gpu:h200:4"
    )
    assert "foldwise.cluster" in found["profile slurm"].todo


@pytest.mark.slurm
def test_a_cluster(slurm_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", slurm_cluster.env)
    found = by_topic(slurm.slurm())
    assert found["partition cpu (default)"].level == "ok"
    assert "gpu:h200:2" in found["partition gpu"].found
    assert "profile slurm" not in found


def test_people_get_a_table_in_a_terminal_and_lines_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [Finding("[red]disk", "warning", "5 GiB free", "make room"), Finding("Python", "ok", "3.11.9")]
    shown.show(found)
    assert capsys.readouterr().out == (
        "warning  [red]disk: 5 GiB free\n         → make room\n"
        "ok       Python: 3.11.9\n0 error(s), 1 warning(s)\n"
    )
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("rich.console.Console", lambda: Console(width=100, color_system=None))
    shown.show(found)
    lines = capsys.readouterr().out.splitlines()
    (place,) = (number for number, line in enumerate(lines) if "disk" in line)
    assert lines[place].split() == ["warning", "[red]disk", "5", "GiB", "free"]
    assert lines[place + 1].split() == ["→", "make", "room"]
