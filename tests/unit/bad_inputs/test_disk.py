"""A disk that is full, read-only, broken or in the way: one plain message, and no file is lost."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from bad_inputs import called, contents, refused
from foldwise.commands import app
from foldwise.errors import WORDS
from foldwise.files import (
    CaseError,
    apart,
    atomic_folder,
    atomic_path,
    refuse_failed,
    write_json,
    write_pickle,
    write_text,
)
from foldwise.hdf5 import create_hdf5
from foldwise.store import Memory, Store
from stand_ins import write_hippocampus

BIG = np.random.default_rng(0).random(200_000)


def hdf5(path: Path) -> None:
    with create_hdf5(path) as file:
        file.create_dataset("values", data=BIG)


def many_arrays(path: Path) -> None:
    with create_hdf5(path) as file:
        for number in range(300):
            file.create_dataset(f"values{number}", data=BIG[:500])


# What a library does on a full disk: h5py and torch report it in ways of their own.
WRITERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "text": ("a.txt", lambda path: path.write_text("x" * 1_000_000)),
    "bytes": ("a.bin", lambda path: path.write_bytes(bytes(1_000_000))),
    "HDF5": ("a.h5", hdf5),
    "HDF5 in small arrays": ("a.h5", many_arrays),
    "torch": ("a.pt", lambda path: torch.save({"weights": torch.from_numpy(BIG)}, path)),
    "NIfTI": ("a.nii.gz", lambda path: nib.save(nib.Nifti1Image(BIG.reshape(50, 50, 80), np.eye(4)), path)),
    "array": ("a.npy", lambda path: np.save(path, BIG)),
}


@contextmanager
def small_disk(most: int = 100_000) -> Iterator[None]:
    """Let no file of this process grow beyond a size, in bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("there", [False, True])
def test_a_file_that_does_not_fit(name: str, there: bool, tmp_path: Path) -> None:
    file, write = WRITERS[name]
    path = tmp_path / file
    if there:
        path.write_text("the last result")

    def main() -> None:
        with small_disk(), atomic_path(path) as temporary:
            write(temporary)

    text = refused(main, tmp_path)
    assert f"{path}: " in text
    assert any(words in text for words in WORDS.values())
    assert contents(tmp_path).keys() == ({file} if there else set())


def test_a_folder_a_store_and_a_memory_that_do_not_fit(tmp_path: Path) -> None:
    def folder() -> None:
        with small_disk(), atomic_folder(tmp_path / "cases") as temporary:
            (temporary / "c0.txt").write_text("x" * 1_000_000)

    def store() -> None:
        with small_disk():
            Store(tmp_path / "state").put(lambda path: path.write_text("x" * 1_000_000), "c0")

    def memory() -> None:
        known = Memory(tmp_path / "known.json")
        known.put("x" * 1_000_000, "c0")
        with small_disk():
            known.save()

    for main, name in ((folder, "cases"), (store, "state"), (memory, "known.json")):
        assert name in refused(main, tmp_path)


def test_a_full_disk_ends_a_process_of_hdf5_without_a_segmentation_fault(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; import numpy as np\n"
        "from foldwise.command import run; from foldwise.files import atomic_path\n"
        "from foldwise.hdf5 import create_hdf5\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, -1))\n"
        "def main():\n"
        "    with atomic_path(Path(sys.argv[1])) as path, create_hdf5(path) as file:\n"
        "        file.create_dataset('values', data=np.random.default_rng(0).random(500_000))\n"
        "run(main)"
    )
    path = tmp_path / "c0.h5"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, encoding="utf-8")
    assert done.returncode == 1, done
    assert done.stderr.splitlines()[-1].startswith(f"error: {path}: ")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_case_that_does_not_fit_leaves_the_others(tmp_path: Path) -> None:
    failed: dict[str, str] = {}
    for case, size in (("c0", 10), ("c1", 1_000_000), ("c2", 20)):
        with apart(case, failed), small_disk(), atomic_path(tmp_path / case) as temporary:
            temporary.write_bytes(bytes(size))
    assert {path.name for path in tmp_path.iterdir()} == {"c0", "c2"}
    with pytest.raises(CaseError, match=f"case c1: {tmp_path}/c1: the file is larger"):
        refuse_failed(failed, ["c0", "c1", "c2"])


# What may be in the way of a file, and what the message must say.
IN_THE_WAY: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "a folder instead of the file": (lambda f: (f / "a.json").mkdir(), "a.json", "is a folder"),
    "a file instead of a folder": (lambda f: (f / "a").write_text(""), "a/b.json", "not a folder"),
    "a file far above": (lambda f: (f / "a").write_text(""), "a/b/c.json", "expected"),
    "a link that leads nowhere": (lambda f: (f / "a").symlink_to("none"), "a/b.json", "leads nowhere"),
    "a circle of links": (lambda f: (f / "a").symlink_to("a"), "a/b.json", "a: "),
    "a name that is too long": (lambda f: None, "a" * 300, "too long"),
    "a path that is too long": (lambda f: None, "/".join(["a" * 200] * 25), "too long"),
}


@pytest.mark.parametrize("name", IN_THE_WAY)
@pytest.mark.parametrize("write", [write_json, write_text, write_pickle])
def test_something_in_the_way(name: str, write: Callable[[Path, Any], None], tmp_path: Path) -> None:
    prepare, place, expected = IN_THE_WAY[name]
    prepare(tmp_path)
    text = refused(lambda: write(tmp_path / place, "x"), tmp_path)
    assert expected in text
    assert text.startswith(f"error: {tmp_path}")


@pytest.mark.parametrize("number", [*list(WORDS)[::2], errno.EDEADLK], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["mkstemp", "mkdir", "fsync", "replace"])
def test_whatever_the_system_refuses(
    number: int, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import ends with the file and the system's reason, whichever step of writing fails."""
    write_hippocampus(tmp_path)
    sheet = tmp_path / "new" / "sheet.csv"
    words = ("import", "decathlon", str(tmp_path / "Task04_Hippocampus"), "--sheet", str(sheet))
    where = {"mkstemp": tempfile, "mkdir": Path, "fsync": os, "replace": Path}[call]

    def fail(*given: Any, **more: Any) -> Any:
        raise OSError(number, os.strerror(number), *([str(sheet)] if call != "fsync" else []))

    monkeypatch.setattr(where, call, fail)
    text = refused(app, tmp_path, *words)
    assert WORDS.get(number, os.strerror(number)) in text
    assert not sheet.exists()
    monkeypatch.undo()
    assert called(app, *words)[0] == 0, "nothing that the failed call left is in the way of the next"
