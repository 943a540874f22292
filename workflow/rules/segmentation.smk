"""Preparation of cases in the system segmentation."""


include: "phantom.smk"
include: "lung_mask.smk"
include: "crop.smk"


if SETTINGS.plan is not None:

    include: "plan.smk"


include: "cache.smk"
