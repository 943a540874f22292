"""The log of a training: a row per epoch."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence


def log_text(rows: Sequence[dict[str, float]]) -> str:
    """Rows of epochs as CSV; missing values and undefined scores stay empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    # The report reads an empty field as a missing value, but `nan` as a word.
    writer.writerows({key: "" if math.isnan(value) else value for key, value in row.items()} for row in rows)
    return text.getvalue()


def added(row: dict[str, float], columns: dict[str, float]) -> dict[str, float]:
    """A row of the log with the columns of a further validation of its epoch, whose seconds are added."""
    seconds = row.get("validation_seconds", 0.0) + columns["validation_seconds"]
    return {**row, **columns, "validation_seconds": seconds}


def progress(row: dict[str, float], epochs: int) -> str:
    """A row in words."""
    shown = [f"epoch {row['epoch']:.0f}/{epochs}", f"loss {row['loss']:.4f}"]
    shown += [f"{key} {value:.4f}" for key, value in row.items() if key.startswith(("val_", "patch_"))]
    shown += [f"lr {row['lr']:.2e}", f"{row['seconds']:.1f} s", f"data wait {row['data_wait']:.0%}"]
    shown.append(f"peak {row['peak_mib']:.0f} MiB")
    return "  ".join(shown)
