"""Headers of many volumes, read at once and remembered."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

from foldwise.files import CaseError, code_hash
from foldwise.processes import processes
from foldwise.store import Memory
from foldwise.volumes.labels import label_header
from foldwise.volumes.segments import Segmentation
from foldwise.volumes.volume import Header, is_dicom_folder, read_header

# Reading waits for the disk, above all on network file systems.
THREADS = 16
# As many DICOM series are read sooner than processes start, which takes seconds.
FEW = 4


def known_headers(
    paths: Iterable[Path], memory: Memory, labels: Collection[Path] = ()
) -> dict[Path, Header | CaseError]:
    """Volumes' headers, or why they cannot be read, in the order of the paths.

    Those of `labels`, which may be segmentations of 3D Slicer, are read as such.

    Only those whose files, or the code that reads them, are not what is remembered are read. Many DICOM
    series, which have hundreds of headers each, are read by several processes.

    Raises:
        CaseError: such a process was killed.
    """
    paths = list(paths)
    series = {path for path in paths if is_dicom_folder(path)}
    many = series if len(series) > FEW else set()
    code = code_hash("foldwise")

    def header(path: Path, read: Callable[[], list[Any] | None]) -> Header | CaseError | None:
        try:
            known = memory.of_source(path, read, "label" if path in labels else "header", code)
        except CaseError as error:
            return error
        return None if known is None else _header(path, known)

    def look(path: Path) -> Header | CaseError | None:
        return header(path, (lambda: None) if path in many else partial(_read, path, path in labels))

    with ThreadPoolExecutor(THREADS) as threads:
        found = dict(zip(paths, threads.map(look, paths), strict=True))
    with processes() as pool:
        reading = {path: pool.submit(_read, path) for path, one in found.items() if one is None}
        found |= {path: header(path, future.result) for path, future in reading.items()}
    return {path: one for path, one in found.items() if one is not None}


def _read(path: Path, label: bool = False) -> list[Any]:
    header = label_header(path) if label else read_header(path)
    segments = [astuple(one) for one in header.segments] if isinstance(header, Segmentation) else None
    return [header.as_list(), segments]


def _header(path: Path, values: list[Any]) -> Header:
    header, segments = Header.from_list(values[0]), values[1]
    return header if segments is None else Segmentation.of(header, path, segments)
