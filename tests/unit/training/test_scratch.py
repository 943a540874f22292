"""Copies on a node's own disk: shared, complete or unused, and removed by the last job."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest

from foldwise.settings import as_json, validate
from foldwise.systems.segmentation.settings import Settings
from foldwise.training.scratch import node_scratch, staged
from synthetic import write_cached_set
from trainings import command

# Stages the files, prints how many it copied and the first one's path, and waits for a line before it leaves.
JOB = """
import logging, sys
from pathlib import Path
from foldwise.training import scratch
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
with scratch.staged(sys.argv[2:], Path(sys.argv[1])) as copies:
    print(copies[sys.argv[2]], flush=True)
    sys.stdin.readline()
"""


def write(path: Path, value: int, size: int = 1000) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["image"] = [value] * size
        file.attrs["content"] = f"{value} {size}"
    return str(path)


def read(path: str) -> int:
    with h5py.File(path, "r") as file:
        return int(file["image"][0])


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return [write(tmp_path / "data" / f"c{number}.h5", number) for number in range(3)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


@pytest.fixture
def place(root: Path) -> Path:
    return root / f"foldwise-{os.getuid()}"


def job(root: Path, files: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", JOB, str(root), *files],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )


def heard(process: subprocess.Popen[str]) -> tuple[str, str]:
    assert process.stdout is not None
    return process.stdout.readline(), process.stdout.readline().strip()


def test_a_disk_without_locks_is_not_used(
    files: list[str], root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refused)
    with staged(files, root) as copies:
        assert copies == {path: path for path in files}
    assert "not staged: [Errno 37] No locks available" in caplog.text


def test_copies_are_read_and_removed(files: list[str], root: Path, place: Path) -> None:
    with staged(files, root) as copies:
        assert [read(copies[path]) for path in files] == [0, 1, 2]
        assert all(Path(copies[path]).is_relative_to(place) for path in files)
        assert place.stat().st_mode & 0o777 == 0o700
    assert list(root.iterdir()) == []
    assert all(Path(path).exists() for path in files)


def test_two_jobs_share_one_copy(files: list[str], root: Path, place: Path) -> None:
    both = [job(root, files), job(root, files)]
    told = [heard(process) for process in both]
    assert sorted(line.split("files; ")[1].split(" of")[0] for line, _ in told) == ["0", "3"]
    assert told[0][1] == told[1][1]
    assert len(list(place.rglob("*.h5"))) == 3
    inode = Path(told[0][1]).stat().st_ino
    both[0].communicate("\n")
    assert Path(told[0][1]).stat().st_ino == inode, "the other one still reads it"
    both[1].communicate("\n")
    assert list(root.iterdir()) == []


def test_a_killed_job_leaves_copies_and_no_lock(files: list[str], root: Path, place: Path) -> None:
    process = job(root, files)
    _, path = heard(process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    inode = Path(path).stat().st_ino
    begun = time.monotonic()
    with staged(files, root) as copies:
        assert copies[files[0]] == path
        assert Path(path).stat().st_ino == inode
    assert time.monotonic() - begun < 2
    assert list(root.iterdir()) == []


def test_what_is_no_whole_copy_is_never_used(files: list[str], root: Path, place: Path) -> None:
    """A temporary file; a truncated copy with the right time; one of the right size with another time."""
    copies = [place / path.lstrip("/") for path in files]
    place.mkdir(mode=0o700)
    copies[0].parent.mkdir(parents=True)
    copies[0].with_name(f"{copies[0].name}.part").write_bytes(b"cut off")
    facts = Path(files[1]).stat()
    copies[1].write_bytes(Path(files[1]).read_bytes()[:-1])
    os.utime(copies[1], ns=(facts.st_atime_ns, facts.st_mtime_ns))
    shutil.copyfile(files[0], copies[2])
    assert copies[2].stat().st_size == Path(files[2]).stat().st_size
    with staged(files, root) as read_from:
        assert [read(read_from[path]) for path in files] == [0, 1, 2]
        assert [Path(read_from[path]) for path in files] == copies
        assert not list(place.rglob("*.part"))


@pytest.mark.parametrize("same_time", [False, True])
def test_a_changed_original_is_copied_again(files: list[str], root: Path, same_time: bool) -> None:
    with staged(files, root):
        before = Path(files[0]).stat()
        write(Path(files[0]), 7)
        if same_time:
            os.utime(files[0], ns=(before.st_atime_ns, before.st_mtime_ns))
            assert Path(files[0]).stat().st_size == before.st_size
        with staged(files, root) as copies:
            assert read(copies[files[0]]) == 7


def test_links_to_other_files_hold(tmp_path: Path, root: Path, place: Path) -> None:
    cache = write(tmp_path / "data" / "cache-1" / "a.h5", 5)
    region = tmp_path / "data" / "regions-1" / "a.h5"
    region.parent.mkdir()
    with h5py.File(region, "w") as file:
        file["image"] = h5py.ExternalLink("../cache-1/a.h5", "/image")
        file.attrs["content"] = "5 in a region"
    with staged([str(region)], root) as copies:
        Path(cache).rename(tmp_path / "away.h5")
        assert read(copies[str(region)]) == 5
        assert len(list(place.rglob("*.h5"))) == 2


def originals(files: list[str], root: Path | None) -> bool:
    with staged(files, root) as copies:
        return copies == {path: path for path in files}


def test_without_room_the_originals_are_read(
    files: list[str], root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = namedtuple("usage", "total used free")
    needed = sum(Path(path).stat().st_size for path in files)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, int(needed / 0.96)))
    assert originals(files, root)
    assert "0 MiB are needed" in caplog.text
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, int(needed / 0.94)))
    assert not originals(files, root)
    assert list(root.iterdir()) == []


@pytest.fixture
def tiny_disk(root: Path) -> Iterator[Path]:
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(root)], capture_output=True)
    if done.returncode:
        yield root
        return
    try:
        yield root
    finally:
        subprocess.run(["umount", str(root)], check=True)


def test_a_disk_that_fills_up_leaves_nothing(
    files: list[str], tiny_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There was enough space at the check, but another process used it."""
    big = [*files, write(Path(files[0]).with_name("d.h5"), 9, 100_000)]
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 10**9))
    if not os.path.ismount(tiny_disk):
        copy = shutil.copyfile

        def full(source: str, target: Path) -> None:
            copy(source, target)
            if source == big[-1]:
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(shutil, "copyfile", full)
    assert originals(big, tiny_disk)
    assert "No space left on device" in caplog.text
    assert list(tiny_disk.iterdir()) == []
    assert read(big[-1]) == 9


