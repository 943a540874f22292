"""An output says what it was made from: settings, content and versions; names and times do not count."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import h5py
import pytest

from foldwise.command import Folder, Output, stage
from foldwise.files import (
    CaseError,
    atomic_folder,
    atomic_path,
    read_json,
    read_pickle,
    write_json,
    write_pickle,
)
from foldwise.record import (
    LIBRARIES,
    Recorder,
    content_of_source,
    identity,
    record_in,
    recording,
    stamp_of,
    used,
)


@stage
def copy(
    *,
    source: Annotated[Path, "a file"],
    folder: Annotated[Folder, "a folder whose files are not noted"],
    out: Annotated[Output, "to write"],
    table: Annotated[Output, "to write"],
) -> None:
    """A stage with an input of each kind."""
    used(folder / "one")
    with atomic_path(table) as temporary:
        temporary.write_text("a,b\n")
    write_json(out, {"value": source.read_text()})


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["copy", *words])
    copy.main()


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    for name in ("source", "results/folder/one", "results/folder/two", "weights"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    return [
        *("--source=source", "--folder=results/folder", "--out=results/out.json", "--table=results/t.csv"),
        *("--results=results", "--also=weights", '--depends={"lr": 0.1}'),
    ]


def test_a_stage_records_what_it_reads(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, *words)
    record = record_in(Path("results/out.json"))
    assert record is not None
    assert (record.stage, record.depends) == ("copy", {"lr": 0.1})
    assert list(record.read) == ["source", "weights", "{results}/folder/one"]
    assert list(record.wrote) == ["{results}/t.csv"]
    assert record.versions.keys() <= {*LIBRARIES.values()}
    assert read_json(Path("results/out.json"))["value"] == "source"


def test_content_and_settings_count_but_not_names_and_times(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fingerprint(*more: str) -> str:
        run(monkeypatch, *words, *more)
        record = record_in(Path("results/out.json"))
        assert record is not None
        return record.fingerprint

    first = fingerprint()
    os.utime("source", (1, 1))
    Path("results/folder/two").write_text("not read")
    assert fingerprint() == first
    shutil.copy("source", "renamed")
    words[0] = "--source=renamed"
    assert fingerprint() == first
    words[-1] = '--depends={"lr": 0.2}'
    second = fingerprint()
    Path("weights").write_text("Weights")
    third = fingerprint()
    Path("results/folder/one").write_text("other")
    assert len({first, second, third, fingerprint()}) == 4


def test_a_command_by_hand_has_a_record_without_a_rule(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, *words[:4])
    record = record_in(Path("results/out.json"))
    assert record is not None
    assert record.depends is None


def test_a_source_that_changes_during_the_stage_is_refused(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def meddling(folder: Path) -> None:
        Path("source").write_text("changed")

    monkeypatch.setattr(sys.modules[__name__], "used", meddling)
    with pytest.raises(CaseError, match="source: changed while it was read; nothing was written"):
        run(monkeypatch, *words)
    assert not Path("results/out.json").exists()


@pytest.mark.parametrize("name", ["a.h5", "a.json", "a.pkl", "a.yaml", "folder"])
def test_every_format_keeps_its_content_and_its_record(tmp_path: Path, name: str) -> None:
    path, source = tmp_path / name, tmp_path / "source"
    source.write_text("x" * 100)
    recorder = Recorder("stage", {"ü": [1, None]}, None, [path])
    with recording(recorder):
        recorder.read(source)
        if name == "folder":
            with atomic_folder(path) as folder:
                (folder / "value").write_text("1")
        elif name.endswith("json"):
            write_json(path, {"value": 1})
        elif name.endswith("pkl"):
            write_pickle(path, {"value": 1})
        else:
            with atomic_path(path) as temporary:
                if name.endswith("h5"):
                    with h5py.File(temporary, "w") as file:
                        file["value"] = 1
                else:
                    temporary.write_text("value: 1\n")
    assert record_in(path) == recorder.record
    if name.endswith("json"):
        assert read_json(path)["value"] == 1
    elif name.endswith("pkl"):
        assert read_pickle(path)["value"] == 1
    elif name.endswith("yaml"):
        assert path.read_text().startswith("value: 1\n# made_of: {")
    elif name == "folder":
        assert (path / "value").read_text() == "1"
    else:
        with h5py.File(path) as file:
            assert file["value"][()] == 1


def test_a_file_with_two_names_gets_a_record_under_one(tmp_path: Path) -> None:
    kept, out = tmp_path / "kept.json", tmp_path / "out.json"
    write_json(kept, {"value": 1})
    with recording(Recorder("stage", None, None, [out])), atomic_path(out) as temporary:
        temporary.unlink()
        os.link(kept, temporary)
    assert record_in(out) is not None
    assert record_in(kept) is None


def test_an_edit_by_hand_changes_the_identity_of_json_and_yaml(tmp_path: Path) -> None:
    path = tmp_path / "choice.json"
    for seconds in (1, 2):
        (tmp_path / "source").write_text("same")
        os.utime(tmp_path / "source", (seconds, seconds))
        recorder = Recorder("choose", None, None, [path])
        with recording(recorder):
            recorder.read(tmp_path / "source")
            write_json(path, {"chosen": [], "provenance": {"time": seconds}})
        found = identity(path)
        if seconds == 1:
            before = found
    assert found == before  # made again from a source with another time
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "chosen": ["largest_component"]}))
    assert identity(path) != before


def test_broken_outputs_have_no_record(tmp_path: Path) -> None:
    for name in ("a.h5", "a.json", "a.pkl", "a.yaml"):
        (tmp_path / name).write_bytes(b"\x00 # made_of: {")
        assert record_in(tmp_path / name) is None
    assert record_in(tmp_path / "missing.json") is None
    (tmp_path / "list.json").write_text("[1]")
    assert record_in(tmp_path / "list.json") is None


def test_a_copy_of_an_output_as_a_source_is_judged_by_its_content(tmp_path: Path) -> None:
    """Users edit what they exported, or give another experiment's splits as their own."""
    source, out, results = tmp_path / "masks", tmp_path / "results" / "out.json", tmp_path / "results"
    with recording(Recorder("export", None, None, [source])), atomic_folder(source) as folder:
        (folder / "1.png").write_text("one")

    def fingerprint() -> str:
        recorder = Recorder("roi", None, results, [out])
        recorder.read(source)
        assert next(iter(recorder.record.read.values())) == [stamp_of(source), content_of_source(source)]
        return recorder.record.fingerprint

    before = fingerprint()
    (source / "1.png").write_text("corrected")
    assert fingerprint() != before


def test_a_stamp_notices_a_write_that_sets_the_time_back(tmp_path: Path) -> None:
    path = tmp_path / "frames" / "1.png"
    path.parent.mkdir()
    path.write_text("one")
    before, facts = stamp_of(path.parent), path.stat()
    path.write_text("two")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert stamp_of(path.parent) != before
