"""How the slices of a DICOM series lie: evenly in a line, or why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.datadict import keyword_for_tag
from pydicom.tag import Tag

from foldwise.files import CaseError
from foldwise.volumes.dicom_frames import Frame

# Largest distance of a slice from its position on an even grid, in steps of the stack.
PLACE = 0.1
# Largest difference of directions (a millimetre per metre): cosines are rounded when written.
DIRECTION = 1e-3
# Largest lean of a stack in degrees; gantries tilt by 30° at most. Less than the smallest is rounding.
LEAN, UPRIGHT = 45, 0.3
# Slices closer than this, in the largest steps of the stack, are at the same position.
SAME = 0.01

# What distinguishes pictures at the same position, the most telling first.
DIFFERS = {
    "TemporalPositionIdentifier": "time points",
    "TemporalPositionIndex": "time points",
    "TemporalPositionTimeOffset": "time points",
    "NominalPercentageOfCardiacPhase": "cardiac phases",
    "NominalCardiacTriggerDelayTime": "cardiac phases",
    "TriggerTime": "cardiac phases",
    "NominalPercentageOfRespiratoryPhase": "respiratory phases",
    "EchoTime": "echoes",
    "EffectiveEchoTime": "echoes",
    "EchoNumbers": "echoes",
    "DiffusionBValue": "b-values",
    "DiffusionGradientOrientation": "diffusion directions",
    "InversionTime": "inversion times",
    "InversionTimes": "inversion times",
    "FlipAngle": "flip angles",
    "SequenceName": "sequences, e.g. b-values",
    "ComplexImageComponent": "images such as magnitude and phase",
    "FrameType": "types of images",
    "ImageType": "types of images",
    "KVP": "tube voltages",
    "ConvolutionKernel": "reconstructions",
    "AcquisitionNumber": "acquisitions",
    "FrameReferenceTime": "time points",
    "AcquisitionDateTime": "time points",
    "FrameReferenceDateTime": "time points",
    "FrameAcquisitionDateTime": "time points",
    "AcquisitionTime": "time points",
    "ContentTime": "time points",
}


def step_of(frames: Sequence[Frame], places: np.ndarray, normal: np.ndarray, where: Path) -> np.ndarray:
    """The step from a slice to the next; it need not be at a right angle to the slices (gantry tilt).

    Args:
        frames: slices, sorted along the normal.
        places: their positions, (n, 3), in LPS millimetres.
        normal: unit vector at right angles to the slices.
        where: their folder, for messages.

    Returns:
        The step in LPS millimetres.

    Raises:
        CaseError: the slices are not in line and evenly spaced.
    """
    if len(frames) == 1:
        thickness = frames[0].get("SliceThickness") or frames[0].get("SpacingBetweenSlices")
        if not thickness:
            raise CaseError(f"{where}: a single slice without SliceThickness; its thickness is unknown")
        return normal * abs(thickness)
    height = (places - places[0]) @ normal
    across = places - places[0] - np.outer(height, normal)
    _refuse_repeats(frames, height, across, where)
    mean = height[-1] / (len(frames) - 1)
    lean = across[-1] / height[-1]
    sideways = np.linalg.norm(across - np.outer(height, lean), axis=1)
    if sideways.max() > PLACE * mean:
        jumps = np.linalg.norm(np.diff(across - np.outer(height, lean), axis=0), axis=1)
        z = int(jumps.argmax())
        raise CaseError(
            f"{where}: its slices are not in line: {frames[z + 1].name} is shifted sideways by "
            f"{np.linalg.norm(across[z + 1] - across[z]):.2f} mm relative to {frames[z].name}"
        )
    if (angle := _angle(lean)) > LEAN:
        raise CaseError(
            f"{where}: its stack leans by {angle:.0f}°: from a slice to the next, the position moves by "
            f"{mean:.2f} mm across the slices and by {np.linalg.norm(lean) * mean:.2f} mm along them; no "
            f"gantry tilts by more than {LEAN}°, so ImageOrientationPatient or the positions are wrong"
        )
    step: np.ndarray = (places[-1] - places[0]) / (len(frames) - 1)
    even = places[0] + np.outer(np.arange(len(frames)), step)
    if np.linalg.norm(places - even, axis=1).max() > PLACE * mean:
        _refuse_uneven(frames, np.diff(height), where)
    return step


def tilt_remark(step: np.ndarray, normal: np.ndarray) -> str | None:
    """That a stack leans, or None."""
    if (angle := _angle(step / (step @ normal) - normal)) < UPRIGHT:
        return None
    return (
        f"its slices are tilted by {angle:.1f}° relative to the stack (gantry tilt); each keeps its position"
    )


def _angle(lean: np.ndarray) -> float:
    """The angle in degrees by which a stack leans: its movement along the slices per movement across."""
    return float(np.rad2deg(np.arctan(np.linalg.norm(lean))))


def number_remark(frames: Sequence[Frame]) -> str | None:
    """What the numbers of evenly spaced slices say about missing ones, or None."""
    if "PET" in frames[0].kind or "Positron" in frames[0].kind:
        wanted = frames[0].get("NumberOfSlices") or 0
        if wanted > len(frames):
            return f"has {len(frames)} slices, but NumberOfSlices is {wanted}; are slices missing at an end?"
    numbers, keyword = _numbers(frames), _number(frames)
    if len(set(numbers)) < max(2, len(frames)):
        return None
    first, last = min(numbers), max(numbers)
    if missing := sorted(set(range(first, last + 1)) - set(numbers)):
        named = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        return (
            f"{keyword}s are {first} to {last}, but {len(missing)} of them are not there ({named}); the "
            f"slices that are there are evenly spaced; was a part of the series left out?"
        )
    if first > 1:
        count = "a slice" if first == 2 else f"{first - 1} slices"
        return f"{keyword}s are {first} to {last}; {count} may be missing at an end, where no gap reveals it"
    return None


def _numbers(frames: Sequence[Frame]) -> list[int]:
    """InstanceNumbers, or places in the stack of an enhanced image; empty if some have none."""
    numbers = [frame.get(_number(frames)) for frame in frames]
    return [] if None in numbers else numbers


def _number(frames: Sequence[Frame]) -> str:
    return "InStackPositionNumber" if frames[0].many else "InstanceNumber"


def _refuse_uneven(frames: Sequence[Frame], steps: np.ndarray, where: Path) -> None:
    z, whole = int(steps.argmax()), steps / steps.min()
    why = "they are not evenly spaced"
    if np.abs(whole - np.round(whole)).max() <= PLACE:
        missing = int(np.round(whole).sum()) - len(steps)
        why = "one is missing" if missing == 1 else f"{missing} are missing"
    numbers = _numbers(frames)
    if numbers and all(abs(after - before) == 1 for before, after in pairwise(numbers)):
        why = (
            f"they are not evenly spaced, and none is missing, since their {_number(frames)}s are consecutive"
        )
    raise CaseError(
        f"{where}: its slices lie {steps.min():.2f} to {steps.max():.2f} mm apart; {why} (largest step "
        f"between {frames[z].name} and {frames[z + 1].name})"
    )


def _refuse_repeats(frames: Sequence[Frame], height: np.ndarray, across: np.ndarray, where: Path) -> None:
    steps = np.diff(height)
    apart = steps > SAME * steps.max()
    if apart.all():
        return
    starts = np.flatnonzero(np.r_[True, apart, True]).tolist()
    groups = [slice(begin, end) for begin, end in pairwise(starts)]
    for group in groups:
        beside = np.linalg.norm(across[group] - across[group.start], axis=1)
        if beside.max() > max(PLACE * steps.max(), 1e-3):
            other = frames[group.start + int(beside.argmax())]
            raise CaseError(
                f"{where}: {frames[group.start].name} and {other.name} lie in the same plane, "
                f"{beside.max():.2f} mm apart; ImageOrientationPatient or the positions are wrong, or they "
                f"are parts of one picture"
            )
    counts = np.diff(starts)
    several = _several([frames[group] for group in groups])
    if counts.min() == counts.max():
        raise CaseError(
            f"{where}: its {len(frames)} {_what(frames)} have {len(counts)} position(s), {counts[0]} "
            f"{_what(frames)} at each position: {several or 'several time points, echoes or phases'} in one "
            f"series; keep one in the folder"
        )
    z = int(steps.argmin())
    also = several or "one exists twice, or the series contains several time points"
    raise CaseError(f"{where}: {frames[z].name} and {frames[z + 1].name} are at the same position; {also}")


def _what(frames: Sequence[Frame]) -> str:
    return "frames" if frames[0].many else "files"


def _several(groups: Sequence[Sequence[Frame]]) -> str:
    """What distinguishes the pictures at each position, with values; empty if nothing is known to."""
    largest = max(groups, key=len)
    told: list[str] = []
    known: list[list[tuple[Any, ...]]] = [[() for _ in group] for group in groups]
    for name, what, value in _aspects(largest[0]):
        if all(len(set(values)) == len(values) for values in known):
            break
        finer = [
            [(*old, value(frame)) for old, frame in zip(values, group, strict=True)]
            for values, group in zip(known, groups, strict=True)
        ]
        if any(len(set(new)) > len(set(old)) for new, old in zip(finer, known, strict=True)):
            known = finer
            seen = sorted({each for frame in largest if (each := value(frame)) is not None}, key=_rank)
            shown = ", ".join(map(str, seen[:4])) + (", …" if len(seen) > 4 else "")
            told.append(f"several {what} ({name} {shown})")
    return " and ".join(told)


def _aspects(frame: Frame) -> Iterator[tuple[str, str, Callable[[Frame], Any]]]:
    """What may distinguish pictures: its name, what several are called, and how to get its value."""
    for keyword, what in DIFFERS.items():
        yield keyword, what, methodcaller("get", keyword)
    for i, index in enumerate(frame.get("DimensionIndexSequence") or ()):
        pointer = index.get("DimensionIndexPointer") or 0
        name = index.get("DimensionDescriptionLabel") or keyword_for_tag(pointer) or str(Tag(pointer))
        yield str(name), "volumes", partial(_dimension, number=i)


def _rank(value: Any) -> tuple[float, str]:
    """Numbers in their order, then other values, which may be of several types."""
    return (value, "") if isinstance(value, int | float) else (np.inf, str(value))


def _dimension(frame: Frame, number: int) -> int | None:
    values = frame.get("DimensionIndexValues")
    values = values if isinstance(values, tuple) else (values,)
    return values[number] if number < len(values) else None
