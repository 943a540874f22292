"""From simulated sessions to scores of every round, and masks and the quality of slices as files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldwise.files import write_text
from foldwise.index import Entry
from foldwise.report.view import View
from foldwise.scores import Chosen
from foldwise.systems.base import Results, Rows
from foldwise.systems.interactive.kinds import PROTOCOLS
from foldwise.systems.interactive.marks import Marks
from foldwise.systems.interactive.masks import mask_in_source, quality_rows
from foldwise.systems.interactive.placement import Placement
from foldwise.systems.interactive.record import Record, Scored, correlation, open_record, pairs
from foldwise.systems.interactive.segfm3d import Score, outcomes, scores
from foldwise.systems.interactive.settings import Evaluate, Export
from foldwise.systems.interactive.state import State
from foldwise.volumes.labels import read_labels
from foldwise.volumes.metrics import score as score_volume
from foldwise.volumes.targets import label_type
from foldwise.volumes.volume import Header, Volume, write_volume

KEPT = ("dice", "jaccard", "hd95_mm", "assd_mm", "surface_dice", "volume_ml", "truth_ml", "empty")


class InteractiveResults(Results):
    """Scores of every round on the source's grid; masks and the quality of slices as files."""

    def score_case(
        self, prediction: Path, entry: Entry, task: Mapping[str, Any], evaluate: Evaluate, chosen: Chosen
    ) -> Rows:
        """One row per object, kind of hints, choice of slices, and round.

        Further columns: engine; slice (in the cache); seconds of the round; quality_r, the correlation of
        predicted and true IoU over the slices without marks where it is predicted; broken, the number of
        marked voxels that the masks contradict; over, whether nothing was left to do. The last round of a
        published protocol has its scores, too, as segfm3d_<score>.
        """
        if "label" not in entry.files:
            return []
        rows = []
        with open_record(prediction) as file:
            record = Record(file)
            lineage = record.lineage
            grid = Header(lineage.source_shape, lineage.affine, np.dtype(np.uint8))
            truth = read_labels(Path(entry.files["label"][0]), record.targets, grid)
            protocols: dict[str, list[tuple[float, dict[int, Score]]]] = {}
            for round_ in record.rounds():
                published = {}
                if round_.hints in PROTOCOLS:
                    rounds = protocols.setdefault(round_.engine, [])
                    rounds.append((round_.seconds, _by_protocol(round_, record, truth)))
                    if round_.number == PROTOCOLS["segfm3d"]:
                        published = _outcomes(rounds, record)
                facts = {
                    "engine": round_.engine,
                    "hints": round_.hints,
                    "choice": round_.choice,
                    "round": round_.number,
                    "slice": round_.place,
                    "seconds": round_.seconds,
                    "quality_r": correlation(*pairs(round_)),
                    "broken": round_.broken,
                    "over": round_.over,
                }
                for row in _scored(round_, record, truth, evaluate.tolerance_mm):
                    kept = {name: row[name] for name in KEPT}
                    rows.append({"class": row["class"], **kept, **facts, **published.get(row["class"], {})})
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
            last = record.exported
        names = record.targets.names
        quality = {number: last.quality[number - 1] for number in range(1, len(names) + 1)}
        marked = Marks(record.axis, empty=np.array(last.hinted))
        state = State(last.mask, record.axis, quality, dict.fromkeys(quality, (marked,)))
        for number in set(quality) - set(state.areas):
            logging.warning(
                "case %s: %s was not found on any slice; it is missing from the mask",
                entry.case,
                names[number - 1],
            )
        write_volume(
            mask_in_source(last.mask, record.lineage, record.targets), folder / f"{entry.case}.nii.gz"
        )
        placement = Placement(record.lineage)
        rows = quality_rows(state, names, lambda place: placement.slice_in_source(record.axis, place))
        write_text(folder / f"{entry.case}_quality.csv", pd.DataFrame(rows).to_csv(index=False))
        return {}

    @property
    def view(self) -> View:
        """Rounds and their Dice."""
        from foldwise.systems.interactive.report import VIEW

        return VIEW


def _scored(round_: Scored, record: Record, truth: Volume, tolerance_mm: float) -> list[dict[str, Any]]:
    found = mask_in_source(round_.mask, record.lineage, record.targets).data
    return list(
        score_volume(found, truth.data, truth.affine, record.targets.values, tolerance_mm=tolerance_mm)
    )


def _by_protocol(round_: Scored, record: Record, truth: Volume) -> dict[int, Score]:
    """The protocol's scores of a round on the source's grid."""
    names, lineage = record.targets.names, record.lineage
    numbers = range(1, len(names) + 1)
    real = np.zeros(truth.data.shape, label_type(len(names)))
    for number, name in enumerate(names, start=1):
        real[np.isin(truth.data, record.targets.values[name])] = number
    found = lineage.to_source(lineage.labels_to_box(round_.mask)).data
    return scores(real, found, truth.spacing, numbers)


def _outcomes(rounds: list[tuple[float, dict[int, Score]]], record: Record) -> dict[str, dict[str, float]]:
    """Object → the columns of the protocol."""
    seconds, scored = zip(*rounds, strict=True)
    return {
        record.targets.names[number - 1]: {f"segfm3d_{key}": value for key, value in asdict(outcome).items()}
        for number, outcome in outcomes(scored, seconds).items()
    }
