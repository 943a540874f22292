"""Files that are whole or absent: everything is written next to its final name and renamed."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import pickle
import re
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from foldwise import looks
from foldwise.errors import CaseError, plain_words, writing
from foldwise.texts import parse_json, read_text

# Lists the files of a folder from `atomic_folder`; Snakemake adds a file of its own to such folders.
MARKER = ".foldwise"
SNAKEMAKE = ".snakemake_timestamp"
# Headers that name the files of their voxels.
HEADERS = (".mhd", ".nhdr")


# Threads that ask at the same time would all read the code.
_reading = threading.Lock()


@contextmanager
def naming(case: str) -> Iterator[None]:
    """Prefix the message of a CaseError in the block with the case's name, unless it begins with it."""
    try:
        yield
    except CaseError as error:
        raise CaseError(f"case {case}: {str(error).removeprefix(f'case {case}: ')}") from error


@contextmanager
def apart(case: str, failed: dict[str, str]) -> Iterator[None]:
    """Keep a failure of the block from the other cases: it is logged, and put into `failed` by its case."""
    try:
        with naming(case):
            yield
    except (CaseError, OSError) as error:
        failed[case] = f"case {case}: {plain_words(error).removeprefix(f'case {case}: ')}"
        logging.error("%s", failed[case])
    except Exception as error:
        failed[case] = f"case {case}: {type(error).__name__}: {error}"
        logging.exception("case %s", case)


def refuse_failed(failed: Mapping[str, str], cases: Sequence[str]) -> None:
    """Refuse cases that failed, after the work on all of them.

    Args:
        failed: case → why, as from `apart`.
        cases: all cases, in the order of the message.

    Raises:
        CaseError: a case failed.
    """
    if failed:
        lines = "\n  ".join(failed[case] for case in cases if case in failed)
        raise CaseError(f"{len(failed)} of {len(cases)} cases failed; all others are kept:\n  {lines}")


# Called with every finished file or folder and its final name, before it gets that name.
Seal = Callable[[Path, Path], None]
_seals: list[Seal] = []


@contextmanager
def sealing(seal: Seal) -> Iterator[None]:
    """Call `seal(temporary, path)` for every file and folder that the block writes atomically."""
    _seals.append(seal)
    try:
        yield
    finally:
        _seals.remove(seal)


