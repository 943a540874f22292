"""How the segmentation system prepares its cases."""


include: "phantom.smk"
include: "lung_mask.smk"
include: "crop.smk"


if SETTINGS.plan is not None:

    include: "plan.smk"


include: "cache.smk"
