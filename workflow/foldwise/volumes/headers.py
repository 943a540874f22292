"""Headers of many volumes, read at once and remembered."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from foldwise.files import CaseError, code_hash
from foldwise.processes import processes
from foldwise.store import Memory
from foldwise.volumes.volume import Header, is_dicom_folder, read_header

# Reading waits for the disk, above all on network file systems.
THREADS = 16
# As many DICOM series are read sooner than processes start, which takes seconds.
FEW = 4


def known_headers(paths: Iterable[Path], memory: Memory) -> dict[Path, Header | CaseError]:
    """Volumes' headers, or why they cannot be read, in the order of the paths.

    Only those whose files, or the code that reads them, are not what is remembered are read. Many DICOM
    series, which have hundreds of headers each, are read by several processes.

    Raises:
        CaseError: such a process was killed.
    """
    paths = list(paths)
    series = {path for path in paths if is_dicom_folder(path)}
    with processes() as pool, ThreadPoolExecutor(THREADS) as threads:

        def by_process(path: Path) -> list[Any]:
            return pool.submit(_read, path).result()

        def header(path: Path) -> Header | CaseError:
            read = by_process if path in series and len(series) > FEW else _read
            try:
                known = memory.of_source(path, partial(read, path), "header", code_hash("foldwise"))
            except CaseError as error:
                return error
            return Header.from_list(known)

        return dict(zip(paths, threads.map(header, paths), strict=True))


def _read(path: Path) -> list[Any]:
    return read_header(path).as_list()
