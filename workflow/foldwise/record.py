"""Records: what a stage's output was made from, stored in the output itself.

A record holds the settings that matter, the identity of every file that was read, and the versions of the
libraries that change numbers. A stage's command collects it (command.py), and `files.atomic_path` stores it
before an output gets its name. The front door compares it with what the experiment now says
(experiment/stale.py), so it needs neither the files' times nor Snakemake's own records.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from foldwise import looks
from foldwise.files import CaseError, file_hash, read_pickle, sealing, short_hash, source_files, stamp_of

# The attribute, key or comment with a record; the file with that of a folder.
KEY = "made_of"
COMMENT = f"# {KEY}: "
IN_FOLDER = ".made_of.json"
# Outputs without a record that nobody corrects by hand, unlike images.
UNEDITED = (".csv", ".pt")
# Stamp and content of a file that could not be used.
UNREAD = ""
# Reading waits for the disk, above all on network file systems.
THREADS = 8
# Libraries whose minor releases may change numbers, by the name of their module.
LIBRARIES = {
    "av": "av",
    "cc3d": "connected-components-3d",
    "monai": "monai",
    "nibabel": "nibabel",
    "scipy": "scipy",
    "SimpleITK": "SimpleITK",
    "skimage": "scikit-image",
    "torch": "torch",
    "torchvision": "torchvision",
    "transformers": "transformers",
}


@dataclass(frozen=True)
class Record:
    """What an output was made from.

    Attributes:
        stage: name of the stage.
        depends: the settings and values of the sheet that matter, as the rule gave them.
        read: path → (stamp, content) of every file and folder that was read; paths within the folder of
            results are relative to it and begin with `{results}/`.
        wrote: path → (stamp, content) of tables and models that the same job wrote, which hold no record.
        versions: library that the stage used → its version up to the minor number.
    """

    stage: str
    depends: Any
    read: Mapping[str, Sequence[str]]
    wrote: Mapping[str, Sequence[str]]
    versions: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """A hash of everything but the names and times of files."""
        contents = [content for _, content in (*self.read.values(), *self.wrote.values())]
        return short_hash([self.stage, self.depends, contents, self.versions], 16)

    def text(self) -> str:
        """The record as JSON."""
        return json.dumps(asdict(self))


def carrier(path: Path) -> Path:
    """The file that holds an output's record: that of a folder, if it has one, or else the output itself."""
    own = path / IN_FOLDER
    return own if looks.is_folder(path) and looks.exists(own) else path


def content_of_source(path: Path) -> str:
    """A hash of the content of a source's files; in a folder, of their names, too."""
    folder = path.is_dir()
    return short_hash(
        [[str(f.relative_to(path)) if folder else "", file_hash(f)] for f in source_files(path)], 32
    )


def identity(path: Path) -> str:
    """What identifies an output: the fingerprint of its record, or a hash of its content.

    Sources have no identity by a record, even if they are copies of outputs, since users edit them. Of
    outputs, only formats that nobody edits by hand have one: HDF5, pickles and whole folders. Of others the
    content counts, without the record and the provenance, which hold times.
    """
    if (own := record_in(path)) is None:
        return content_of_source(path)
    if path.suffix == ".json":
        values = json.loads(path.read_text(encoding="utf-8"))
        return short_hash({key: value for key, value in values.items() if key not in (KEY, "provenance")}, 32)
    if path.suffix == ".yaml":
        lines = path.read_text(encoding="utf-8").splitlines()
        return short_hash([line for line in lines if not line.startswith(COMMENT)], 32)
    return own.fingerprint


def minor_versions(modules: Container[str]) -> dict[str, str]:
    """Version of the libraries with these modules that are installed, up to the minor number."""
    asked = (name for module, name in LIBRARIES.items() if module in modules)
    return {name: minor for name in asked if (minor := _minor(name))}


@cache
def _minor(name: str) -> str:
    try:
        return ".".join(version(name).split(".")[:2])
    except PackageNotFoundError:
        return ""


