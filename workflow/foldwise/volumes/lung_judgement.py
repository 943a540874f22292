"""Whether what was found in a CT are lungs, all of them, and what had to be assumed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from foldwise.volumes.morphology import Spacing
from foldwise.volumes.thorax import BONE_HU, FILLED, LOWER_MM, SPINE_MM, Cage

# A body of a larger mean cross-section is no small child's, whose windpipe may be too narrow to be seen. cm².
CHILD_CM2 = 250.0
# The lungs' share of the body in their slices; lungs filled to two thirds have about a tenth.
LEAST_SHARE = 0.04
# The hull of healthy lungs, with the chest wall, lacks less of the region; lungs filled behind may lack more.
MOST_ADDED = 0.2
# Half of the larger lung's mirror image lies outside a scan that shows one side only.
ONE_SIDE = 0.5
Verdict = Literal["plausible", "partial", "implausible"]


@dataclass(frozen=True)
class Seen:
    """What was seen of the lungs and around them.

    Attributes:
        litres: volumes of the left and the right lung, separated at the patient's middle.
        smaller: the smaller lung's share of the larger one's volume.
        mirrored: share of the larger lung's mirror image that lies within the scan.
        lowered_mm: how much lower the region reaches for lungs that may be filled from below.
        added: share of the region that the lungs' hull, with the chest wall, does not contain.
        cut: the scan's sides that cut the lungs: left, right, behind, front, below, above.
        windpipe_mm: height of the windpipe's middle above that of the lungs; None: not found.
        spine_mm: how far most bone in the patient's middle lies behind that of the lungs; None: no bone.
        section_cm2: mean cross-section of the body in the lungs' slices.
        share_of_body: the lungs' share of the body in these slices.
    """

    litres: tuple[float, float]
    smaller: float
    mirrored: float
    lowered_mm: float
    added: float
    cut: tuple[str, ...]
    windpipe_mm: float | None
    spine_mm: float | None
    section_cm2: float
    share_of_body: float


@dataclass(frozen=True)
class Judgement:
    """A judgement on what was found.

    Attributes:
        verdict: plausible; partial: lungs, but not all of them are in the scan; or implausible.
        reasons: why not plausible.
        assumed: how the region was completed where lungs seem to be filled.
    """

    verdict: Verdict
    reasons: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()

    @property
    def remarks(self) -> list[str]:
        """All that a person should look at; empty for healthy lungs that are wholly in the scan."""
        said = {"plausible": "", "partial": "a part of the lungs: ", "implausible": "hardly lungs: "}
        lines = [said[self.verdict] + "; ".join(self.reasons)] if self.reasons else []
        return [*lines, *self.assumed]


def look_at(
    hu: np.ndarray,
    lungs: np.ndarray,
    body: np.ndarray,
    windpipe: np.ndarray | None,
    cage: Cage,
    cut: tuple[str, ...],
    middle: float,
    spacing: Spacing,
) -> Seen:
    """Measure what is judged.

    Args:
        hu: (x, y, z) in RAS orientation.
        lungs: both lungs on the same grid.
        body: the patient.
        windpipe: a part of it, if found.
        cage: the thoracic cage.
        cut: the scan's sides that cut the lungs.
        middle: of the patient along x, in voxels.
        spacing: in mm.
    """
    slices = np.flatnonzero(lungs.any(axis=(0, 1)))
    low, high = int(slices[0]), int(slices[-1])
    across = (slice(None), slice(None), slice(low, high + 1))
    count, tissue = int(lungs.sum()), int(body[across].sum())
    litres = count * float(np.prod(spacing)) / 1e6
    left, right = (litres * side / sum(cage.sides) for side in cage.sides)
    height = behind = None
    if windpipe is not None:
        height = float(np.nonzero(windpipe)[2].mean() - (low + high) / 2) * spacing[2]
    near = round(SPINE_MM / spacing[0])
    centre = slice(max(0, round(middle) - near), max(0, round(middle) + near + 1))
    bones = np.nonzero((hu[centre, :, low : high + 1] > BONE_HU) & body[centre, :, low : high + 1])[1]
    if bones.size:
        behind = float(np.nonzero(lungs)[1].mean() - np.median(bones)) * spacing[1]
    return Seen(
        litres=(left, right),
        smaller=cage.smaller,
        mirrored=cage.mirrored,
        lowered_mm=cage.lowered,
        added=cage.added,
        cut=cut,
        windpipe_mm=height,
        spine_mm=behind,
        section_cm2=tissue * spacing[0] * spacing[1] / (high + 1 - low) / 100,
        share_of_body=count / tissue,
    )


def judge(seen: Seen) -> Judgement:
    """Judge whether these are lungs, from position, windpipe, bones, symmetry and share of the body."""
    doubts, missing, assumed = [], [], []
    one_side = seen.mirrored < ONE_SIDE
    if seen.windpipe_mm is None:
        if "above" not in seen.cut and not one_side and seen.section_cm2 > CHILD_CM2:
            doubts.append(
                "no windpipe is seen, although their upper ends are in the scan (gas in the bowel?)"
            )
    elif seen.windpipe_mm < 0 and "above" not in seen.cut:
        doubts.append("the windpipe lies at their lower half (is the scan upside down?)")
    if seen.spine_mm is not None and seen.spine_mm < 0:
        doubts.append("the bones lie in front of them (is the scan stored back to front?)")
    bases = "above" in seen.cut and "below" not in seen.cut
    if seen.share_of_body < LEAST_SHARE and not bases:
        doubts.append(f"they are only {seen.share_of_body:.1%} of the body in their slices")
    for side in seen.cut:
        missing.append(f"the scan ends {side}")
    if one_side:
        missing.append("the scan shows one side only")
    if seen.smaller < FILLED and not one_side:
        assumed.append(
            f"one lung has {seen.smaller:.0%} of the other's volume; if it is filled or collapsed, the "
            f"region contains the mirror image of the other lung in its place"
        )
    if seen.added > MOST_ADDED:
        assumed.append(
            f"{seen.added:.0%} of the region lies beyond the air and the chest wall around it, within the "
            f"muscles; lungs may be filled there"
        )
    if seen.lowered_mm >= LOWER_MM:
        assumed.append(
            f"the lungs are short or end bluntly; if they are filled from below, the region contains "
            f"{seen.lowered_mm:.0f} mm more below them"
        )
    verdict: Verdict = "implausible" if doubts else "partial" if missing else "plausible"
    return Judgement(verdict, tuple(doubts + missing), tuple(assumed))
