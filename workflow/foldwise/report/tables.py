"""Tables of the page: rows of plain values, and the title and format of each column."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: key of the rows' values.
        title: heading, with the unit.
        digits: decimals of its numbers.
        text: whether it contains text, aligned left.
    """

    key: str
    title: str
    digits: int = 0
    text: bool = False

    def write(self, row: Mapping[str, Any]) -> str:
        """The row's value as the page shows it."""
        value = row.get(self.key)
        return value if isinstance(value, str) else number(value, self.digits)


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        caption: description.
        columns: from left to right; the first one names the row.
        rows: column's key → text, number, or None.
        sortable: whether a click on a heading sorts the table.
    """

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    sortable: bool = False


def number(value: float | None, digits: int) -> str:
    """A number with a fixed count of decimals; an en dash if missing."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:z.{digits}f}".replace("-", "−")


def spread(mean: float, std: float, digits: int) -> str:
    """Mean ± standard deviation; only the mean if a single value has no deviation."""
    written = number(mean, digits)
    return written if math.isnan(std) else f"{written} ± {number(std, digits)}"


def interval(low: float, high: float, digits: int) -> str:
    """Both ends of an interval; an en dash if missing."""
    return "–" if math.isnan(low) else f"{number(low, digits)} to {number(high, digits)}"
