"""How the surgical system prepares its videos."""


include: "frames.smk"


if LAYOUT.backbones:

    include: "features.smk"
