"""Find the lungs and the thoracic region of a CT in HU."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from foldwise.command import parser, run, written
from foldwise.files import CaseError, write_json
from foldwise.settings import parse
from foldwise.volumes.lungs import FILLED, find_lungs, missed_share
from foldwise.volumes.settings import LungMask
from foldwise.volumes.volume import Volume, read_volume, write_volume


def lung_mask(
    case: str,
    image: Path,
    label: Path | None,
    settings: LungMask,
    mask: Path,
    region: Path,
    facts: Path,
) -> None:
    """Write a case's lung mask and region (uint8 NIfTI on the image's grid) and what was seen.

    Raises:
        CaseError: no lungs were found, or the region misses more labelled voxels than allowed; the
            message names the case.
    """
    ct = read_volume(image)
    try:
        lungs = find_lungs(ct, air_hu=settings.air_hu, closing_mm=settings.closing_mm)
    except CaseError as error:
        raise CaseError(f"case {case}: {image}: {error}") from error
    voxel_litres = abs(np.linalg.det(ct.affine[:3, :3])) / 1e6
    seen = {
        "case": case,
        "lungs_litres": float(lungs.mask.sum() * voxel_litres),
        "region_litres": float(lungs.region.sum() * voxel_litres),
        "region_share_of_scan": float(lungs.region.mean()),
        "smaller_lung": lungs.smaller,
        "seconds": lungs.seconds,
    }
    if label is not None:
        labelled = read_volume(label).data
        missed = missed_share(labelled, lungs.region)
        seen["label_missed_by_mask"] = missed_share(labelled, lungs.mask)
        seen["label_missed_by_region"] = missed
        if missed is not None and missed > settings.max_missed:
            raise CaseError(
                f"case {case}: {missed:.1%} of the labelled voxels of {label} lie outside the thoracic "
                f"region, {settings.max_missed:.1%} are allowed (prepare.lung_mask.max_missed); look at "
                f"the case, or use crop.to: none"
            )
    if lungs.smaller < FILLED:
        logging.warning(
            "case %s: one lung has %.0f %% of the other's volume; if it is filled or collapsed, the region "
            "holds the other one's mirror image in its place. Check the region: %s",
            case,
            100 * lungs.smaller,
            region,
        )
    write_volume(Volume(lungs.mask.astype(np.uint8), ct.affine), mask)
    write_volume(Volume(lungs.region.astype(np.uint8), ct.affine), region)
    write_json(facts, seen)
    logging.info(
        "case %s: lungs %.2f l, region %.2f l, %s",
        case,
        seen["lungs_litres"],
        seen["region_litres"],
        ", ".join(f"{step} {seconds:.1f} s" for step, seconds in lungs.seconds.items()),
    )


def main() -> None:
    """Read the command line."""
    made = parser(__doc__, LungMask)
    made.add_argument("--case", required=True, help="the case's name, for messages")
    made.add_argument("--image", required=True, type=Path, help="CT in HU")
    made.add_argument("--label", type=Path, help="label map, to state how much of it is missed")
    made.add_argument("--mask", required=True, type=written, help="lung mask to write (.nii.gz)")
    made.add_argument("--region", required=True, type=written, help="region to write (.nii.gz)")
    made.add_argument("--facts", required=True, type=written, help="what was seen, to write (.json)")
    args = made.parse_args()
    settings = parse(LungMask, args.settings)
    lung_mask(args.case, args.image, args.label, settings, args.mask, args.region, args.facts)


if __name__ == "__main__":
    run(main)
