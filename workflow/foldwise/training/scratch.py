"""Copies of caches on the node's disk, shared by all jobs of a user that run there."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import h5py
from filelock import FileLock, Timeout

from foldwise.files import CaseError
from foldwise.hdf5 import content_of, open_hdf5

# Share of the disk's free space that is left to others.
MARGIN = 0.05


def node_scratch() -> Path | None:
    """The node's own disk, as named by Slurm or the system."""
    named = os.environ.get("SLURM_TMPDIR") or os.environ.get("TMPDIR")
    return Path(named) if named and Path(named).is_dir() else None


@contextmanager
def staged(
    paths: Sequence[str], root: Path | None, give_up: Callable[[], bool] = lambda: False
) -> Iterator[dict[str, str]]:
    """Copy HDF5 files, and those that they link to, to a folder that all jobs of the node share.

    Either all files are copied, or the originals are used and the reason is logged. A copy is used if its
    content, size and modification time are the original's, and it gets its name only when it is complete. The
    last job to leave removes everything; locks and copies of a killed job are taken over by the next one.

    Args:
        paths: files to read.
        root: folder on the node's disk; None: no such folder.
        give_up: called while waiting and between copies.

    Yields:
        Path → the path to read instead.
    """
    with ExitStack() as stack:
        try:
            if root is None:
                raise CaseError("neither $SLURM_TMPDIR nor $TMPDIR names a folder")
            folder = stack.enter_context(_joined(root.resolve() / f"foldwise-{os.getuid()}"))
            sources = {path: os.path.realpath(path) for path in paths}
            _copy_all(_with_links(sources.values()), folder, give_up)
            copies = {path: str(_place(source, folder)) for path, source in sources.items()}
        except (OSError, CaseError) as error:
            stack.close()
            logging.warning("caches are read in place, not staged: %s", error)
            copies = {path: path for path in paths}
        yield copies


@contextmanager
def _joined(folder: Path) -> Iterator[Path]:
    """Share a folder with other processes; the last one removes it."""
    path = folder / "users.lock"
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        # Between any two of these lines the previous last user may remove the folder: then try again.
        with suppress(FileNotFoundError):
            facts = folder.lstat()
            if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o077:
                raise CaseError(f"{folder} is not a folder of this user alone")
            users = path.open("w")
            fcntl.flock(users, fcntl.LOCK_SH)
            if path.exists() and os.path.samestat(os.fstat(users.fileno()), path.stat()):
                break
            users.close()
    try:
        yield folder
    finally:
        with users, suppress(OSError):
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Renamed first, so that no process can join while it is being removed.
            folder.rename(folder.with_name(f"{folder.name}.{os.getpid()}.old"))
            for old in folder.parent.glob(f"{folder.name}.*.old"):
                shutil.rmtree(old, ignore_errors=True)


def _with_links(sources: Iterable[str]) -> list[str]:
    """Files, and those that their external links name relative to them."""
    found: dict[str, None] = {}
    left = list(sources)
    while left:
        source = left.pop()
        if source in found:
            continue
        found[source] = None
        with open_hdf5(source) as file:
            links = [file.get(name, getlink=True) for name in file]
        outer = {link.filename for link in links if isinstance(link, h5py.ExternalLink)}
        folder = os.path.dirname(source)  # noqa: PTH120
        left += [os.path.normpath(f"{folder}/{name}") for name in outer if not name.startswith("/")]
    return sorted(found)


def _copy_all(sources: Sequence[str], folder: Path, give_up: Callable[[], bool]) -> None:
    """Copy missing files; one process at a time, so that the free space is known."""
    begun = time.monotonic()
    with _locked(folder / "copying.lock", give_up):
        missing = [source for source in sources if not _same(source, _place(source, folder))]
        needed = sum(os.stat(source).st_size for source in missing)  # noqa: PTH116
        free = shutil.disk_usage(folder).free
        if needed > (1 - MARGIN) * free:
            raise CaseError(
                f"{needed / 2**20:.0f} MiB are needed, but {folder} has {free / 2**20:.0f} MiB free"
            )
        for source in missing:
            if give_up():
                raise CaseError("the job must stop")
            _copy(source, _place(source, folder))
    logging.info(
        "staged in %s: %d files; %d of them copied, %.0f MiB in %.1f s",
        *(folder, len(sources), len(missing), needed / 2**20, time.monotonic() - begun),
    )


@contextmanager
def _locked(path: Path, give_up: Callable[[], bool]) -> Iterator[None]:
    lock = FileLock(path)
    while not lock.is_locked:
        if give_up():
            raise CaseError("the job must stop while another one copies")
        with suppress(Timeout):
            lock.acquire(timeout=0.2)
    try:
        yield
    finally:
        lock.release()


def _copy(source: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    try:
        facts = os.stat(source)  # noqa: PTH116
        shutil.copyfile(source, part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.utime(part, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        if not _same(source, part):
            raise CaseError(f"{source} changed during copying, or the node's disk does not keep exact times")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _place(source: str, folder: Path) -> Path:
    """Path of a file's copy; relative links between files stay valid."""
    return folder / source.lstrip("/")


def _same(source: str, copy: Path) -> bool:
    try:
        first, second = os.stat(source), copy.stat()  # noqa: PTH116
    except FileNotFoundError:
        return False
    if (first.st_size, first.st_mtime_ns) != (second.st_size, second.st_mtime_ns):
        return False
    content = content_of(source)
    with suppress(CaseError):  # the copy is broken
        return content_of(copy) == content
    return False
