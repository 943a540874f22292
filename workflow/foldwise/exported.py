"""Exported files of all cases, of which some may fail."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from foldwise.files import CaseError, atomic_folder


def export_folder(folder: Path, export: Callable[[Path], Mapping[str, str]]) -> None:
    """Write a folder of exported files. If cases fail, those of all others are kept in <folder>.partial.

    Snakemake deletes the outputs of a job that fails, but not that folder.

    Args:
        folder: folder to write.
        export: writes the files into a folder; returns case → why it failed.

    Raises:
        CaseError: cases failed.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    with atomic_folder(folder) as temporary:
        if failed := export(temporary):
            with atomic_folder(partial) as kept:
                shutil.copytree(temporary, kept, dirs_exist_ok=True)
            count, lines = len(failed), "\n  ".join(failed.values())
            raise CaseError(f"{count} case(s) could not be exported; all others are in {partial}:\n  {lines}")
    shutil.rmtree(partial, ignore_errors=True)
