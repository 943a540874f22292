"""What the Snakefile does before any rule: read the settings and the sheet, and look at every header."""

from __future__ import annotations

import functools
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from foldwise.files import CaseError
from foldwise.forecast import forget_counter
from foldwise.index import check_file
from foldwise.names import refuse_names
from foldwise.systems import part, system_of

ROOT = Path(__file__).parents[2]


def use_this_checkout(root: Path) -> None:
    """Let jobs run this interpreter and this checkout's package, whatever the shell's PATH says.

    Raises:
        SystemExit: one of the two lies where PATH or Snakemake cannot name it.
    """
    for path in (root, Path(sys.executable).parent):
        if held := set(str(path)) & {os.pathsep, "{", "}", "\n"}:
            _stop(f"{str(path)!r} holds {min(held)!r}, which PATH or Snakemake cannot carry; rename it")
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["PYTHONPATH"] = str(root / "workflow")


def container_image(root: Path) -> str:
    """Path of the container's image, from the folder of the call: Snakemake does not quote it.

    Raises:
        SystemExit: a shell would not read the path as one word.
    """
    path = os.path.relpath(root / "envs" / "foldwise.sif")
    if shlex.quote(path) != path:
        _stop(f"{path}: apptainer cannot be given this path; call Snakemake in {root}, or move that folder")
    return path


def front_door(
    config: Mapping[str, Any],
    main: bool,
    parts: int | None = None,
    submitted: Sequence[str] | None = None,
) -> Any:
    """Read the experiment; the user's own call also looks at names, headers and networks.

    The headers are read here and not in a rule: a rule whose output all others take as input would, when the
    sheet changes, redo all cases; marked `ancient`, it would hide their own changes from Snakemake.

    Args:
        config: Snakemake's config.
        main: whether this is the user's own call of Snakemake and not a job's.
        parts: jobs among which the preparation of cases is to be divided.
        submitted: files that jobs on a cluster are given; None: no job is submitted.

    Returns:
        The system's `Layout`.

    Raises:
        SystemExit: the settings or the data are wrong; everything that is wrong is printed first.
    """
    try:
        layout = part(system_of(config), "layout").open_experiment(dict(config), main)
        if main:
            refuse_names(layout, ROOT, submitted)
        if main and layout.settings.part is None:
            _try(layout)
        layout.divide(parts, main)
    except CaseError as error:
        _stop(str(error))
    finally:
        forget_counter()
    return layout


def _try(layout: Any) -> None:
    """Refuse what a job would refuse of the settings and the files that they name."""
    settings = layout.settings
    problems: list[str] = []

    def attempt(prefix: str, check: Callable[[], Any]) -> None:
        try:
            check()
        except CaseError as error:
            problems.extend(f"{prefix}{line}" for line in str(error).splitlines())

    groups = {case.name: case.group for case in layout.training}
    attempt("split.file: ", functools.partial(check_file, settings.split, groups))
    if settings.predict is not None:
        new = part(settings.system, "new")
        attempt("predict: ", lambda: new.new_entries(settings.predict.source))
    attempt("prepare: ", layout.try_preparation)
    for model in layout.models:
        attempt(f"models.{model}: ", functools.partial(layout.try_model, model))
    if problems:
        raise CaseError("the experiment cannot be run; nothing was computed\n  " + "\n  ".join(problems))


def _stop(text: str) -> NoReturn:
    print(f"error: {text}", file=sys.stderr)
    raise SystemExit(1) from None