class Recorder:
    """Collects a record while a stage runs."""

    def __init__(self, stage: str, depends: Any, results: Path | None, outputs: Sequence[Path]) -> None:
        """Start a record.

        Args:
            stage: name of the stage.
            depends: what its rule says that it depends on; None if it was called by hand.
            results: folder of all results, if known.
            outputs: files and folders that the record is stored in.
        """
        self._stage, self._depends, self._results, self.outputs = stage, depends, results, {*outputs}
        self._stamps: dict[Path, str] = {}
        self._contents: dict[Path, str] = {}
        self._unread: set[Path] = set()

    def could_not_read(self, *paths: Path) -> None:
        """Note files or folders that could not be used: what is made without them is stale."""
        self._unread.update(paths)

    def read(self, *paths: Path) -> None:
        """Note files or folders that are about to be read."""
        for path in paths:
            if path not in self._stamps and path.exists():
                self._stamps[path] = self._stamp(path)

    @property
    def record(self) -> Record:
        """The record of what was read so far.

        Raises:
            CaseError: a file changed since it was noted.
        """
        new = [path for path in self._stamps if path not in self._contents]
        with ThreadPoolExecutor(THREADS) as pool:
            self._contents |= zip(new, pool.map(self._content, new), strict=True)
        for path in new:
            if self._stamp(path) != self._stamps[path]:
                raise CaseError(f"{path}: changed while it was read; nothing was written; run again")
        read = {self._name(path): [stamp, self._contents[path]] for path, stamp in self._stamps.items()}
        read |= {self._name(path): [UNREAD, UNREAD] for path in self._unread}
        tables = [path for path in sorted(self.outputs) if path.suffix in UNEDITED and path.exists()]
        wrote = {self._name(path): [stamp_of(path), content_of_source(path)] for path in tables}
        return Record(self._stage, self._depends, read, wrote, minor_versions(sys.modules))

    def seal(self, file: Path, path: Path) -> None:
        """Store the record in a finished file or folder, if it is going to be one of the outputs.

        Args:
            file: under its temporary name.
            path: its final name.
        """
        if path in self.outputs:
            store(self.record, file)

    def _stamp(self, path: Path) -> str:
        return stamp_of(carrier(path) if self._is_output(path) else path)

    def _content(self, path: Path) -> str:
        if self._is_output(path):
            return identity(path)
        known = path, self._stamps[path]
        if known not in _contents:
            _contents[known] = content_of_source(path)
        return _contents[known]

    def _is_output(self, path: Path) -> bool:
        return self._results is not None and path.is_relative_to(self._results)

    def _name(self, path: Path) -> str:
        if self._results is not None and path.is_relative_to(self._results):
            return f"{{results}}/{path.relative_to(self._results)}"
        return str(path)


_current: Recorder | None = None
# Contents of sources by path and stamp: requests that share a process share its files of weights.
_contents: dict[tuple[Path, str], str] = {}


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Collect what the block reads, and store the record in the outputs that it writes."""
    global _current
    _current = recorder
    try:
        with sealing(recorder.seal):
            yield
    finally:
        _current = None


def used(*paths: Path | str) -> None:
    """Note files that a stage reads, apart from its arguments, e.g. the caches that an index names."""
    if _current is not None:
        _current.read(*map(Path, paths))


def unread(*paths: Path | str) -> None:
    """Note files that could not be used, so that the next call tries again."""
    if _current is not None:
        _current.could_not_read(*map(Path, paths))


def makes(path: Path) -> None:
    """Store the record in another file that the stage is going to write, apart from its arguments."""
    if _current is not None:
        _current.outputs.add(path)


def fingerprint_so_far() -> dict[str, str]:
    """Column of a table → the fingerprint of what the running stage has read; empty outside a command."""
    return {} if _current is None else {KEY: _current.record.fingerprint}


def store(record: Record, path: Path) -> None:
    """Store a record in a file or folder. Formats without a place for it stay as they are."""
    text = record.text()
    if path.is_dir():
        (path / IN_FOLDER).write_text(text + "\n", encoding="utf-8")
    elif path.suffix == ".h5":
        from foldwise.hdf5 import edit_hdf5

        with edit_hdf5(path) as file:
            file.attrs[KEY] = text
    elif path.suffix == ".json":
        values = {**json.loads(path.read_text(encoding="utf-8")), KEY: json.loads(text)}
        _rewrite(path, (json.dumps(values, indent=2) + "\n").encode())
    elif path.suffix == ".pkl":
        _rewrite(path, pickle.dumps({**read_pickle(path), KEY: json.loads(text)}, protocol=4))
    elif path.suffix == ".yaml":
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{COMMENT}{text}\n")


def _rewrite(path: Path, content: bytes) -> None:
    path.unlink()  # it may be one of several names of a file
    path.write_bytes(content)


def record_in(path: Path) -> Record | None:
    """The record in a file or folder; None if there is none, or the file is missing or broken."""
    try:
        found = _read(path)
        if found is None:
            return None
        return Record(**found)
    except (OSError, ValueError, TypeError, AttributeError, CaseError):
        return None


def _read(path: Path) -> Any:
    if path.is_dir():
        return json.loads((path / IN_FOLDER).read_text(encoding="utf-8"))
    if path.suffix == ".h5":
        from foldwise.hdf5 import open_hdf5

        with open_hdf5(path) as file:
            return json.loads(str(file.attrs[KEY])) if KEY in file.attrs else None
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8")).get(KEY)
    if path.suffix == ".pkl":
        return read_pickle(path).get(KEY)
    if path.suffix == ".yaml":
        lines = path.read_text(encoding="utf-8").splitlines()
        marks = [line.removeprefix(COMMENT) for line in lines if line.startswith(COMMENT)]
        return json.loads(marks[-1]) if marks else None
    return None
