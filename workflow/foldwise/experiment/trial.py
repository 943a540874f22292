"""Trials of models and weights before the run, and the size of a training step, in a process with torch.

Slow results are kept by everything that they depend on: settings, contents of files, libraries and code.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from foldwise.files import CaseError, code_hash, files_in
from foldwise.forecast import Step
from foldwise.processes import end_with_parent
from foldwise.section import values_for
from foldwise.settings import Model
from foldwise.store import Memory
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
    known, given = Memory(memory), model.model_dump(mode="json")
    counted = (sorted(Step.__annotations__), system.name, values_for(model, "memory"), task)
    step: Any = known.get(*counted) if whole else asdict(Step(0, 0, 0, 0))
    tried = (_versions(type(system)), system.name, given, task, whole, _files(given, known)) if trying else ()
    if step is None or (trying and known.get(*tried) is None):
        found = _elsewhere(_try_model if trying else _count, system.name, model, task, whole)
        if whole:
            step = asdict(found)
            known.put(step, *counted)
        if trying:
            known.put(True, *tried)
    known.save()
    return Step(**step)


def try_file(path: Path, check: Callable[[Path], Any], memory: Path) -> None:
    """Check a file of weights in another process, unless a stored result shows that it passed.

    Args:
        path: the file, or a folder of files.
        check: a function of a module, which raises CaseError.
        memory: JSON file of stored results.

    Raises:
        CaseError: as raised by the check.
    """
    known = Memory(memory)
    passed = (_versions(check), check.__qualname__, _files(str(path), known))
    if known.get(*passed) is None:
        _elsewhere(check, path)
        known.put(True, *passed)
    known.save()


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
    return [*libraries, *map(code_hash, sorted(packages))]


def _files(given: Any, known: Memory) -> list[Any]:
    """Name and hash of every file that settings name, and of those in folders."""
    if isinstance(given, dict | list):
        listed = given.values() if isinstance(given, dict) else given
        return [found for one in listed for found in _files(one, known)]
    if not isinstance(given, str) or not given:
        return []
    try:
        return [[name, known.file_hash(Path(name))] for name in files_in(Path(given))]
    except (OSError, ValueError):  # not a file name
        return []


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
