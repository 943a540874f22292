"""How the surgical system prepares its videos."""


include: "frames.smk"


if PREPARED.backbones:

    include: "features.smk"
