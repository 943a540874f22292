"""Collect the scores of a fold, or of the ensemble's cases, with what other cases chose."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import pandas as pd

from foldwise.command import Of, Output, run, stage
from foldwise.evaluate import KEYS
from foldwise.files import atomic_path, write_json
from foldwise.index import Index
from foldwise.record import fingerprint_so_far
from foldwise.scores import read_rows, table_of
from foldwise.section import Section
from foldwise.systems.base import System


@stage
def metrics(
    *,
    system: System[Any, Any],
    settings: Annotated[Section, Of("evaluate")],
    index: Annotated[Path, "label-path index of the cases"],
    fold: Annotated[str, "for the column `fold`"],
    choosing: Annotated[list[Path] | None, "folders of the scores of the cases that choose"] = None,
    scores: Annotated[list[Path], "folders of the scores of the cases"],
    metrics: Annotated[Output, "scores to write (.csv)"],
    choice: Annotated[Output, "choice to write (.json)"],
) -> None:
    """Choose on some cases, and write the scores of others."""
    chosen = system.results.choose(read_rows(choosing or []), settings)
    table = table_of(Index.read(index).entries, read_rows(scores), chosen, fold).assign(
        **fingerprint_so_far()
    )
    with atomic_path(metrics) as temporary:
        (table if len(table) else pd.DataFrame(columns=[*KEYS])).to_csv(temporary, index=False)
    write_json(choice, {"chosen": dict(chosen)})
    means = table.select_dtypes("number").mean().head(3)
    logging.info("%d rows: %s", len(table), ", ".join(f"mean {k} {v:.4f}" for k, v in means.items()))


if __name__ == "__main__":
    run(metrics.main)
