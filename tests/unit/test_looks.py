"""Files that are looked at once: what is known of them is what is there, until someone changes it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from foldwise import looks
from foldwise.files import stamp_of
from foldwise.looks import looking_once


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Files, folders, links, broken links and what is missing: nine in a folder, some in others."""
    (tmp_path / "many").mkdir()
    (tmp_path / "a").write_text("a")
    found = [tmp_path / "many" / str(number) for number in range(9)]
    found[0].write_text("0")
    found[1].mkdir()
    found[2].symlink_to(tmp_path / "a")
    found[3].symlink_to(tmp_path / "gone")
    found[4].symlink_to(tmp_path)
    os.utime(tmp_path / "a", (100, 100))
    inside_a_file = tmp_path / "a" / "b"
    nowhere = [tmp_path / "none" / str(number) for number in range(9)]
    return [*found, tmp_path / "a", tmp_path / "c", inside_a_file, *nowhere, Path("\0")]


def _facts(path: Path) -> tuple[os.stat_result, os.stat_result] | None:
    try:
        return path.stat(), path.lstat()
    except (OSError, ValueError):
        return None


@pytest.fixture(params=["alone", "once", "together", "listed"])
def looking(request: pytest.FixtureRequest, paths: list[Path]) -> Iterator[None]:
    """Ways to look at the paths."""
    if request.param == "alone":
        yield
        return
    with looking_once():
        if request.param != "once":
            looks.look_at(paths, listed=request.param == "listed")
        yield


@pytest.mark.usefixtures("looking")
def test_what_is_known_is_what_is_there(paths: list[Path]) -> None:
    for path in paths:
        found = _facts(path)
        assert looks.look(path) == looks.look(str(path)) == found
        assert looks.facts(path) == (found and found[0])
        if path != Path("\0"):
            assert looks.exists(path) == path.exists()
            assert looks.is_folder(path) == path.is_dir()


def test_a_change_is_seen_after_it_was_forgotten_and_after_the_block(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    with looking_once():
        assert not looks.exists(path)
        assert not looks.exists(other)
        path.write_text("a")
        other.write_text("b")
        looks.forget(path)
        assert looks.exists(path)
        assert not looks.exists(other)
    assert looks.exists(other)


def test_stamps_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "series" / "inner").mkdir(parents=True)
    for name in ("1", "2", "inner/3"):
        (tmp_path / "series" / name).write_text(name)
    (tmp_path / "scan.mhd").write_text("NDims = 3\nElementDataFile = scan.raw\n")
    (tmp_path / "scan.raw").write_text("voxels")
    there = [tmp_path / "series", tmp_path / "scan.mhd", tmp_path / "missing"]
    alone = [stamp_of(path) for path in there]
    with looking_once():
        looks.look_at(there)
        assert [stamp_of(path) for path in there] == alone
    (tmp_path / "scan.raw").write_text("other voxels")
    with looking_once():
        assert [stamp_of(path) == old for path, old in zip(there, alone, strict=True)] == [True, False, True]
