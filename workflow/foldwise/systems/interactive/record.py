"""Sessions of one case as HDF5, the basis of scores, files and the report.

    <engine>/<hints>/<choice>/<n>  a round: `mask` (x, y, z) object numbers; `quality` and `iou` (objects,
                                   slices) float32, predicted and true; attributes slice, seconds, broken,
                                   over
    exported                       attributes engine, hints, choice: the session whose last mask is exported
Attributes: format, case, axis (x, y or z), targets, lineage (JSON), memory_bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from foldwise.hdf5 import create_hdf5, open_hdf5
from foldwise.systems.interactive.kinds import CHOICES, ENGINES, KINDS, PROTOCOLS
from foldwise.systems.interactive.rounds import Round, slice_iou
from foldwise.volumes.cache import lineage_of
from foldwise.volumes.geometry import Lineage
from foldwise.volumes.slices import AXES
from foldwise.volumes.targets import Targets

FORMAT = "foldwise-sessions-2"


@dataclass(frozen=True)
class Scored:
    """A round as recorded.

    Attributes:
        engine: the engine.
        hints: kind of marks.
        choice: how the slice was chosen.
        number: number of the round, from 1.
        place: the slice with the new marks.
        hinted: all slices with marks so far.
        seconds: its duration.
        broken: marked voxels that the mask contradicts.
        over: whether nothing was left to do.
        mask: object numbers (x, y, z).
        quality: predicted IoU (objects, slices); NaN: unknown.
        iou: true IoU (objects, slices).
    """

    engine: str
    hints: str
    choice: str
    number: int
    place: int
    hinted: tuple[int, ...]
    seconds: float
    broken: int
    over: bool
    mask: np.ndarray
    quality: np.ndarray
    iou: np.ndarray


class Writer:
    """An open record; rounds are written one by one, so that only one is in memory."""

    def __init__(self, file: h5py.File, truth: np.ndarray, objects: int) -> None:
        self.file, self.truth, self.objects = file, truth, objects

    def add(self, engine: str, hints: str, choice: str, round_: Round) -> None:
        """Write a round of a session."""
        state = round_.state
        group = self.file.create_group(f"{engine}/{hints}/{choice}/{round_.number}")
        compression = hdf5plugin.Blosc2(cname="zstd", clevel=5, filters=hdf5plugin.Blosc2.BITSHUFFLE)
        group.create_dataset("mask", data=state.labels, chunks=True, compression=compression)
        group["quality"] = np.stack([state.quality_of(n) for n in range(1, self.objects + 1)])
        found, truth = (np.moveaxis(labels, state.axis, 0) for labels in (state.labels, self.truth))
        group["iou"] = slice_iou(found, truth, self.objects).astype(np.float32)
        facts = {
            "slice": round_.place,
            "seconds": round_.seconds,
            "broken": round_.broken,
            "over": round_.over,
        }
        group.attrs.update(facts)

    def export(self, engine: str, hints: str, choice: str) -> None:
        """Name the session to export."""
        self.file.create_group("exported").attrs.update({"engine": engine, "hints": hints, "choice": choice})


class Record:
    """A written record, open for reading."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self.case = str(file.attrs["case"])
        self.axis = AXES.index(str(file.attrs["axis"]))
        self.targets = Targets.from_dict(json.loads(file.attrs["targets"]))
        self.lineage: Lineage = lineage_of(file)
        self.memory_bytes = int(file.attrs["memory_bytes"])

    @property
    def simulated(self) -> bool:
        """Whether the record has sessions; a case without a label has none."""
        return "exported" in self._file

    @property
    def exported(self) -> Scored:
        """The last round of the session to export."""
        chosen = dict(self._file["exported"].attrs)
        *_, last = self.session(chosen["engine"], chosen["hints"], chosen["choice"])
        return last

    def rounds(self) -> Iterator[Scored]:
        """All rounds of all sessions."""
        for engine in ENGINES:
            for hints in (*KINDS, *PROTOCOLS):
                for choice in CHOICES:
                    yield from self.session(engine, hints, choice)

    def session(self, engine: str, hints: str, choice: str) -> Iterator[Scored]:
        """The rounds of a session; none if there is no such session."""
        rounds = self._file.get(f"{engine}/{hints}/{choice}", {})
        hinted: tuple[int, ...] = ()
        for name in sorted(rounds, key=int):
            group = rounds[name]
            hinted = (*hinted, int(group.attrs["slice"]))
            yield Scored(
                engine,
                hints,
                choice,
                int(name),
                hinted[-1],
                hinted,
                float(group.attrs["seconds"]),
                int(group.attrs["broken"]),
                bool(group.attrs["over"]),
                group["mask"][()],
                group["quality"][()],
                group["iou"][()],
            )


def create(path: Path, attributes: dict[str, str | int]) -> h5py.File:
    """A new record's file, open for writing; the caller renames it."""
    file = create_hdf5(path)
    file.attrs.update({"format": FORMAT, **attributes})
    return file


def open_record(path: Path) -> h5py.File:
    """Open a record read-only.

    Raises:
        CaseError: no such file, or not a record of this version.
    """
    return open_hdf5(path, FORMAT)


def pairs(round_: Scored) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true IoU of slices without marks, where a quality is predicted."""
    predicted = np.isfinite(round_.quality)
    predicted[:, list(round_.hinted)] = False
    return round_.quality[predicted], round_.iou[predicted]


def correlation(predicted: np.ndarray, true: np.ndarray) -> float:
    """Pearson's r; NaN for fewer than three pairs, or if either is constant."""
    if len(predicted) < 3 or not np.ptp(predicted) or not np.ptp(true):
        return float("nan")
    return float(np.corrcoef(predicted, true)[0, 1])
