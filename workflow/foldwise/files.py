"""Files that are whole or absent: everything is written beside its final name and renamed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class CaseError(Exception):
    """Input that cannot be used; the message names the case or file, what was expected and what to do."""


@contextmanager
def naming(case: str) -> Iterator[None]:
    """Put a case's name before what a CaseError in the block says, unless it begins with it."""
    try:
        yield
    except CaseError as error:
        raise CaseError(f"case {case}: {str(error).removeprefix(f'case {case}: ')}") from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary file beside `path` that takes its name if the block ends well, and vanishes if not.

    The temporary name keeps the suffixes of `path`, since writers choose the format by them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(path.suffixes[-2:])
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes private files; shared cluster folders expect the user's umask.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path` that replaces it if the block ends well, and vanishes if not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish(source: Path, target: Path) -> None:
    """Copy all files of a folder into another one, each of them whole or not at all."""
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        with atomic_path(target / file.relative_to(source)) as temporary:
            shutil.copyfile(file, temporary)


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
        CaseError: it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CaseError(f"{path}: not readable as JSON ({error})") from error


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}")


def read_pickle(path: Path) -> Any:
    """Read a pickle of plain Python values (numbers, strings, lists, dicts, …); nothing in it is executed.

    Raises:
        CaseError: the file is no pickle, or asks for any class or function.
    """
    try:
        return _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    except Exception as error:  # a broken pickle can raise nearly anything
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


def content_hash(path: Path) -> str:
    """A hash of a file's content, or of the names and contents of all files in a folder."""
    if path.is_file():
        return file_hash(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return short_hash([[str(file.relative_to(path)), file_hash(file)] for file in files], 64)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
