"""Folders that a run writes: whether it can, how much room there is, and what their file system can do."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from foldwise.doctor.finding import Finding

# Free space below which a run soon stops, and below which it cannot begin. GiB.
LITTLE_GIB, NONE_GIB = 10.0, 0.5
# Clocks of a machine and of its file server that differ by more confuse which file is newer. s.
SKEW_S = 5.0
# Tries a lock that another process holds: exit code 0 if it gets it.
TRY = """
import fcntl, sys
kind, path = sys.argv[1:]
with open(path, "r+") as file:
    try:
        (fcntl.flock if kind == "flock" else fcntl.lockf)(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        sys.exit(3)
"""


def folders(results: Path) -> Iterator[Finding]:
    """The folders of a user and of a run.

    Args:
        results: of the experiment.
    """
    home = Path("~").expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    temporary = _temporary()
    todo = "export XDG_CACHE_HOME=/a/folder/that/you/may/write: without it, Snakemake ends in a traceback"
    yield from _writable("Snakemake's cache", cache / "snakemake", "error", todo)
    todo = "give libraries other folders: export XDG_CACHE_HOME=…, MPLCONFIGDIR=…, TORCH_HOME=…"
    yield from _writable("HOME", home, "warning", todo)
    todo = "export TMPDIR=/a/folder/that/you/may/write"
    if temporary.is_dir():
        yield from _writable("TMPDIR", temporary, "error", todo)
    else:
        yield Finding("TMPDIR", "warning", f"{temporary}: no such folder; programs use another one", todo)
    todo = "call from a folder that you may write"
    yield from _writable("working folder", Path.cwd(), "error", f"{todo}: Snakemake keeps .snakemake there")
    yield from _writable("results", results, "error", "set `results:` in the experiment to another folder")


def space(results: Path) -> Iterator[Finding]:
    """Free space of the disks with the results, the working folder and temporary files."""
    named = {"results": results, "working folder": Path.cwd(), "TMPDIR": _temporary()}
    seen: dict[int, list[str]] = {}
    for name, path in named.items():
        seen.setdefault(_existing(path).stat().st_dev, []).append(name)
    for names in seen.values():
        place = _existing(named[names[0]])
        usage, files = shutil.disk_usage(place), os.statvfs(place)
        free = usage.free / 2**30
        text = f"{free:.0f} of {usage.total / 2**30:.0f} GiB free" if free >= 10 else f"{free:.1f} GiB free"
        topic = f"disk of {' and '.join(names)}"
        if files.f_files and not files.f_favail:
            yield Finding(topic, "error", "no file can be added (no inode is left)", "remove files there")
        elif free < LITTLE_GIB:
            todo = "make room; the job `check` prints how much an experiment needs (snakemake check)"
            yield Finding(topic, "error" if free < NONE_GIB else "warning", text, todo)
        else:
            yield Finding(topic, "ok", text)


def file_system(results: Path) -> Iterator[Finding]:
    """Locks between two processes, renaming in one step, hard links, and the clock, where files are kept."""
    for topic, path in (("results", results), ("TMPDIR", _temporary())):
        try:
            with tempfile.TemporaryDirectory(prefix=".foldwise-doctor-", dir=_existing(path)) as folder:
                yield from _able(topic, Path(folder))
        except OSError:
            continue  # said by `folders`


def _able(topic: str, folder: Path) -> Iterator[Finding]:
    lacking = [
        kind
        for kind, take in (("flock", fcntl.flock), ("fcntl", fcntl.lockf))
        if not _locks(folder, kind, take)
    ]
    if lacking:
        todo = "mount it with locks (NFS: without nolock; Lustre: -o flock)" + (
            ", or set `stage_caches: false`" if topic == "TMPDIR" else ", or set `results:` to another disk"
        )
        yield Finding(f"locks, {topic}", "warning", f"no {' and no '.join(lacking)} between processes", todo)
    else:
        yield Finding(f"locks, {topic}", "ok", "flock and fcntl work between processes")
    problems = []
    first, second, third = folder / "first", folder / "second", folder / "third"
    first.write_text("new", encoding="utf-8")
    second.write_text("old", encoding="utf-8")
    with suppress(OSError):
        first.replace(second)
    if first.exists() or second.read_text(encoding="utf-8") != "new":
        problems.append("a file cannot be replaced by renaming")
    try:
        os.link(second, third)
    except OSError as error:
        problems.append(f"no hard links ({error.strerror})")
    skew = second.stat().st_mtime - time.time()
    if abs(skew) > SKEW_S:
        problems.append(f"its clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}")
    if problems:
        yield Finding(f"files, {topic}", "warning", "; ".join(problems), "use another disk, or ask its admin")
    else:
        yield Finding(f"files, {topic}", "ok", "renaming and hard links work; the clock agrees")


def _locks(folder: Path, kind: str, take: Callable[[Any, int], None]) -> bool:
    """Whether a lock of this process keeps another one out, and lets it in afterwards."""
    path = folder / kind
    with path.open("w+") as file:
        try:
            take(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        kept_out = subprocess.run([sys.executable, "-ISc", TRY, kind, str(path)]).returncode == 3
        take(file, fcntl.LOCK_UN)
        return kept_out and subprocess.run([sys.executable, "-ISc", TRY, kind, str(path)]).returncode == 0


def _writable(topic: str, path: Path, level: Any, todo: str) -> Iterator[Finding]:
    """Write a file there, or where the folder would be made; also a quota that is used up is found so."""
    place = _existing(path)
    try:
        with tempfile.NamedTemporaryFile(prefix=".foldwise-doctor-", dir=place) as file:
            file.write(bytes(2**20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        yield Finding(topic, level, f"{path}: cannot be written ({error.strerror or error})", todo)
    else:
        yield Finding(topic, "ok", str(path))


def _existing(path: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if os.path.lexists(place))


def _temporary() -> Path:
    """Where programs put temporary files; what Python would choose instead does not count."""
    return Path(os.environ.get("TMPDIR") or "/tmp")
