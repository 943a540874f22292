"""Files are whole or absent; nothing in a pickle is executed."""

import fcntl
import os
import pickle
from pathlib import Path

import h5py
import pytest

import foldwise
from foldwise.files import (
    MARKER,
    CaseError,
    atomic_folder,
    atomic_path,
    put_back,
    read_json,
    read_pickle,
    short_hash,
    source_files,
    source_hash,
    write_json,
    write_pickle,
    write_text,
)
from foldwise.hdf5 import create_hdf5


def test_a_failed_write_leaves_the_old_file_and_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        assert temporary.name.endswith(".nii.gz")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]


def test_hdf5_is_written_where_there_are_no_locks(tmp_path: Path) -> None:
    """Some network file systems answer a lock with ENOLCK: no lock is requested, so others may hold it."""

    def lock(path: Path) -> None:
        with path.open("rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

    with h5py.File(tmp_path / "a.h5", "w"), pytest.raises(BlockingIOError):
        lock(tmp_path / "a.h5")
    with create_hdf5(tmp_path / "b.h5"):
        lock(tmp_path / "b.h5")
    package = Path(foldwise.__file__).parent
    opening = [path.name for path in package.rglob("*.py") if "h5py.File(" in path.read_text("utf-8")]
    assert opening == [], "only the classes of foldwise.hdf5 open files"


def test_the_content_of_files_and_folders(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_text(tmp_path / name / "1.dcm", "same")
    assert source_hash([tmp_path / "a"]) == source_hash([tmp_path / "b"])
    assert source_hash([tmp_path / "a" / "1.dcm"]) == source_hash([tmp_path / "b" / "1.dcm"])
    before = source_hash([tmp_path / "a"])
    (tmp_path / "a" / "1.dcm").rename(tmp_path / "a" / "2.dcm")
    assert source_hash([tmp_path / "a"]) == before
    write_text(tmp_path / "a" / "2.dcm", "else")
    assert source_hash([tmp_path / "a"]) != before


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "crop"
    with atomic_folder(folder) as temporary:
        (temporary / "a").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(folder) as temporary:
        (temporary / "a").write_text("half")
        raise RuntimeError
    assert (folder / "a").read_text() == "old"
    with atomic_folder(folder) as temporary:
        (temporary / "b").write_text("new")
    assert sorted(p.name for p in folder.iterdir()) == [MARKER, "b"]
    assert [p.name for p in tmp_path.iterdir()] == ["crop"]


def test_a_folder_of_someone_else_is_never_replaced(tmp_path: Path) -> None:
    mine = tmp_path / "mydata"
    (mine / "deep").mkdir(parents=True)
    (mine / "deep" / "thesis.tex").write_text("years")

    def write(folder: Path) -> None:
        with atomic_folder(folder) as temporary:
            (temporary / "image.nii.gz").write_text("crop")

    with pytest.raises(CaseError, match=r"mydata: is not replaced.*deep/thesis\.tex"):
        write(mine)
    assert (mine / "deep" / "thesis.tex").read_text() == "years"
    assert [p.name for p in tmp_path.iterdir()] == ["mydata"]
    # Nor is one of ours with additions, even under a name that we write, or an empty folder.
    for added in ("notes.txt", "image (corrected).nii.gz", "new/"):
        folder = tmp_path / f"ours {added}"
        write(folder)
        write(folder)
        (folder / added).mkdir() if added == "new/" else (folder / added).write_text("mine")
        with pytest.raises(CaseError, match="is not replaced"):
            write(folder)
        assert (folder / added).exists()
    # A folder from an earlier version via Snakemake can be replaced, and so can an empty folder.
    for name in (".snakemake_timestamp", None):
        folder = tmp_path / f"earlier {name}"
        folder.mkdir()
        if name:
            (folder / name).touch()
            (folder / "image.nii.gz").write_text("old")
        write(folder)
        assert (folder / "image.nii.gz").read_text() == "crop"
    for wrong in ("link", "file"):
        (tmp_path / "file").touch()
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(mine)
        with pytest.raises(CaseError, match="is a file or a link"):
            write(tmp_path / wrong)
    with pytest.raises(CaseError, match="mydata: is a folder"):
        write_text(mine, "x")


def test_a_replaced_folder_comes_back_after_a_failure(tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    for there in (False, True):
        with pytest.raises(RuntimeError), put_back(folder):
            folder.mkdir()
            (folder / "new").touch()
            raise RuntimeError
        assert folder.exists() == there
        if not there:
            folder.mkdir()
            (folder / "old").touch()
    assert [p.name for p in folder.iterdir()] == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["labels"]


def test_a_source_is_all_of_its_files(tmp_path: Path) -> None:
    """Including voxels in other files named by a header: another patient's voxels are another source."""
    (tmp_path / "scan.mhd").write_text("NDims = 3\nElementDataFile = voxels of a.raw\n")
    (tmp_path / "voxels of a.raw").write_bytes(b"a")
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1.dcm").write_bytes(b"1")
    assert source_files(tmp_path / "scan.mhd") == [tmp_path / "scan.mhd", tmp_path / "voxels of a.raw"]
    for source, part in (("scan.mhd", "voxels of a.raw"), ("series", "series/1.dcm")):
        before = source_hash([tmp_path / source])
        assert source_hash([tmp_path / source]) == before
        (tmp_path / part).write_bytes(b"b")
        assert source_hash([tmp_path / source]) != before
    assert source_files(tmp_path / "missing.mhd") == []


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


class Hostile:
    """Runs a command when unpickled by a trusting reader."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    target = tmp_path / "owned"
    path = tmp_path / "index.pkl"
    path.write_bytes(pickle.dumps({"entries": [Hostile(target)]}))
    with pytest.raises(CaseError, match="only plain values"):
        read_pickle(path)
    assert not target.exists()
    # The same bytes do run in the standard library's reader: the test is not vacuous.
    pickle.loads(path.read_bytes())
    assert target.exists()


def test_plain_values_come_back(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, "x", None, True], "b": {"c": (1, 2)}, "d": {1, 2}}
    write_pickle(tmp_path / "v.pkl", value)
    assert read_pickle(tmp_path / "v.pkl") == value
    (tmp_path / "cut.pkl").write_bytes((tmp_path / "v.pkl").read_bytes()[:-5])
    with pytest.raises(CaseError, match=r"cut\.pkl"):
        read_pickle(tmp_path / "cut.pkl")


def test_json(tmp_path: Path) -> None:
    write_json(tmp_path / "v.json", {"a": 1})
    assert read_json(tmp_path / "v.json") == {"a": 1}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "v.json", {"a": float("nan")})
    assert read_json(tmp_path / "v.json") == {"a": 1}
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(CaseError, match=r"bad\.json"):
        read_json(tmp_path / "bad.json")


def test_hash_ignores_the_order_of_keys_only() -> None:
    assert short_hash({"a": 1, "b": [1, 2]}) == short_hash({"b": [1, 2], "a": 1})
    assert short_hash({"a": 1, "b": [1, 2]}) != short_hash({"a": 1, "b": [2, 1]})
