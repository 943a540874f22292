"""From simulated sessions to scores of every round, and masks and the quality of slices as files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldwise.files import write_text
from foldwise.index import Entry
from foldwise.report.view import View
from foldwise.scores import Chosen
from foldwise.systems.base import Results, Rows
from foldwise.systems.interactive.masks import mask_in_source, quality_rows
from foldwise.systems.interactive.places import Places
from foldwise.systems.interactive.record import Record, Scored, correlation, in_source, open_record, pairs
from foldwise.systems.interactive.settings import Evaluate, Export
from foldwise.volumes.labels import read_labels
from foldwise.volumes.metrics import score as score_volume
from foldwise.volumes.volume import Header, Volume, write_volume

KEPT = ("dice", "jaccard", "hd95_mm", "assd_mm", "surface_dice", "volume_ml", "truth_ml", "empty")


class InteractiveResults(Results):
    """Scores of every round on the source's grid; masks and the quality of slices as files."""

    def score_case(
        self, prediction: Path, entry: Entry, task: Mapping[str, Any], evaluate: Evaluate, chosen: Chosen
    ) -> Rows:
        """One row per object, kind of hints, choice of slices, and round.

        Further columns: slice (in the stack), seconds of the round, and quality_r, the correlation of
        predicted and true IoU over the slices without hints where the object may be.
        """
        if "label" not in entry.files:
            return []
        rows = []
        with open_record(prediction) as file:
            record = Record(file)
            lineage = record.lineage
            grid = Header(lineage.source_shape, lineage.affine, np.dtype(np.uint8))
            truth = read_labels(Path(entry.files["label"][0]), record.targets, grid)
            for round_ in record.rounds():
                session = {"hints": round_.hints, "choice": round_.choice}
                facts = {
                    "round": round_.number,
                    "slice": round_.place,
                    "seconds": round_.seconds,
                    "quality_r": correlation(*pairs(round_)),
                }
                for row in _scored(round_, record, truth, evaluate.tolerance_mm):
                    rows.append({"class": row["class"], **session, **{n: row[n] for n in KEPT}, **facts})
        return rows

    def export_case(
        self,
        prediction: Path,
        entry: Entry,
        export: Export,
        chosen: Chosen,
        folder: Path,
        scored: Path | None = None,
    ) -> Mapping[str, Rows]:
        """Write the last mask of the exported session in the source's grid, and the quality of its slices.

        <case>.nii.gz and <case>_quality.csv.
        """
        with open_record(prediction) as file:
            record = Record(file)
            if not record.simulated:
                logging.info(
                    "case %s has no label: no hints could be simulated, so nothing is exported", entry.case
                )
                return {}
            state = record.state
        for number in state.not_found():
            name = record.targets.names[number]
            logging.warning(
                "case %s: %s was not found on any slice; it is missing from the mask", entry.case, name
            )
        mask = mask_in_source(state, record.lineage, record.axis, record.targets)
        write_volume(mask, folder / f"{entry.case}.nii.gz")
        rows = quality_rows(state, record.targets.names, Places(record.lineage, record.axis))
        write_text(folder / f"{entry.case}_quality.csv", pd.DataFrame(rows).to_csv(index=False))
        return {}

    @property
    def view(self) -> View:
        """Rounds and their Dice."""
        from foldwise.systems.interactive.report import VIEW

        return VIEW


def _scored(round_: Scored, record: Record, truth: Volume, tolerance_mm: float) -> list[dict[str, Any]]:
    found = in_source(round_.mask, record)
    return list(
        score_volume(found, truth.data, truth.affine, record.targets.values, tolerance_mm=tolerance_mm)
    )
