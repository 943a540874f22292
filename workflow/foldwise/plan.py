"""Settings completed by a plan: a YAML file with the sections that an experiment leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from foldwise.files import CaseError
from foldwise.section import Strict
from foldwise.settings import AnySection, Name, dump, validate


class PlanFile(Strict):
    """What a plan's file holds. Its sections are checked once they complete those of the experiment."""

    fingerprint: dict[str, Any] = Field({}, description="What the training cases are like.")
    cache: dict[str, Any] = Field({}, description="For the section cache.")
    models: dict[Name, dict[str, Any]] = Field({}, description="Model name → its settings.")


def with_plan(kind: type[AnySection], given: Mapping[str, Any], plan: Path | None, *place: str) -> AnySection:
    """A section of settings, completed by a plan where there is one.

    Args:
        kind: the section.
        given: what the experiment sets; with a plan, without the defaults.
        plan: plan.yaml, or None.
        place: keys under which the plan holds the section.

    Raises:
        CaseError: the plan or the settings are wrong, or the plan has no such section.
    """
    if plan is None:
        return validate(kind, given)
    planned: Any = dump(read_plan(plan))
    for key in place:
        if key not in planned:
            raise CaseError(f"{plan}: plans no {'.'.join(place)}; delete it to plan anew")
        planned = planned[key]
    return validate(kind, merged(planned, given), origin=f"settings with {plan}")


def read_plan(plan: Path) -> PlanFile:
    """Read a plan.

    Raises:
        CaseError: the file is not readable as YAML, or has other keys or values than a plan.
    """
    try:
        values = yaml.safe_load(plan.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CaseError(f"{plan}: not readable as a plan ({error}); delete it to plan anew") from error
    return validate(PlanFile, values, origin=f"{plan} (delete it to plan anew)")


def is_planned(plan: Path, model: str) -> bool:
    """Whether there is a plan already that plans a model."""
    return plan.exists() and model in read_plan(plan).models


def merged(planned: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Two sections as one: `given` goes before; a named class is taken whole, never mixed."""
    made = dict(planned)
    for key, value in given.items():
        old = made.get(key)
        nested = isinstance(value, dict) and isinstance(old, dict) and "name" not in value
        made[key] = merged(old, value) if nested and isinstance(old, dict) else value
    return made
