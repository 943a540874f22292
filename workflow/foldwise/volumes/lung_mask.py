"""From a CT to its lung mask and its thoracic region."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from foldwise.files import CaseError, write_json
from foldwise.volumes import geometry
from foldwise.volumes.grids import voxel_ml_of
from foldwise.volumes.labels import labelled
from foldwise.volumes.lung_judgement import judge
from foldwise.volumes.lungs import find_lungs, missed_share
from foldwise.volumes.settings import LungMask
from foldwise.volumes.volume import Volume, read_volume, write_volume


def mask_case(
    case: str,
    image: Path,
    label: Path | None,
    settings: LungMask,
    mask: Path,
    region: Path,
    facts: Path,
    *,
    ignore: int | None = None,
) -> None:
    """Write a case's lung mask and region (uint8 NIfTI on the image's grid) and the findings.

    Labelled voxels outside the region are counted, but not those with the label value `ignore`.

    Raises:
        CaseError: no lungs were found, what was found is implausible, or the region misses more labelled
            voxels than allowed; the message names the case.
    """
    ct = read_volume(image)
    straight, back = geometry.straightened(ct)
    try:
        lungs = find_lungs(straight, air_hu=settings.air_hu, closing_mm=settings.closing_mm)
    except CaseError as error:
        raise CaseError(f"case {case}: {image}: {error}") from error
    lungs = replace(lungs, mask=back(lungs.mask), region=back(lungs.region))
    voxel_litres = voxel_ml_of(ct.affine) / 1000
    judged = judge(lungs.seen)
    seen = {
        "case": case,
        "lungs_litres": float(lungs.mask.sum() * voxel_litres),
        "region_litres": float(lungs.region.sum() * voxel_litres),
        "region_share_of_scan": float(lungs.region.mean()),
        "seen": asdict(lungs.seen),
        "judgement": {**asdict(judged), "remarks": judged.remarks},
        "seconds": lungs.seconds,
    }
    if judged.verdict == "implausible" and settings.implausible == "error":
        raise CaseError(
            f"case {case}: {image}: {judged.remarks[0]}; look at the scan, leave the case out, or set "
            f"prepare.lung_mask.implausible: warn"
        )
    if label is not None:
        inside = labelled(label, ct, ignore)
        missed = missed_share(inside, lungs.region)
        seen["label_missed_by_mask"] = missed_share(inside, lungs.mask)
        seen["label_missed_by_region"] = missed
        if missed is not None and missed > settings.max_missed:
            raise CaseError(
                f"case {case}: {missed:.1%} of the labelled voxels of {label} lie outside the thoracic "
                f"region, but only {settings.max_missed:.1%} are allowed (prepare.lung_mask.max_missed); "
                f"check the case, or use crop.to: none"
            )
    for remark in judged.remarks:
        logging.warning("case %s: %s", case, remark)
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
