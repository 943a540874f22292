"""A round: an engine's masks, made to obey every mark, and what is known of their quality."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from scipy.ndimage import find_objects

from foldwise.files import CaseError
from foldwise.systems.interactive.engines import CERTAIN, Engine, Request, Scan
from foldwise.systems.interactive.engines.spreading import spread
from foldwise.systems.interactive.hints import followed
from foldwise.systems.interactive.marks import Marks, Said, Settled, limits_of, on_plane, settled
from foldwise.systems.interactive.state import State, extent
from foldwise.volumes.objects import number_type

New = Mapping[int, tuple[Marks, ...]]
NONE: Mapping[int, str] = MappingProxyType({})


def advance(
    engine: Engine,
    scan: Scan,
    state: State,
    new: New,
    names: Sequence[str],
    *,
    axis: int | None = None,
    held: Mapping[int, str] = NONE,
    progress: Callable[[float], None] = lambda share: None,
) -> State:
    """The state after a round; marked voxels are in or out, whatever the engine answers.

    Voxels of other objects stay theirs, unless they are marked for an object of this round.

    Args:
        engine: opened on the scan.
        scan: the scan.
        state: before the round; it is not changed.
        new: object number → its marks of this round.
        names: of the objects, the first one has number 1.
        axis: the axis across the slices from now on; default: as before.
        held: objects that no round may change, and why (`Object.held`).
        progress: see `Request`.

    Raises:
        CaseError: there are no marks, or they are outside the grid, contradict each other, or concern a
            locked or hidden object; or the engine refuses.
        StoppedError: the person stopped the round.
    """
    axis = state.axis if axis is None else axis
    refuse(new, state, names, held)
    marks = remembered(state, new)
    answer = engine.segment(Request(state.labels, marks, new, axis, progress))
    fixed = {number: settled(said, scan.shape) for number, said in marks.items()}
    masks = {number: obeying(scan, mask, fixed[number]) for number, mask in answer.masks.items()}
    labels = merged(_wide(state.labels, names), masks, fixed)
    before = state.quality if axis == state.axis else {}
    places = [
        place for given in new.values() for each in given if each.axis == axis for place in each.planes()
    ]
    last = places[-1] if places else state.last
    quality = {**before}
    after = State(labels, axis, quality, marks, last)
    for number in new:
        estimated = answer.quality.get(number, np.full(after.slices, np.nan, np.float32))
        if number in before:
            # What was known of a mask still holds where the mask is the same.
            same = unchanged(state, after, number)
            estimated = np.where(np.isnan(estimated) & same, before[number], estimated)
        quality[number] = judged(after, number, estimated)
    return after


def unchanged(before: State, after: State, number: int) -> np.ndarray:
    """On which slices an object has the same voxels in two states of one axis."""
    others = tuple(each for each in range(3) if each != after.axis)
    same = np.ones(after.slices, bool)
    for box in (before.boxes.get(number), after.boxes.get(number)):
        if box is not None:
            one, other = before.labels[box] == number, after.labels[box] == number
            same[box[after.axis]] &= ~(one != other).any(others)
    return same


def remembered(state: State, new: New) -> dict[int, Said]:
    """All marks of all objects, with new ones; these take their voxels from other objects' marks."""
    marks: dict[int, Said] = {**state.marks}
    for number, given in new.items():
        drawn = _indices([each.drawn for each in given], state.labels.shape)
        for other, said in state.marks.items():
            if other == number or not len(drawn):
                continue
            if len(both := np.intersect1d(settled(said, state.labels.shape).inside, drawn)):
                lost = np.stack(np.unravel_index(both, state.labels.shape), 1)
                marks[other] = (*marks[other], Marks(given[0].axis, outside=lost, painted=True))
        marks[number] = (*marks.get(number, ()), *given)
    return marks


def obeying(scan: Scan, mask: np.ndarray, fixed: Settled) -> np.ndarray:
    """Probabilities (x, y, z) uint8 that obey all marks; where they did not, their neighbourhood changes."""
    found = mask > CERTAIN // 2
    obeyed = spread(scan, found, fixed)
    changed = obeyed != found
    if not changed.any():
        return mask
    probable = mask.copy()
    probable[changed] = np.where(obeyed[changed], CERTAIN, 0)
    return probable