@contextmanager
def atomic_path(path: Path, *, private: bool = False) -> Iterator[Path]:
    """Yield a temporary file next to `path`; it is renamed to `path` if the block succeeds, else deleted.

    The temporary name keeps the suffixes of `path`, since writers choose the format by them. A private file
    can be read by its owner alone.

    Raises:
        CaseError: `path` is a folder.
    """
    if path.is_dir():
        raise CaseError(f"{path}: is a folder; give the name of a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(path.suffixes[-2:])
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with writing(temporary, path):
            yield temporary
            for seal in _seals:
                seal(temporary, path)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            if not private:
                # mkstemp makes private files; shared cluster folders expect the user's umask.
                temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `path`; it replaces `path` if the block succeeds, else is deleted.

    Raises:
        CaseError: `path` exists and holds anything that this function did not write.
    """
    refuse_foreign(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        with writing(temporary, path):
            yield temporary
            for seal in _seals:
                seal(temporary, path)
            names = "".join(f"{name}\n" for name in _names(temporary))
            (temporary / MARKER).write_text(names, encoding="utf-8")
            temporary.chmod(0o777 & ~_umask())
            refuse_foreign(path)
            if path.exists():
                shutil.rmtree(path)
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_foreign(path: Path) -> None:
    """Refuse to replace a folder with anything in it that `atomic_folder` did not write.

    Raises:
        CaseError: it holds a foreign file, or is a file or a link.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise CaseError(f"{path}: is a file or a link; give the name of a new folder to write")
    if not path.exists():
        return
    names = _names(path)
    # A folder that Snakemake created before markers existed may be replaced.
    ours = set(names) if MARKER not in names and SNAKEMAKE in names else {MARKER, SNAKEMAKE}
    if MARKER in names:
        ours |= set((path / MARKER).read_text(encoding="utf-8").splitlines())
    if foreign := [name for name in names if name not in ours]:
        raise CaseError(
            f"{path}: is not replaced: it holds {len(foreign)} file(s) that this command did not write, "
            f"e.g. {foreign[0]}; give another folder, or move this one away"
        )


def whole_folder(folder: Path, suffix: str) -> list[Path]:
    """The files with a suffix in a folder from `atomic_folder`, sorted.

    Raises:
        CaseError: one that was written there is missing.
    """
    found = sorted(folder.glob(f"*{suffix}"))
    marker = folder / MARKER
    listed = read_text(marker).splitlines() if marker.exists() else []
    if lost := [name for name in listed if name.endswith(suffix) and not (folder / name).exists()]:
        raise CaseError(f"{folder / lost[0]}: was written, but is missing; delete {folder}, and run again")
    return found


def _names(folder: Path) -> list[str]:
    """All files and links below a folder, and folders that are empty, by their paths within it."""
    found = (
        path for path in folder.rglob("*") if path.is_symlink() or path.is_file() or not any(path.iterdir())
    )
    return sorted(path.relative_to(folder).as_posix() for path in found)


@contextmanager
def put_back(path: Path) -> Iterator[None]:
    """Restore a folder if the block, which may replace it, fails."""
    aside = None
    if path.exists():
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent)) / path.name
        path.rename(aside)
    try:
        yield
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        if aside:
            aside.rename(path)
        raise
    finally:
        if aside:
            shutil.rmtree(aside.parent, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        CaseError: it is missing or not JSON, or has a key twice.
    """
    return parse_json(read_text(path), str(path))


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"the pickle refers to {module}.{name}")


def read_pickle(path: Path) -> Any:
    """Read a pickle of plain Python values (numbers, strings, lists, dicts, …); nothing in it is executed.

    Raises:
        CaseError: the file is not a pickle, or refers to a class or function.
    """
    try:
        return _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    except Exception as error:  # a broken pickle can raise almost anything
        raise CaseError(f"{path}: refused; only plain values are read from pickles ({error})") from error


def write_pickle(path: Path, value: Any) -> None:
    """Write plain values as a pickle, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(pickle.dumps(value, protocol=4))


def short_hash(value: Any, length: int = 8) -> str:
    """A hash of a JSON-like value that does not depend on the order of keys."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_files(path: Path) -> list[Path]:
    """The files of a source: the file itself, a folder's files, and the data files that a header names.

    A missing source has no files.
    """
    return [Path(file) for file, _ in _looked_up(path)]


def _looked_up(path: Path, beside: Iterable[Path] | None = None) -> list[tuple[str, os.stat_result]]:
    """The files of a source, each looked up once, which on network file systems takes a while."""
    facts = looks.facts(path)
    if facts is not None and stat.S_ISDIR(facts.st_mode):
        # Text, since a thousand series have 300,000 files, and objects for their paths take most of the time.
        inner = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]  # noqa: PTH118
        # Their facts are needed once, for the stamp, and are not kept.
        looked_up = [(file, _stat(file)) for file in sorted(inner, key=lambda file: file.split(os.sep))]  # noqa: PTH206
    else:
        others = named_in(path) if beside is None else beside
        looked_up = [(str(path), facts), *((str(file), looks.facts(file)) for file in others)]
    return [(file, facts) for file, facts in looked_up if facts is not None and stat.S_ISREG(facts.st_mode)]


def named_in(path: Path) -> list[Path]:
    """The data files that belong to a header."""
    found = [path]
    if path.suffix.lower() in HEADERS:
        # `ElementDataFile = a.raw` or `data file: a.raw`; for LIST, every further line is a file.
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        first = re.search(r"^ *(ElementDataFile|data ?file) *[=:]", text, re.MULTILINE | re.IGNORECASE)
        lines = text[first.start() :].splitlines() if first else []
        found += [path.parent / re.split("[=:]", line)[-1].strip() for line in lines]
    elif path.suffix.lower() in (".hdr", ".img"):
        found += [path.with_suffix(suffix) for suffix in (".hdr", ".img")]
    return [file for file in dict.fromkeys(found) if file != path]


def _stat(path: Path | str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):  # a header may name anything
        return None


def stamp_of(path: Path, beside: Iterable[Path] | None = None) -> str:
    """A hash of size and times of a source's files.

    The time of change (ctime) is included: every write sets it, even if the time of modification is set back.

    Args:
        path: the source.
        beside: the data files that a header names; None: it is read.
    """
    start = len(str(path)) - len(path.name)
    facts = [(file[start:], f) for file, f in _looked_up(path, beside)]
    return short_hash([[name, f.st_size, f.st_mtime_ns, f.st_ctime_ns] for name, f in facts], 16)


def code_hash(package: str) -> str:
    """A hash of the code of an imported package, which is read once."""
    with _reading:
        return _code_hash(package)


@cache
def _code_hash(package: str) -> str:
    module = sys.modules[package]
    folders = getattr(module, "__path__", ())
    files = [file for folder in folders for file in sorted(Path(folder).rglob("*.py"))]
    files = files or [Path(str(module.__file__))]  # a package of one file
    return short_hash([path.read_text(encoding="utf-8") for path in files])


def files_in(path: Path) -> list[str]:
    """The files of a folder of weights, whose own time does not show changes; or the file itself."""
    inner = sorted(str(file) for file in path.iterdir() if file.is_file()) if path.is_dir() else []
    return inner or [str(path)]


def source_hash(paths: Iterable[Path]) -> str:
    """A hash of the content of all files of some sources, in their order."""
    return short_hash([file_hash(file) for path in paths for file in source_files(path)], 32)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
