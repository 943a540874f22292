"""The files of settings that a call names: read strictly, before or beside Snakemake, which keeps silent."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from snakemake.utils import update_config

from foldwise.files import CaseError
from foldwise.texts import read_values


def read_configs(paths: Iterable[Path]) -> dict[str, Any]:
    """The settings in some files, of which later ones override earlier ones, as with `--configfile`.

    Raises:
        CaseError: a file is missing, not readable, no mapping, or has a key twice: Snakemake keeps the last.
    """
    config: dict[str, Any] = {}
    for path in paths:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "no such file"
            raise CaseError(
                f"{path}: {what}; give an experiment's settings (.yaml), e.g. those of `foldwise import`"
            )
        values = read_values(path)
        if not isinstance(values, dict):
            raise CaseError(f"{path}: expected settings, such as `experiment: name`, at the top level")
        update_config(config, values)
    return config
