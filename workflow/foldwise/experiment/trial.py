"""Trials of models and weights before the run, and the size of a training step, in a process with torch.

Slow results are stored under a hash of everything they depend on: settings, files, libraries and code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from foldwise.files import CaseError, read_json, short_hash, write_json
from foldwise.forecast import Step
from foldwise.processes import end_with_parent
from foldwise.section import values_for
from foldwise.settings import Model
from foldwise.systems import system_of
from foldwise.systems.base import System


def remembered(
    system: System[Any, Any],
    model: Model,
    task: dict[str, Any],
    memory: Path,
    *,
    trying: bool = False,
    whole: bool = True,
) -> Step:
    """Count the size of a model's step, or read the stored count.

    This needs torch, so another process does it: the user's own Snakemake runs for days on a login node and
    must not hold torch in memory.

    Args:
        system: of the model.
        model: its settings.
        task: what is learnt.
        memory: JSON file of stored counts; it may be missing.
        trying: also try everything else that a training builds from the settings. A stored result is used
            only if the settings, the files that they name, the libraries and this code are all the same.
        whole: false before a plan exists, when nothing can be counted (see `try_model`).

    Raises:
        CaseError: all reasons why a training would refuse the settings; or the other process ended early.
    """
    key = short_hash([sorted(Step.__annotations__), system.name, values_for(model, "memory"), task], 16)
    tried = None
    if trying:
        given = model.model_dump(mode="json")
        tried = short_hash([_versions(type(system)), system.name, given, task, whole, _files(given)], 16)
    known = read_json(memory) if memory.exists() else {}
    if (whole and key not in known) or (tried and tried not in known):
        step = _elsewhere(_try_model if tried else _count, system.name, model, task, whole)
        known |= ({key: asdict(step)} if whole else {}) | ({tried: True} if tried else {})
        write_json(memory, known)
    return Step(**known[key]) if whole else Step(0, 0, 0, 0)


def try_file(path: Path, check: Callable[[Path], Any], memory: Path) -> None:
    """Check a file of weights in another process, unless a stored result shows that it passed.

    Args:
        path: the file, or a folder of files.
        check: a function of a module, which raises CaseError.
        memory: JSON file of stored results.

    Raises:
        CaseError: as raised by the check.
    """
    key = short_hash([_versions(check), check.__qualname__, _files(str(path))], 16)
    known = read_json(memory) if memory.exists() else {}
    if key not in known:
        _elsewhere(check, path)
        write_json(memory, {**known, key: True})


def _elsewhere(work: Callable[..., Any], *given: Any) -> Any:
    """The result of a function, called in the process that may import torch.

    Raises:
        CaseError: as raised by the function; or the process was killed.
    """
    try:
        return _counter().submit(work, *given).result()
    except BrokenProcessPool as error:
        _counter.cache_clear()
        raise CaseError(
            "the process that tries networks was killed, most likely because memory ran out: it needs about "
            "1 GiB on the machine on which Snakemake is called"
        ) from error


def _versions(of: object) -> list[str]:
    """Versions of the libraries; hashes of Foldwise's code and of the package in which `of` is defined."""
    libraries = [version(name) for name in ("torch", "torchvision", "monai", "transformers")]
    packages = {"foldwise", of.__module__.partition(".")[0]}
    return [*libraries, *map(_code, sorted(packages))]


@cache
def _code(package: str) -> str:
    module = sys.modules[package]
    folders = getattr(module, "__path__", ())
    files = [file for folder in folders for file in sorted(Path(folder).rglob("*.py"))]
    files = files or [Path(str(module.__file__))]  # a package of one file
    return short_hash([path.read_text(encoding="utf-8") for path in files])


def _files(given: Any) -> list[Any]:
    """Name, size and time of change of every file that settings name, and of those in folders."""
    if isinstance(given, dict | list):
        return [
            found for one in (given.values() if isinstance(given, dict) else given) for found in _files(one)
        ]
    if not isinstance(given, str) or not given:
        return []
    path = Path(given)
    try:
        stats = [(one, one.stat()) for one in (sorted(path.iterdir()) if path.is_dir() else [path])]
    except (OSError, ValueError):  # not a file name
        return []
    return [[str(one), stat.st_size, stat.st_mtime_ns] for one, stat in stats]


def forget_counter() -> None:
    """End the process that counts, if there is one, and free its memory."""
    if _counter.cache_info().currsize:
        _counter().shutdown()
        _counter.cache_clear()


@cache
def _counter() -> ProcessPoolExecutor:
    # Without its parent it would wait for work forever.
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=end_with_parent)


def _count(system: str, model: Model, task: dict[str, Any], whole: bool) -> Step:
    from foldwise.training.memory import count_step

    return count_step(system_of(system).learner(model, task))


def _try_model(system: str, model: Model, task: dict[str, Any], whole: bool) -> Step:
    from foldwise.training.trial import try_model

    return try_model(system_of(system).learner, model, task, whole)
