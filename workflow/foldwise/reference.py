"""The settings' reference, made from their definition: docs/settings.md, and a schema for editors."""

from __future__ import annotations

import functools
import json
import operator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from foldwise.files import write_text
from foldwise.section import Section, declared
from foldwise.settings import dump
from foldwise.systems import own

TITLE = """# Settings

Made by `make reference` from their definition in the code. An unknown key stops the run, with the nearest
known name. Sections that several systems share are explained where they come first. A change runs again what
it affects, and what is made from that; where nothing is named, it changes speed alone, or what is kept.
"""


def reference() -> str:
    """The settings of every system as Markdown tables: key, default, meaning."""
    parts: list[str] = [TITLE]
    seen: dict[type[BaseModel], str] = {}
    for name, system in own().items():
        parts += [f"## `system: {name}`", ""]
        _table(system.settings, "", parts, seen)
    return "\n".join(parts)


def _table(kind: type[BaseModel], prefix: str, parts: list[str], seen: dict[type[BaseModel], str]) -> None:
    seen[kind] = prefix.rstrip(".")
    nested: list[tuple[type[BaseModel], str]] = []
    title = (kind.__doc__ or "").splitlines()[0]
    parts += [
        f"**`{prefix.rstrip('.') or 'top level'}`** {title}",
        "",
        "| key | default | meaning | affects |",
        "|---|---|---|---|",
    ]
    for key, field in kind.model_fields.items():
        section, inner = _inner_section(field.annotation)
        if section and section not in seen:
            nested.append((section, f"{prefix}{key}{inner}."))
        shown = _shown_default(field, section, seen)
        work = ", ".join(declared(field) or ())
        parts.append(f"| `{key}` | {shown} | {field.description} | {work} |")
    parts.append("")
    for section, path in nested:
        _table(section, path, parts, seen)


def _inner_section(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, Section):
            inner = ".<name>" if getattr(annotation, "__origin__", None) is dict else ""
            return candidate, inner
    return None, ""


def _shown_default(field: Any, section: type[BaseModel] | None, seen: dict[type[BaseModel], str]) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return "`null`"
    if section:
        return f"see `{seen[section]}` above" if section in seen else "see below"
    value = dump(field.default) if isinstance(field.default, BaseModel) else field.default
    return f"`{json.dumps(value, default=str)}`"


def schema() -> str:
    """The JSON schema of every system's settings, for editors."""
    kinds = [system.settings for system in own().values()]
    return json.dumps(TypeAdapter(functools.reduce(operator.or_, kinds)).json_schema(), indent=2) + "\n"


def main() -> None:
    """Write docs/settings.md and the schema."""
    root = Path(__file__).parents[2]
    write_text(root / "workflow" / "settings.schema.json", schema())
    write_text(root / "docs" / "settings.md", reference())


if __name__ == "__main__":
    main()
