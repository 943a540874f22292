"""Preparation of videos in the surgical system."""


include: "frames.smk"


if PREPARED.backbones:

    include: "features.smk"


if "encode" in PREPARED.stages:

    include: "encode.smk"