def test_no_disk_or_one_of_another_user(
    files: list[str],
    root: Path,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert originals(files, None)
    assert "neither $SLURM_TMPDIR nor $TMPDIR" in caplog.text
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    assert originals(files, root)
    assert "not a folder of this user alone" in caplog.text
    place.rmdir()
    place.symlink_to(root.parent)
    assert originals(files, root)
    monkeypatch.setenv("TMPDIR", str(root))
    monkeypatch.setenv("SLURM_TMPDIR", str(root / "missing"))
    assert node_scratch() is None
    monkeypatch.delenv("SLURM_TMPDIR")
    assert node_scratch() == root


def test_a_job_that_must_stop_copies_no_further(files: list[str], root: Path) -> None:
    calls = iter([False, True, True, True])
    with staged(files, root, lambda: next(calls)) as copies:
        assert copies[files[0]] == files[0]
    assert list(root.iterdir()) == []


def test_it_is_no_reason_to_make_anything_again() -> None:
    least = {"experiment": "x", "data": {"sheet": "cases.csv"}}
    asked, not_asked = (validate(Settings, {**least, "stage_caches": value}) for value in (True, False))
    assert asked.stage_caches
    for given in (True, False):
        assert as_json(asked, given=given) == as_json(not_asked, given=given)


@pytest.mark.slow
def test_training_reads_the_copies(tmp_path: Path, root: Path) -> None:
    index = write_cached_set(tmp_path / "set")
    settings = {
        "network": {"name": "BasicUNet", "features": [4, 4, 8, 8, 8, 4]},
        "patch": [32, 32, 32],
        "training": {"epochs": 1, "steps_per_epoch": 1},
    }
    done = subprocess.run(
        command(index, tmp_path, "--stage-caches", "1", settings=settings),
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "SLURM_TMPDIR": str(root)},
    )
    assert done.returncode == 0, done.stderr
    assert "4 files; 4 of them copied" in done.stderr
    assert list(root.iterdir()) == []
    assert (tmp_path / "model.pt").exists()
