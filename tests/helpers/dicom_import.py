"""An import of DICOM series without its command."""

from __future__ import annotations

from pathlib import Path

from foldwise.importers.dicom import import_series
from foldwise.importers.dicom_labels import Labels
from foldwise.importers.dicom_scan import scan
from foldwise.importers.dicom_structures import parse_structures
from foldwise.importers.pseudonyms import Names
from foldwise.importers.sheets import Dataset


def imported(folder: Path, structures: str, out: str = "out") -> Dataset:
    """Import all series below `folder`/in, with their structures, into `folder`/`out`; IDs are kept."""
    found = scan(folder / "in")
    labels = Labels(parse_structures(structures))
    labels.add_structures(found, found.series)
    labels.refuse_unmatched(folder / "in")
    return import_series(found, found.series, labels, Names(), folder / out)
