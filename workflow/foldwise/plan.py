"""Settings completed by a plan: a YAML file with the sections that an experiment leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from foldwise.files import CaseError
from foldwise.settings import AnySection, parse_values, validate


def with_plan(kind: type[AnySection], given: str, plan: Path | None, *place: str) -> AnySection:
    """A section of settings, completed by a plan where there is one.

    Args:
        kind: the section.
        given: what the experiment sets, as YAML or JSON text; with a plan, without the defaults.
        plan: plan.yaml, or None.
        place: keys under which the plan holds the section.
    """
    values = parse_values(given)
    if plan is not None:
        values = merged(read_plan(plan, *place), values)
    return validate(kind, values, origin=str(plan or "settings"))


def read_plan(plan: Path, *place: str) -> dict[str, Any]:
    """A section of a plan as plain values; empty if the plan has none.

    Raises:
        CaseError: the file is not readable as YAML.
    """
    try:
        values = yaml.safe_load(plan.read_text(encoding="utf-8"))
        for key in place:
            values = values.get(key, {})
    except (OSError, yaml.YAMLError, AttributeError) as error:
        raise CaseError(f"{plan}: not readable as a plan ({error}); delete it to plan anew") from error
    return dict(values)


def merged(planned: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Two sections as one: `given` goes before; a named class is taken whole, never mixed."""
    made = dict(planned)
    for key, value in given.items():
        old = made.get(key)
        nested = isinstance(value, dict) and isinstance(old, dict) and "name" not in value
        made[key] = merged(old, value) if nested and isinstance(old, dict) else value
    return made
