"""Sessions of one case as HDF5, the basis of scores, files and the report.

    probabilities          (objects, slices, rows, columns) uint8: the exported session's last round
    quality                (objects, slices) float32: of the same round
    hinted                 slices with hints in that session
    <hints>/<choice>/<n>   a round: `mask` (slices, rows, columns) uint8 object numbers, `quality` and `iou`
                           (objects, slices) float32, predicted and true; attributes slice, seconds
Attributes: format, case, axis, targets, lineage (JSON), memory_bytes.
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
from foldwise.systems.interactive.kinds import CHOICES, KINDS
from foldwise.systems.interactive.rounds import Round, slice_iou
from foldwise.systems.interactive.session import State
from foldwise.volumes.cache import lineage_of
from foldwise.volumes.geometry import Lineage
from foldwise.volumes.slices import AXES
from foldwise.volumes.targets import Targets

FORMAT = "foldwise-sessions-1"


@dataclass(frozen=True)
class Scored:
    """A round as recorded.

    Attributes:
        hints: kind of marks.
        choice: how the slice was chosen.
        number: number of the round, from 1.
        place: the slice with the new hints.
        hinted: all slices with hints so far.
        seconds: its duration.
        mask: object numbers (slices, rows, columns).
        quality: predicted IoU (objects, slices).
        iou: true IoU (objects, slices).
    """

    hints: str
    choice: str
    number: int
    place: int
    hinted: tuple[int, ...]
    seconds: float
    mask: np.ndarray
    quality: np.ndarray
    iou: np.ndarray


class Writer:
    """An open record; rounds are written one by one, so that only one is in memory."""

    def __init__(self, file: h5py.File, truth: np.ndarray, objects: int) -> None:
        self.file, self.truth, self.objects = file, truth, objects

    def add(self, hints: str, choice: str, round_: Round) -> None:
        """Write a round of a session."""
        group = self.file.create_group(f"{hints}/{choice}/{round_.number}")
        mask = round_.state.objects()
        _store(group, "mask", mask)
        group["quality"] = round_.state.quality
        group["iou"] = slice_iou(mask, self.truth, self.objects).astype(np.float32)
        group.attrs.update({"slice": round_.place, "seconds": round_.seconds})

    def finish(self, state: State) -> None:
        """Write the state to export."""
        _store(self.file, "probabilities", state.probabilities)
        self.file["quality"] = state.quality
        self.file["hinted"] = np.array(state.hinted, np.int32)


class Record:
    """A written record, open for reading."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self.case = str(file.attrs["case"])
        self.axis = str(file.attrs["axis"])
        self.targets = Targets.from_dict(json.loads(file.attrs["targets"]))
        self.lineage: Lineage = lineage_of(file)
        self.memory_bytes = int(file.attrs["memory_bytes"])

    @property
    def simulated(self) -> bool:
        """Whether the record has sessions; a case without a label has none."""
        return "probabilities" in self._file

    @property
    def state(self) -> State:
        """The state to export."""
        hinted = tuple(self._file["hinted"][()].tolist())
        return State(self._file["probabilities"][()], self._file["quality"][()], hinted)

    def rounds(self) -> Iterator[Scored]:
        """All rounds of all sessions."""
        for hints in KINDS:
            for choice in CHOICES:
                rounds = self._file.get(f"{hints}/{choice}", {})
                hinted: tuple[int, ...] = ()
                for name in sorted(rounds, key=int):
                    group = rounds[name]
                    hinted = (*hinted, int(group.attrs["slice"]))
                    yield Scored(
                        hints,
                        choice,
                        int(name),
                        hinted[-1],
                        hinted,
                        float(group.attrs["seconds"]),
                        group["mask"][()],
                        group["quality"][()],
                        group["iou"][()],
                    )


def in_source(mask: np.ndarray, record: Record) -> np.ndarray:
    """Object numbers of a round as a label map in the source's grid, with the objects' values."""
    targets = record.targets
    values = np.array([0, *(targets.value(name) for name in targets.names)])
    volume = np.moveaxis(mask, 0, AXES.index(record.axis))
    return record.lineage.to_source(values[record.lineage.to_box(volume)]).data


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


def _store(group: h5py.Group, name: str, array: np.ndarray) -> None:
    compression = hdf5plugin.Blosc2(cname="zstd", clevel=5, filters=hdf5plugin.Blosc2.BITSHUFFLE)
    group.create_dataset(name, data=array, chunks=True, compression=compression)


def pairs(round_: Scored) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true IoU of slices without hints, except where an object is certainly absent (1)."""
    predicted = round_.quality < 1
    predicted[:, list(round_.hinted)] = False
    return round_.quality[predicted], round_.iou[predicted]


def correlation(predicted: np.ndarray, true: np.ndarray) -> float:
    """Pearson's r; NaN for fewer than three pairs, or if either is constant."""
    if len(predicted) < 3 or not np.ptp(predicted) or not np.ptp(true):
        return float("nan")
    return float(np.corrcoef(predicted, true)[0, 1])
