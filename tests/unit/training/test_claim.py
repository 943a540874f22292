"""Two jobs of one training: one left by a killed main process, and one submitted by the next call."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from foldwise.files import read_json
from foldwise.training import claim as claims
from foldwise.training.budget import UNFINISHED

UNSHARE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
# Claims the folder, and appends its name when it begins and when it is released.
HOLDER = """
import os, sys, time
from pathlib import Path
from foldwise.training import claim as claims

folder, name, silence = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
claims.BEAT_S, claims.SILENCE_S = 0.1, silence

def write(text):
    with (folder / "written").open("a") as file:
        file.write(text + " ")

(folder / f"{name} is here").touch()
with claims.claim(folder, lambda: False) as held:
    write(name)
    while not (folder / "released").exists():
        time.sleep(0.05)
    write(name)
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_S", 0.05)
    monkeypatch.setattr(claims, "SILENCE_S", 0.5)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a holder, in this container or in another one; all are ended."""
    started = []

    def start(name: str, silence: float = 60, before: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        command = [*before, sys.executable, "-c", HOLDER, str(tmp_path), name, str(silence)]
        started.append(subprocess.Popen(command))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def written(folder: Path) -> str:
    path = folder / "written"
    return path.read_text() if path.exists() else ""


@pytest.fixture
def _containers() -> None:
    if shutil.which("unshare") is None or subprocess.run([*UNSHARE, "true"], capture_output=True).returncode:
        pytest.skip("no PID namespace of its own can be made here (needs Linux, and root or user namespaces)")


def test_it_is_given_back(tmp_path: Path) -> None:
    with claims.claim(tmp_path, lambda: True) as held:
        assert held
        assert read_json(tmp_path / "holder.json")["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_living_holder_is_waited_for(tmp_path: Path, start: Callable[..., Any]) -> None:
    other = start("other")
    until(lambda: written(tmp_path))
    asked = []

    def give_up() -> bool:
        asked.append(True)
        return len(asked) == 10

    with claims.claim(tmp_path, give_up) as held:
        assert not held
    assert read_json(tmp_path / "holder.json")["pid"] == other.pid


def test_a_dead_one_is_not(
    tmp_path: Path, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, although it was alive a moment before."""
    monkeypatch.setattr(claims, "SILENCE_S", 60)
    other = start("other")
    until(lambda: written(tmp_path))
    other.kill()
    other.wait()
    with claims.claim(tmp_path, lambda: True) as held:
        assert held


def test_nor_is_another_process_with_its_id(
    tmp_path: Path, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "SILENCE_S", 60)
    start("other")
    until(lambda: written(tmp_path))
    holder = read_json(tmp_path / "holder.json")
    (tmp_path / "holder.json").write_text(json.dumps({**holder, "started": "1"}))
    with claims.claim(tmp_path, lambda: True) as held:
        assert held


@pytest.mark.parametrize(
    "holder",
    [
        '{"host": "elsewhere", "pid": 1, "slurm_job_id": null, "system": ["elsewhere", "0", "pid:[1]"]}',
        # Of an earlier version; and cut off.
        f'{{"host": "{os.uname().nodename}", "pid": {os.getpid()}, "slurm_job_id": null}}',
        '{"host": "els',
    ],
    ids=["elsewhere", "earlier version", "cut off"],
)
def test_elsewhere_only_silence_counts(tmp_path: Path, holder: str) -> None:
    (tmp_path / "holder.json").write_text(holder)
    begun = time.monotonic()
    with claims.claim(tmp_path, lambda: False) as held:
        assert held
        assert time.monotonic() - begun > 0.3
        # A sign of life appears while the block runs.
        first = (tmp_path / "holder.json").stat().st_mtime_ns
        time.sleep(0.3)
        assert (tmp_path / "holder.json").stat().st_mtime_ns > first


def test_without_proc_only_silence_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS."""
    monkeypatch.setattr(claims, "_system", lambda: None)
    with claims.claim(tmp_path, lambda: False):
        assert read_json(tmp_path / "holder.json")["system"] is None
        asked = iter([False] * 20)
        with claims.claim(tmp_path, lambda: next(asked, True)) as second:
            assert not second


def test_a_deleted_claim_is_renewed(tmp_path: Path) -> None:
    with claims.claim(tmp_path, lambda: True):
        mine = (tmp_path / "holder.json").read_text()
        (tmp_path / "holder.json").unlink()
        until(lambda: (tmp_path / "holder.json").exists())
        assert (tmp_path / "holder.json").read_text() == mine


def test_a_holder_that_was_suspended_for_too_long_writes_no_more(
    tmp_path: Path, start: Callable[..., Any]
) -> None:
    """As by Slurm's gang scheduling: another took over, so it ends when it wakes up."""
    first = start("first")
    until(lambda: written(tmp_path))
    first.send_signal(signal.SIGSTOP)
    (tmp_path / "elsewhere.json").write_text('{"host": "elsewhere", "pid": 1, "slurm_job_id": null}')
    (tmp_path / "elsewhere.json").rename(tmp_path / "holder.json")
    time.sleep(0.2)
    first.send_signal(signal.SIGCONT)
    assert first.wait(timeout=60) == UNFINISHED
    assert written(tmp_path) == "first "
    assert read_json(tmp_path / "holder.json")["host"] == "elsewhere"


@pytest.mark.usefixtures("_containers")
@pytest.mark.parametrize(("first", "second"), [(UNSHARE, ()), ((), UNSHARE), (UNSHARE, UNSHARE)])
def test_in_two_containers_only_one_writes(
    tmp_path: Path,
    start: Callable[..., subprocess.Popen[bytes]],
    first: tuple[str, ...],
    second: tuple[str, ...],
) -> None:
    """A container has process ids of its own: the holder's means another process there, or none."""
    processes = [start("first", before=first)]
    until(lambda: written(tmp_path))
    processes.append(start("second", before=second))
    until((tmp_path / "second is here").exists)
    time.sleep(0.5)
    (tmp_path / "released").touch()
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert written(tmp_path) == "first first second second "


@pytest.mark.usefixtures("_containers")
def test_a_killed_container_is_replaced_when_it_is_silent(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    first = start("first", before=UNSHARE)
    until(lambda: written(tmp_path))
    first.kill()
    first.wait()
    (tmp_path / "released").touch()
    begun = time.monotonic()
    assert start("second", silence=3).wait(timeout=60) == 0
    assert time.monotonic() - begun > 2
    assert written(tmp_path) == "first second second "
