"""What the Snakefile does before any rule: read the settings and the sheet, and look at every header."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foldwise.files import CaseError
from foldwise.forecast import forget_counter
from foldwise.systems import part, system_of


def use_this_checkout(root: Path) -> None:
    """Let jobs run this interpreter and this checkout's package, whatever the shell's PATH says."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["PYTHONPATH"] = str(root / "workflow")


def front_door(config: Mapping[str, Any], main: bool, parts: int | None = None) -> Any:
    """Read the experiment; the user's own call also looks at headers and networks, before the DAG is built.

    The headers are read here and not in a rule: a rule whose output all others take as input would, when the
    sheet changes, redo all cases; marked `ancient`, it would hide their own changes from Snakemake.

    Args:
        config: Snakemake's config.
        main: whether this is the user's own call of Snakemake and not a job's.
        parts: jobs among which the preparation of cases is to be divided.

    Returns:
        The system's `Layout`.

    Raises:
        SystemExit: the settings or the data are wrong; everything that is wrong is printed first.
    """
    try:
        layout = part(system_of(config), "layout").open_experiment(dict(config), main)
        for model in layout.models if main and layout.settings.part is None else ():
            # Counts the network, and so tells of one that cannot be made, or cannot take what it is given.
            layout.mib("train", model)
        layout.divide(parts, main)
    except CaseError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    finally:
        forget_counter()
    return layout
