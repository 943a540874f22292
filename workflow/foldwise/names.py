"""File names that Snakemake or a job on a cluster cannot handle; all others are quoted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from foldwise.experiment.open import Opened
from foldwise.files import CaseError

# Snakemake fills in {wildcards} and <pathvars> anywhere in a path.
FILLED_IN = re.compile(r"[{}]|<[a-z][a-z0-9_]*>")
# In a setting that is not a path: wildcards only.
WILDCARD = re.compile(r"\{\s*[.\w]+\s*(,[^{}]*)?\}")
# What a shell expands within double quotes, or what ends them.
EXPANDED = re.compile(r'["$`\\]')


def refuse_names(opened: Opened[Any, Any], root: Path, submitted: Sequence[str] | None) -> None:
    """Raise one CaseError for all names of an experiment that cannot be used.

    Args:
        opened: the experiment.
        root: the checkout.
        submitted: files also passed to jobs on a cluster; None: no job is submitted.
    """
    problems = []
    for what, value in _values(opened.settings):
        if isinstance(value, str) and (found := WILDCARD.search(value)):
            problems.append(
                f"{what}: {value!r} contains {found[0]!r}, which Snakemake would replace; write it otherwise"
            )
    for what, name in _paths(opened):
        if wrong := fault(name, submitted is not None):
            problems.append(f"{what}: {name!r} {wrong}")
    if submitted is not None:
        for name in submitted:
            if wrong := fault(name, True):
                problems.append(f"{name!r} {wrong}")
        for what, folder in (("checkout", str(root)), ("working folder", str(Path.cwd()))):
            # Snakemake writes the path of a job's script in double quotes.
            if found := EXPANDED.search(folder):
                problems.append(
                    f"{what}: {folder!r} contains {found[0]!r}, which a shell would expand; rename it"
                )
            elif wrong := fault(folder, True):
                problems.append(f"{what}: {folder!r} {wrong}")
    if problems:
        lines = "\n  ".join(dict.fromkeys(problems))
        raise CaseError(f"{len(problems)} name(s) that cannot be used\n  {lines}")


def fault(name: str, submits: bool = False) -> str:
    """What is wrong with a path and what to do; empty if nothing is.

    Args:
        name: the path as rules give it.
        submits: whether jobs are submitted to a cluster.
    """
    if found := FILLED_IN.search(name):
        return f"contains {found[0]!r}, which Snakemake would replace; rename it"
    if "\n" in name:
        return "contains a line break; rename it"
    if name.startswith("-"):
        return "begins with `-` like an option; rename it or give its full path"
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        return "is not UTF-8; rename it"
    if submits and not _survives_submission(name):
        return (
            "cannot be passed to jobs on a cluster: Snakemake loses a backslash, invisible characters, a "
            'quote at the start, and `"`, `$` or a backquote together with an apostrophe; rename it'
        )
    return ""


def _survives_submission(name: str) -> bool:
    """Whether a shell restores a name from its Python literal: so Snakemake quotes for submitted jobs."""
    if name[:1] in ("'", '"'):  # taken as quoted already
        return False
    return repr(name) == f"'{name}'" or (repr(name) == f'"{name}"' and not EXPANDED.search(name))


def _paths(opened: Opened[Any, Any]) -> Iterator[tuple[str, str]]:
    """Every path of an experiment that Snakemake sees, with the place that names it."""
    for what, value in _values(opened.settings):
        if isinstance(value, Path):
            yield what, str(value)
    for model in opened.settings.models:
        for path in opened.weights(model):
            yield f"weights of model {model}", path
    for case in opened.sheet.cases:
        for path in case.files:
            yield f"line {case.line}: case {case.name}", str(path)


def _values(value: Any, what: str = "") -> Iterator[tuple[str, Any]]:
    """All plain values of settings, keys included, each with its place in the experiment's file."""
    if isinstance(value, BaseModel):
        value = dict(iter(value))  # not dict(value), which would call a setting named `keys`
    if isinstance(value, dict):
        for key, member in value.items():
            place = f"{what}.{key}" if what else str(key)
            yield place, key
            yield from _values(member, place)
    elif isinstance(value, list | tuple):
        for member in value:
            yield from _values(member, what)
    else:
        yield what, value
