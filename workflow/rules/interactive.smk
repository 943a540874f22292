"""How the interactive system prepares its cases: as segmentation does."""


include: "phantom.smk"
include: "lung_mask.smk"
include: "crop.smk"
include: "cache.smk"
