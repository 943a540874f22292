"""Preparation of cases in the system clips."""


include: "clip_cache.smk"


if "roi" in PREPARED.stages:

    include: "roi.smk"


if "encode" in PREPARED.stages:

    include: "encode.smk"


if SETTINGS.evaluate.perturb is not None:

    include: "perturb.smk"


if SETTINGS.data.update_labels:

    include: "update_labels.smk"
