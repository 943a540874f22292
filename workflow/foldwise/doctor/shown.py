"""The doctor's findings for people and for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from foldwise.doctor.finding import Finding

COLOURS = {"ok": "green", "warning": "yellow", "error": "bold red"}


def show(found: Sequence[Finding], *, as_json: bool = False) -> None:
    """Print the findings: a table in a terminal, else a line each.

    Args:
        found: the findings.
        as_json: print them as JSON, a list of objects with `topic`, `level`, `found` and `todo`.
    """
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2, ensure_ascii=False))
    elif not sys.stdout.isatty() or not _table(found):
        for one in found:
            print(f"{one.level:8} {one.topic}: {one.found}")
            if one.todo:
                print(f"{'':8} → {one.todo}")
    if not as_json:
        counts = {level: sum(one.level == level for one in found) for level in COLOURS}
        print(f"{counts['error']} error(s), {counts['warning']} warning(s)")


def _table(found: Sequence[Finding]) -> bool:
    """Print a table; False: the library for it is missing."""
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "what", "found, and what to do"):
        table.add_column(column, overflow="fold")
    for one in found:
        text = Text(one.found)
        if one.todo:
            text.append(f"\n→ {one.todo}", "bold")
        table.add_row(Text(one.level, COLOURS[one.level]), Text(one.topic), text)
    Console().print(table)
    return True
