"""What the Snakefile does before any rule: read the settings, the sheet and every header."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from foldwise.cuda import idle_gpus
from foldwise.errors import explained
from foldwise.experiment.configs import read_configs
from foldwise.experiment.open import Opened, open_experiment, try_all
from foldwise.experiment.parts import leave_word
from foldwise.experiment.stale import judge, settle
from foldwise.experiment.trial import forget_counter
from foldwise.files import CaseError
from foldwise.looks import looking_once
from foldwise.names import refuse_names
from foldwise.places import IMPORTED, IS_INSTALLED, ROOT


def refuse_settings(paths: Iterable[Path | str]) -> None:
    """Refuse files of settings that Snakemake reads without a word, though a key is there twice.

    Args:
        paths: those that exist; Snakemake refuses missing ones.

    Raises:
        SystemExit: one cannot be used.
    """
    try:
        read_configs(path for path in map(Path, paths) if path.exists())
    except CaseError as error:
        _stop(str(error))


def use_this_package(deployed: bool) -> None:
    """Let jobs run this interpreter and this checkout's package, regardless of the shell's PATH.

    Args:
        deployed: whether jobs run in environments that Snakemake makes, or in containers.

    Raises:
        SystemExit: one of their paths cannot stand in PATH or in Snakemake, or an installed package is to
            be used in another environment.
    """
    if deployed and IS_INSTALLED:
        _stop(
            f"--sdm needs a checkout of Foldwise, whose package jobs can import; this one is installed in "
            f"{sys.prefix}, which is an environment already: leave out --sdm"
        )
    for path in (ROOT, Path(sys.executable).parent):
        if held := set(str(path)) & {os.pathsep, "{", "}", "\n"}:
            _stop(f"{str(path)!r} contains {min(held)!r}, which PATH or Snakemake cannot handle; rename it")
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if not IS_INSTALLED:  # else the interpreter finds it
        # It may also hold systems of other packages.
        others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(IMPORTED), *others]))


def container_image() -> str:
    """Path of the container's image, relative to the working folder: Snakemake does not quote it.

    Raises:
        SystemExit: a shell would not read the path as one word.
    """
    path = os.path.relpath(ROOT / "envs" / "foldwise.sif")
    if shlex.quote(path) != path:
        _stop(f"{path}: apptainer cannot take this path; call Snakemake in {ROOT}, or move that folder")
    return path


def front_door(
    config: Mapping[str, Any],
    main: bool,
    parts: int | None = None,
    submitted: Sequence[str] | None = None,
) -> Opened[Any, Any]:
    """Open the experiment; the user's own call also checks names, headers and networks.

    The headers are read here and not in a rule: with a rule's output as input of all others, a changed sheet
    would redo all cases; marked `ancient`, it would hide changes of the cases from Snakemake.

    Args:
        config: Snakemake's config.
        main: whether this is the user's own call of Snakemake and not a job's.
        parts: number of jobs that share the preparation of cases.
        submitted: files passed to jobs on a cluster; None: no job is submitted.

    Raises:
        SystemExit: the settings or the data are wrong; all problems are printed first.
    """
    try:
        with looking_once():
            opened = open_experiment(config, main=main, parts=parts)
            if main:
                refuse_names(opened, ROOT, submitted)
                if opened.settings.part is None:
                    if submitted is None and opened.settings.device != "cpu" and (idle := idle_gpus()):
                        print(f"warning: jobs that use a GPU will stop here: {idle}", file=sys.stderr)
                    try_all(opened)
                    leave_word(opened.paths, opened.parts)
                _settle(opened)
    except CaseError as error:
        _stop(str(error))
    except OSError as error:
        _stop(explained(error))
    finally:
        forget_counter()
    return opened


def _settle(opened: Opened[Any, Any]) -> None:
    """Let Snakemake know which outputs are stale, and print an example."""
    levels = judge(opened, opened.memory)
    opened.memory.save()
    for path in settle(levels, Path(opened.paths.stale)):
        print(f"warning: {path}: its time could not be set; does it belong to another user?", file=sys.stderr)
    if stale := [found for level in levels for found in level if found.stale]:
        first = f"{stale[0].made.path}: {stale[0].why}"
        print(f"{len(stale)} output(s) are stale; the first is {first}", file=sys.stderr)


def _stop(text: str) -> NoReturn:
    print(f"error: {text}", file=sys.stderr)
    raise SystemExit(1) from None
