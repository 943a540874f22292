"""Headers of many volumes at once: by several processes, remembered, and each with its own fault."""

import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from dicom_files import SMALL, write_series
from foldwise.files import CaseError
from foldwise.importers import dicom_scan
from foldwise.processes import processes
from foldwise.store import Memory
from foldwise.volumes import headers
from foldwise.volumes.headers import known_headers
from foldwise.volumes.segments import Segment, Segmentation
from foldwise.volumes.volume import Header, Volume, read_header, write_volume


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Six series, the second of which is broken, and a NIfTI."""
    folders = [tmp_path / f"scan {n}" for n in range(6)]
    for number, folder in enumerate(folders):
        write_series(folder, replace(SMALL, shape=(6, 5, 3 + number)), patient=f"P{number}")
    next(folders[1].iterdir()).write_bytes(b"")
    write_volume(Volume(np.zeros((4, 5, 6), np.int16), np.eye(4)), tmp_path / "x.nii.gz")
    return [*folders[:3], tmp_path / "x.nii.gz", *folders[3:]]


def test_processes_read_what_this_one_reads(paths: list[Path], tmp_path: Path) -> None:
    memory = Memory(tmp_path / "known.json")
    found = known_headers(paths, memory)
    assert list(found) == paths
    broken = found.pop(paths[1])
    assert isinstance(broken, CaseError)
    assert "is empty" in str(broken)
    for path, header in found.items():
        assert isinstance(header, Header)
        assert header.as_list() == read_header(path).as_list()
    assert [header.shape for header in found.values() if isinstance(header, Header)] == [
        (6, 5, 3),
        (6, 5, 5),
        (4, 5, 6),
        *((6, 5, size) for size in (6, 7, 8)),
    ]
    memory.save()


def test_the_second_call_reads_only_what_changed(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(tmp_path / "known.json")
    first = known_headers(paths, memory)
    memory.save()
    write_series(paths[0], replace(SMALL, shape=(6, 5, 3)), patient="P0")
    read: list[Path] = []

    def reads(path: Path) -> Header:
        read.append(path)
        return read_header(path)

    monkeypatch.setattr(headers, "read_header", reads)
    monkeypatch.setattr(headers, "FEW", len(paths))  # so that it is read here
    second = known_headers(paths, Memory(tmp_path / "known.json"))
    assert sorted(read) == [paths[0], paths[1]], "the changed one, and the one that could not be read"
    for path in (*paths[:1], *paths[2:]):
        one, two = first[path], second[path]
        assert isinstance(one, Header)
        assert isinstance(two, Header)
        assert one.as_list() == two.as_list()


def test_the_importer_finds_the_same_by_processes(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> list[object]:
        scanned = dicom_scan.scan(tmp_path)
        series = [(one.uid, one.patient, one.slices, one.files, one.instances) for one in scanned.series]
        return [series, scanned.remarks, scanned.broken]

    here = found()
    monkeypatch.setattr(dicom_scan, "FEW", 5)
    assert found() == here


def test_a_process_that_is_killed_is_said() -> None:
    with pytest.raises(CaseError, match="was killed, perhaps because memory ran out"), processes() as pool:
        pool.submit(os.kill, pool.submit(os.getpid).result(), signal.SIGKILL).result()


def test_processes_are_started_by_the_main_thread(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that a thread started is killed at its end, and may hold the lock of the queue: all then hang."""
    submit, threads = ProcessPoolExecutor.submit, set()

    def noted(self: ProcessPoolExecutor, *given: Any) -> Any:
        threads.add(threading.current_thread())
        return submit(self, *given)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", noted)
    known_headers(paths, Memory(None))
    assert threads == {threading.main_thread()}


def test_no_process_starts_without_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("a process was started")

    monkeypatch.setattr(ProcessPoolExecutor, "_start_executor_manager_thread", refuse)
    write_volume(Volume(np.zeros((4, 5, 6), np.int16), np.eye(4)), tmp_path / "x.nii.gz")
    assert len(known_headers([tmp_path / "x.nii.gz"], Memory(None))) == 1


def test_a_segmentation_is_remembered_with_its_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = sitk.Image((4, 5, 6), sitk.sitkUInt8)
    plain, path = tmp_path / "plain.nrrd", tmp_path / "a.seg.nrrd"
    sitk.WriteImage(image, str(plain))
    for number, (name, value) in enumerate([("ball", 5), ("box", 2)]):
        for key, text in {"ID": f"S{number}", "Name": name, "LabelValue": str(value), "Layer": "0"}.items():
            image.SetMetaData(f"Segment{number}_{key}", text)
    sitk.WriteImage(image, str(path))
    memory = Memory(tmp_path / "known.json")
    first = known_headers([path, plain], memory, {path, plain})
    memory.save()
    monkeypatch.setattr(headers, "label_header", lambda path: pytest.fail("was read again"))
    for found in (first, known_headers([path, plain], Memory(tmp_path / "known.json"), {path, plain})):
        header = found[path]
        assert isinstance(header, Segmentation)
        assert header.path == path
        assert header.segments == (Segment("ball", 5, 0), Segment("box", 2, 0))
        assert (header.shape, header.dtype) == ((4, 5, 6), np.uint8)
        assert not isinstance(found[plain], Segmentation)
    # As an image, the same file is its voxels.
    other = known_headers([path], Memory(tmp_path / "known.json"))[path]
    assert type(other) is Header
