"""Preparation of cases in the interactive system: the same as in segmentation."""


include: "phantom.smk"
include: "lung_mask.smk"
include: "crop.smk"
include: "cache.smk"
