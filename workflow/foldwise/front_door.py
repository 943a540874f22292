"""What the Snakefile does before any rule: read the settings and the sheet, and look at every header."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldwise.files import CaseError
from foldwise.layout import Layout
from foldwise.settings import Settings, validate
from foldwise.sheet import read_sheet


def front_door(config: Mapping[str, Any], main: bool) -> Layout:
    """Read the experiment.

    Args:
        config: Snakemake's config.
        main: whether this is the user's own call of Snakemake and not a job's.

    Raises:
        SystemExit: the settings or the data are wrong; everything that is wrong is printed, and no
            traceback hides it.
    """
    try:
        settings = validate(Settings, dict(config), origin="config")
        sheet = read_sheet(settings.data)
        if sheet.problems:
            raise CaseError(f"{settings.data.sheet}:\n  " + "\n  ".join(sheet.problems))
    except CaseError as error:
        raise SystemExit(f"error: {error}") from None
    return Layout(settings, sheet)


def mem_mb(layout: Layout, stage: str, which: str = "", attempt: int = 1) -> int:
    return 2000
