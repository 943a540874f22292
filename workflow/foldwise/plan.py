"""Settings completed by a plan: a YAML file with the sections that an experiment leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from foldwise.files import CaseError
from foldwise.section import Strict
from foldwise.settings import AnySection, Name, dump, validate
from foldwise.texts import read_values


class PlanFile(Strict):
    """The contents of a plan's file. Its sections are validated after merging with the experiment's."""

    fingerprint: dict[str, Any] = Field({}, description="Properties of the training cases.")
    cache: dict[str, Any] = Field({}, description="Values for the section cache.")
    models: dict[Name, dict[str, Any]] = Field({}, description="Model name → its settings.")


def with_plan(kind: type[AnySection], given: Mapping[str, Any], plan: Path | None, *place: str) -> AnySection:
    """A section of settings, completed by a plan if one is given.

    Args:
        kind: the section.
        given: values set in the experiment; with a plan, without the defaults.
        plan: plan.yaml, or None.
        place: keys that lead to the section in the plan.

    Raises:
        CaseError: the plan or the settings are wrong, or the section is missing from the plan.
    """
    if plan is None:
        return validate(kind, given)
    planned: Any = dump(read_plan(plan))
    for key in place:
        if key not in planned:
            raise CaseError(f"{plan}: has no {'.'.join(place)}; delete it to plan again")
        planned = planned[key]
    return validate(kind, merged(planned, given), origin=f"settings with {plan}")


def read_plan(plan: Path) -> PlanFile:
    """Read a plan.

    Raises:
        CaseError: the file is not readable as YAML, or its keys or values are not those of a plan.
    """
    try:
        values = read_values(plan)
    except CaseError as error:
        raise CaseError(f"{error}; delete it to plan again") from error
    return validate(PlanFile, values, origin=f"{plan} (delete it to plan again)")


def is_planned(plan: Path, model: str) -> bool:
    """Whether a plan exists and has a section for a model."""
    return plan.exists() and model in read_plan(plan).models


def merged(planned: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two sections: `given` overrides `planned`; a named class is taken whole, never mixed."""
    section = dict(planned)
    for key, value in given.items():
        old = section.get(key)
        nested = isinstance(value, dict) and isinstance(old, dict) and "name" not in value
        section[key] = merged(old, value) if nested and isinstance(old, dict) else value
    return section
