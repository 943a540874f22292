"""New scans need a person: there is nothing to predict without hints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foldwise.files import CaseError
from foldwise.index import Entry


def new_entries(source: Path) -> list[Entry]:
    """Refuse, and say what to do instead.

    Raises:
        CaseError: always.
    """
    raise CaseError(
        f"{source}: an interactive model needs hints for a new scan; use `python -m foldwise.annotate "
        f"--volume <scan> --model <model.pt> --session <folder> --serve`"
    )


def prepare_case(entry: Entry, state: Mapping[str, Any], folder: Path) -> Path:
    """Refuse likewise.

    Raises:
        CaseError: always.
    """
    raise CaseError(f"case {entry.case}: use `python -m foldwise.annotate` for new scans")
