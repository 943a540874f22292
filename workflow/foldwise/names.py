"""Names of files that Snakemake, or a job on a cluster, cannot carry; all others are quoted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from foldwise.experiment.open import Opened
from foldwise.files import CaseError

# Snakemake fills in {wildcards} and <pathvars> wherever they stand in a path.
FILLED_IN = re.compile(r"[{}]|<[a-z][a-z0-9_]*>")
# In the text of a setting, which is no path, wildcards only.
WILDCARD = re.compile(r"\{\s*[.\w]+\s*(,[^{}]*)?\}")
# What a shell expands within double quotes, or ends them.
EXPANDED = re.compile(r'["$`\\]')


def refuse_names(opened: Opened[Any, Any], root: Path, submitted: Sequence[str] | None) -> None:
    """Raise one CaseError for all names of an experiment that cannot be carried.

    Args:
        opened: the experiment.
        root: the checkout.
        submitted: files that jobs on a cluster are given as well; None: no job is submitted.
    """
    problems = []
    for what, value in _values(opened.settings):
        if isinstance(value, str) and (found := WILDCARD.search(value)):
            problems.append(
                f"{what}: {value!r} holds {found[0]!r}, which Snakemake would fill in; write it otherwise"
            )
    for what, name in _paths(opened):
        if wrong := fault(name, submitted is not None):
            problems.append(f"{what}: {name!r} {wrong}")
    if submitted is not None:
        for name in submitted:
            if wrong := fault(name, True):
                problems.append(f"{name!r} {wrong}")
        for what, folder in (("checkout", str(root)), ("folder of the call", str(Path.cwd()))):
            # Snakemake writes the path of a job's script between double quotes.
            if found := EXPANDED.search(folder):
                problems.append(
                    f"{what}: {folder!r} holds {found[0]!r}, which a shell would expand; rename it"
                )
            elif wrong := fault(folder, True):
                problems.append(f"{what}: {folder!r} {wrong}")
    if problems:
        lines = "\n  ".join(dict.fromkeys(problems))
        raise CaseError(f"{len(problems)} name(s) that cannot be used\n  {lines}")


def fault(name: str, submits: bool = False) -> str:
    """What is wrong with a path and what to do, or nothing.

    Args:
        name: the path as it stands in rules.
        submits: whether jobs are submitted to a cluster.
    """
    if found := FILLED_IN.search(name):
        return f"holds {found[0]!r}, which Snakemake would fill in; rename it"
    if "\n" in name:
        return "holds a line break; rename it"
    if name.startswith("-"):
        return "begins with `-`, as options do; rename it or write its whole path"
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        return "is not UTF-8; rename it"
    if submits and not _survives_submission(name):
        return (
            "cannot be handed to jobs on a cluster: Snakemake loses a backslash, invisible characters, a "
            'quote at the beginning, and `"`, `$` or a backquote together with an apostrophe; rename it'
        )
    return ""


def _survives_submission(name: str) -> bool:
    """Whether a shell reads a name from its literal in Python: Snakemake quotes so for submitted jobs."""
    if name[:1] in ("'", '"'):  # taken to be quoted already
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
