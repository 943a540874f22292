"""How the system of clips prepares its cases."""


include: "clip_cache.smk"


if SETTINGS.prepare.regions is not None:

    include: "roi.smk"


if any(model.features for model in SETTINGS.models.values()):

    include: "clip_features.smk"


if SETTINGS.data.update_labels:

    include: "update_labels.smk"
