"""Sections of settings: frozen, strict, and each field declares what it affects.

What depends on a setting follows from the declarations alone: names of folders of prepared data, `params` of
rules, fingerprints of checkpoints, and by what forecasts of memory are remembered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

# The work that a setting can affect: what reads it. What follows from files follows by itself.
Work = Literal[
    "lungs",  # finding lungs
    "crop",  # cropping volumes
    "cache",  # writing the files that training reads
    "regions",  # finding the regions of clips
    "features",  # storing a frozen network's features
    "plan",  # planning what the experiment leaves open
    "index",  # what is learnt, and who trains, chooses and tests
    "train",
    "predict",
    "choose",  # post-processing and the like
    "score",
    "export",
    "report",
    "check",  # what is refused before anything runs, beyond the above
    "memory",  # what jobs ask for
]


def affects(*work: Work) -> dict[str, Any]:
    """The declaration of a field, for `json_schema_extra`; without any work: speed alone, or nothing."""
    return {"affects": list(work)}


class Strict(BaseModel):
    """Values of a file; an unknown key is an error, and values do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Section(Strict):
    """A group of settings. Every field declares what it affects, unless its type is a section itself."""

    @classmethod
    def __pydantic_init_subclass__(cls, **more: Any) -> None:
        """Refuse a class that has not the form of settings.

        Raises:
            TypeError: it is not frozen, or a field declares nothing.
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
    """The values of a section, and of those within it, that affect any of some work, as plain JSON values.

    Args:
        section: settings.
        work: kinds of work.
        given: only what was set, without the defaults.
    """
    return _chosen(section, section.model_dump(mode="json", exclude_unset=given), work)


def touches(kind: type[BaseModel], *work: Work) -> bool:
    """Whether any field of a section, or of those within it, affects any of some work."""
    for field in kind.model_fields.values():
        if set(declared(field) or ()) & set(work):
            return True
        if any(touches(inner, *work) for inner in _sections(field.annotation)):
            return True
    return False


def _chosen(section: BaseModel, dumped: Mapping[str, Any], work: Sequence[Work]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        if name not in dumped:
            continue
        inner = _sections(field.annotation)
        if any(touches(kind, *work) for kind in inner):
            made[name] = _within(getattr(section, name), dumped[name], work)
        elif not inner and set(declared(field) or ()) & set(work):
            made[name] = dumped[name]
    return made


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


def _sections(annotation: Any) -> list[type[Section]]:
    """The classes of sections that a field's type names."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for part in get_args(annotation) for found in _sections(part)]