def merged(labels: np.ndarray, masks: Mapping[int, np.ndarray], fixed: Mapping[int, Settled]) -> np.ndarray:
    """A label map with new masks of some objects.

    Args:
        labels: (x, y, z) object numbers before.
        masks: object number → (x, y, z) uint8 probabilities; the largest above one half has the voxel.
        fixed: object number → what its marks settle.
    """
    after = labels.copy()
    for number, box in enumerate(find_objects(labels), start=1):
        if number in masks and box is not None:
            after[box][labels[box] == number] = 0
    best = np.zeros(labels.shape, np.uint8) if len(masks) > 1 else None
    for number, mask in masks.items():
        around = extent(mask > CERTAIN // 2)
        if around is None:
            continue
        inner = mask[around].copy()
        if (barred := fixed[number].barred) is not None:
            inner[barred[around]] = 0
        inner.flat[_within(fixed[number].outside, around, labels.shape)] = 0
        part, won = after[around], inner > CERTAIN // 2
        if best is None:
            won &= part == 0
        else:
            won &= ((part == 0) | (best[around] > 0)) & (inner > best[around])
            best[around][won] = inner[won]
        part[won] = number
    for number, settled_ in fixed.items():
        after.flat[settled_.inside] = number
    return after


def _within(indices: np.ndarray, box: tuple[slice, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Flat indices of an array as those of a box of it, without those outside."""
    voxels = np.stack(np.unravel_index(indices, shape), 1) - [part.start for part in box]
    size = tuple(part.stop - part.start for part in box)
    inside = voxels[((voxels >= 0) & (voxels < size)).all(1)]
    return np.ravel_multi_index(tuple(inside.T), size)


def edited(
    state: State,
    indices: np.ndarray,
    values: np.ndarray,
    names: Sequence[str],
    held: Mapping[int, str] = NONE,
) -> State:
    """The state after voxels were painted or erased; no engine will change them again.

    Args:
        state: before.
        indices: flat indices of the voxels.
        values: their object numbers, 0 for none.
        names: of the objects.
        held: objects that must not change, and why (`Object.held`).

    Raises:
        CaseError: voxels outside the scan, of an unknown object, or of one that is held.
    """
    shape = state.labels.shape
    if len(indices) != len(values):
        raise CaseError(f"{len(indices)} painted voxels with {len(values)} values")
    if len(indices) and (indices.min() < 0 or indices.max() >= state.labels.size):
        raise CaseError("painted voxels are outside the scan")
    if len(values) and values.max() > len(names):
        raise CaseError(f"painted voxels of object {values.max()}; there are {len(names)} objects")
    before = state.labels.flat[indices]
    differ = before != values
    indices, values, before = indices[differ], values[differ], before[differ]
    for number, why in held.items():
        if (before == number).any() or (values == number).any():
            raise CaseError(f"object {names[number - 1] or number} {why} to change it")
    labels = _wide(state.labels, names).copy()
    labels.flat[indices] = values
    voxels = np.stack(np.unravel_index(indices, shape), 1)
    marks = {**state.marks}
    quality = {**state.quality}
    touched = sorted({*np.unique(values).tolist(), *np.unique(before).tolist()} - {0})
    for number in touched:
        inside, outside = voxels[values == number], voxels[before == number]
        marks[number] = (
            *marks.get(number, ()),
            Marks(state.axis, inside=inside, outside=outside, painted=True),
        )
    after = State(labels, state.axis, quality, marks, state.last)
    after.count_from(state, indices)
    places = set(voxels[:, state.axis].tolist())
    for number in touched:
        quality[number] = judged(after, number, state.quality.get(number), places)
    return after


def judged(
    state: State, number: int, estimated: np.ndarray | None, places: Collection[int] | None = None
) -> np.ndarray:
    """The quality of an object's mask on each slice: as estimated, but by the marks where there are any.

    Nothing is known of empty slices without marks: an engine that loses an object finds nothing with
    confidence.

    Args:
        state: its masks and marks.
        number: of the object.
        estimated: by an engine.
        places: slices to judge by the marks; default: all with marks.
    """
    quality = np.full(state.slices, np.nan, np.float32) if estimated is None else estimated.copy()
    quality[state.area(number) == 0] = np.nan
    said = state.marks.get(number, ())
    hinted, open_ = state.hinted(number), state.open_slices(number)
    for place in hinted if places is None else hinted & set(places):
        obeyed = followed(on_plane(said, state.axis, place), state.slice_of(place) == number)
        quality[place] = np.fmin(obeyed, quality[place]) if place in open_ else obeyed
    return quality


def refuse(new: New, state: State, names: Sequence[str], held: Mapping[int, str] = NONE) -> None:
    """Raise a CaseError if marks of a round cannot be used."""
    shape = state.labels.shape
    if not any(any(given) for given in new.values()):
        raise CaseError("no mark: the scribble or the list of points is empty")
    inside: dict[int, np.ndarray] = {}
    for number, given in new.items():
        if not 1 <= number <= len(names):
            raise CaseError(f"marks of object {number}; there are {len(names)} objects")
        name = names[number - 1]
        if number in held:
            raise CaseError(f"object {name or number} {held[number]} to change it")
        for marks in given:
            _refuse_outside(marks, shape, name)
        drawn = _indices([marks.drawn for marks in given], shape)
        if len(both := np.intersect1d(drawn, _indices([marks.outside for marks in given], shape))):
            raise CaseError(
                f"object {name}: {len(both)} voxel(s), e.g. {_voxel(both[0], shape)}, are marked both inside "
                f"and outside; remove one of these marks"
            )
        voxels = np.stack(np.unravel_index(drawn, shape), 1)
        for limit in [limit for marks in given for limit in limits_of(marks).values()]:
            if (beyond := limit.bars(voxels)).any():
                raise CaseError(
                    f"object {name}: voxel {_voxel(drawn[beyond][0], shape)} is marked inside, but lies "
                    f"outside the object's box, extreme points or slices of the same round; remove one of "
                    f"these marks"
                )
        inside[number] = drawn
    for number, drawn in inside.items():
        owners = np.unique(state.labels.flat[drawn])
        for owner in set(owners.tolist()) & set(held):
            raise CaseError(
                f"marks of {names[number - 1]} lie on {names[owner - 1]}, which {held[owner]}, or remove "
                f"these marks"
            )
        for other, theirs in inside.items():
            if other > number and len(both := np.intersect1d(drawn, theirs)):
                raise CaseError(
                    f"{len(both)} voxel(s), e.g. {_voxel(both[0], shape)}, are marked as {names[number - 1]} "
                    f"and as {names[other - 1]}; remove one of these marks"
                )


def withdrawn(state: State, new: New) -> dict[int, int]:
    """Object number → number of its earlier marked voxels that new marks contradict, and so replace."""
    shape = state.labels.shape
    replaced = {}
    for number, given in new.items():
        before = settled(state.marks.get(number, ()), shape)
        after = settled((*state.marks.get(number, ()), *given), shape)
        count = len(np.setdiff1d(before.inside, after.inside)) + len(
            np.setdiff1d(before.outside, after.outside)
        )
        if count:
            replaced[number] = count
    return replaced


def _wide(labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The label map in a type that holds the numbers of all objects."""
    return labels.astype(np.promote_types(labels.dtype, number_type(len(names))), copy=False)


def _refuse_outside(marks: Marks, shape: tuple[int, ...], name: str) -> None:
    points = np.concatenate([marks.drawn, marks.outside, marks.boxes.reshape(-1, 3)])
    beyond = ((points < 0) | (points >= shape)).any(1)
    if beyond.any():
        x, y, z = points[beyond][0].tolist()
        raise CaseError(
            f"object {name}: a mark at voxel ({x}, {y}, {z}) is outside the scan, which has "
            f"{' × '.join(map(str, shape))} voxels"
        )
    planes = np.concatenate([marks.empty, marks.spans.ravel()])
    beyond = (planes < 0) | (planes >= shape[marks.axis])
    if beyond.any():
        raise CaseError(
            f"object {name}: slice {planes[beyond][0]} is outside the scan, which has slices 0 to "
            f"{shape[marks.axis] - 1} along axis {'xyz'[marks.axis]}"
        )


def _indices(parts: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    points = np.concatenate([np.zeros((0, 3), np.int64), *parts])
    return np.unique(np.ravel_multi_index(tuple(points.T), shape))


def _voxel(index: int, shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(str(int(n)) for n in np.unravel_index(int(index), shape)) + ")"
