"""Sections of settings: frozen, strict, and each field declares what it affects.

These declarations alone determine what depends on a setting: names of folders of prepared data, `params` of
rules, fingerprints of checkpoints, and the keys of stored memory forecasts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

# The work that a setting can affect directly. Effects through files need no declaration.
Work = Literal[
    "lungs",  # finding lungs
    "crop",  # cropping volumes
    "cache",  # writing the files that training reads
    "regions",  # finding the regions of clips
    "features",  # storing a frozen network's features
    "plan",  # planning what the experiment leaves open
    "index",  # what is learnt, and the cases for training, validation and testing
    "train",
    "predict",
    "perturb",  # predicting clips with changed frames
    "choose",  # choosing post-processing and similar
    "score",
    "export",
    "report",
    "check",  # what is refused before the run, beyond the above
    "memory",  # what jobs request
]


def affects(*work: Work) -> dict[str, Any]:
    """The declaration of a field, for `json_schema_extra`; without any work: only speed, or nothing."""
    return {"affects": list(work)}


class Strict(BaseModel):
    """Values read from a file; unknown keys and infinite numbers are errors, and values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Section(Strict):
    """A group of settings. Every field declares what it affects, unless its type is a section itself."""

    @classmethod
    def __pydantic_init_subclass__(cls, **more: Any) -> None:
        """Refuse a class that does not have the form of settings.

        Raises:
            TypeError: it is not frozen, or a field lacks a declaration.
        """
        if not cls.model_config.get("frozen") or cls.model_config.get("extra") != "forbid":
            raise TypeError(f"{cls.__qualname__}: settings are frozen and forbid unknown keys")
        for name, field in cls.model_fields.items():
            if not _sections(field.annotation) and declared(field) is None:
                raise TypeError(
                    f"{cls.__qualname__}.{name}: declare what it affects, e.g. "
                    f'`json_schema_extra=affects("train")`'
                )


def values_for(section: BaseModel, *work: Work, given: bool = False) -> dict[str, Any]:
    """The values of a section and its subsections that affect any of `work`, as plain JSON values.

    Args:
        section: settings.
        work: kinds of work.
        given: only what was set, without the defaults.
    """
    return _chosen(section, section.model_dump(mode="json", exclude_unset=given), work)


def touches(kind: type[BaseModel], *work: Work) -> bool:
    """Whether any field of a section or its subsections affects any of `work`."""
    return any(
        affected & {*work} or any(touches(section, *work) for section in inner)
        for inner, affected in _fields(kind).values()
    )


@cache
def _fields(kind: type[BaseModel]) -> dict[str, tuple[list[type[Section]], set[str]]]:
    """Name of a field → the sections in its type, and what it affects itself."""
    return {
        name: (_sections(field.annotation), {*(declared(field) or ())})
        for name, field in kind.model_fields.items()
    }


def _chosen(section: BaseModel, dumped: Mapping[str, Any], work: Sequence[Work]) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for name, (inner, affected) in _fields(type(section)).items():
        if name not in dumped:
            continue
        if any(touches(kind, *work) for kind in inner):
            chosen[name] = _within(getattr(section, name), dumped[name], work)
        elif not inner and affected & {*work}:
            chosen[name] = dumped[name]
    return chosen


def _within(value: Any, dumped: Any, work: Sequence[Work]) -> Any:
    if isinstance(value, Section):
        return _chosen(value, dumped, work)
    if isinstance(value, Mapping):
        return {key: _within(item, dumped[key], work) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_within(item, one, work) for item, one in zip(value, dumped, strict=True)]
    return dumped


def declared(field: FieldInfo) -> list[str] | None:
    """What a field affects; None if it declares nothing."""
    extra = field.json_schema_extra
    found: Any = extra.get("affects") if isinstance(extra, dict) else None
    return found if isinstance(found, list) else None


def described(field: FieldInfo) -> str:
    """What a field means, and the names that its value may have if there are several."""
    names = ", ".join(f"`{name}`" for name in _names(field.annotation))
    return f"{field.description} Values: {names}." if ", " in names else str(field.description)


def _names(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [value for value in get_args(annotation) if isinstance(value, str)]
    return [name for part in get_args(annotation) for name in _names(part)]


def _sections(annotation: Any) -> list[type[Section]]:
    """The classes of sections named in a field's type."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for part in get_args(annotation) for found in _sections(part)]
