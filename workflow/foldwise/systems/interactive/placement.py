"""The place of a prepared grid (cropped, turned, resampled) in the grid of its scan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from nibabel.affines import apply_affine

from foldwise.systems.interactive.engines import Answer, Request
from foldwise.systems.interactive.marks import KINDS, Marks
from foldwise.volumes.geometry import Lineage


class Placement:
    """Requests and answers of an engine that works on a prepared grid."""

    def __init__(self, lineage: Lineage) -> None:
        self.lineage = lineage
        self._to_prepared = np.linalg.inv(lineage.cached_affine) @ lineage.affine
        self._axes = [axis for axis, _ in lineage.turn]

    def axis(self, axis: int) -> int:
        """The prepared grid's axis along an axis of the scan, at least approximately."""
        return self._axes[axis]

    def request(self, request: Request) -> Request:
        """A request on the prepared grid; marks outside it are left out."""
        known = np.where(np.isin(request.labels, list(request.new)), request.labels, 0)
        labels = self.lineage.labels_to_cache(known[self.lineage.box.slices])
        return replace(
            request,
            labels=labels,
            marks={number: self._all(said) for number, said in request.marks.items()},
            new={number: self._all(given) for number, given in request.new.items()},
            axis=self.axis(request.axis),
        )

    def answer(self, answer: Answer, request: Request, axis: int) -> Answer:
        """An answer on the scan's grid: probabilities are interpolated linearly, and 0 outside the box."""
        masks = {number: self._mask(mask) for number, mask in answer.masks.items()}
        middle = (np.array(request.labels.shape) - 1) / 2
        centres = np.tile(middle, (request.labels.shape[request.axis], 1))
        centres[:, request.axis] = np.arange(len(centres))
        places = np.rint(apply_affine(self._to_prepared, centres)[:, axis]).astype(int)
        quality = {}
        for number, found in answer.quality.items():
            known = (places >= 0) & (places < len(found))
            quality[number] = np.where(known, found[places.clip(0, len(found) - 1)], np.nan).astype(
                np.float32
            )
        return Answer(masks, quality)

    def slice_in_source(self, axis: int, place: int) -> int:
        """The scan's slice nearest to a slice of the prepared grid across one of its axes."""
        centre = (np.array(self.lineage.shape) - 1) / 2
        centre[axis] = place
        along = self._axes.index(axis)
        index = np.rint(apply_affine(np.linalg.inv(self._to_prepared), centre)[along])
        return int(np.clip(index, 0, self.lineage.source_shape[along] - 1))

    def _mask(self, mask: np.ndarray) -> np.ndarray:
        if self.lineage.resamples:
            found = np.rint(self.lineage.to_box(mask.astype(np.float32))).clip(0, 255).astype(np.uint8)
        else:
            found = self.lineage.to_box(mask)
        return self.lineage.to_source(found).data

    def _all(self, said: tuple[Marks, ...]) -> tuple[Marks, ...]:
        return tuple(moved for moved in map(self._marks, said) if moved)

    def _marks(self, marks: Marks) -> Marks:
        axis = self.axis(marks.axis)
        moved = {}
        for name in KINDS:
            values = getattr(marks, name)
            if name in ("spans", "empty"):
                moved[name] = self._planes(marks.axis, values)
                continue
            voxels = self._voxels(values.reshape(-1, 3)).reshape(values.shape)
            inside = ((voxels >= 0) & (voxels < self.lineage.shape)).all(tuple(range(1, voxels.ndim)))
            # A box may reach beyond what was kept.
            if name == "boxes":
                flat = voxels[..., axis]
                inside = ((flat >= 0) & (flat < self.lineage.shape[axis])).all(1)
                voxels = voxels.clip(0, np.array(self.lineage.shape) - 1)
            kept = voxels[inside]
            moved[name] = np.unique(kept, axis=0) if name in ("inside", "outside") and len(kept) else kept
        empty = moved["empty"]
        moved["empty"] = np.unique(empty[(empty >= 0) & (empty < self.lineage.shape[axis])])
        moved["spans"] = np.sort(moved["spans"], 1).clip(0, self.lineage.shape[axis] - 1)
        return Marks(axis, **moved, painted=marks.painted)

    def _voxels(self, voxels: np.ndarray) -> np.ndarray:
        moved: np.ndarray = np.rint(apply_affine(self._to_prepared, voxels)).astype(np.int64)
        return moved

    def _planes(self, axis: int, places: np.ndarray) -> np.ndarray:
        middle = (np.array(self.lineage.source_shape) - 1) / 2
        centres = np.tile(middle, (places.size, 1))
        centres[:, axis] = places.ravel()
        return self._voxels(centres)[:, self.axis(axis)].reshape(places.shape)
