"""Settings of the tests of robustness."""

from __future__ import annotations

from pydantic import Field, model_validator

from foldwise.section import Section, affects
from foldwise.settings import Share


class Perturb(Section):
    """Changes of the frames of held-out clips, each predicted with every strength (rule `perturb`)."""

    attenuation: list[float] = Field(
        [6, 12, 24],
        description="Echoes lose this much at the greatest depth, and proportionally less above. dB.",
        json_schema_extra=affects("perturb"),
    )
    shadow: list[Share] = Field(
        [0.1, 0.2, 0.4],
        description="Width of an acoustic shadow, as a share of the picture's beams.",
        json_schema_extra=affects("perturb"),
    )
    speckle: list[float] = Field(
        [0.25, 0.5, 1],
        description="Contrast of multiplicative noise: the standard deviation of its intensity over the "
        "mean; 1 is fully developed speckle.",
        json_schema_extra=affects("perturb"),
    )
    gain: list[float] = Field(
        [-12, -6, 6, 12],
        description="Change of the gain; below 0: darker. dB.",
        json_schema_extra=affects("perturb"),
    )
    grain: float = Field(
        3,
        gt=0,
        description="Size of the grains of `speckle` (full width at half maximum). Pixels of the cached "
        "frames.",
        json_schema_extra=affects("perturb"),
    )
    dynamic_range: float = Field(
        60,
        gt=0,
        description="Range that the grey values 0 to 255 show on the scanner's logarithmic scale. dB.",
        json_schema_extra=affects("perturb"),
    )
    seed: int = Field(
        0,
        ge=0,
        description="Seed of the places of shadows and of the noise.",
        json_schema_extra=affects("perturb"),
    )

    @model_validator(mode="after")
    def _distinct(self) -> Perturb:
        every = {kind: getattr(self, kind) for kind in ("attenuation", "shadow", "speckle", "gain")}
        if not any(every.values()):
            raise ValueError("nothing to predict: list strengths of at least one kind of change")
        for kind, strengths in every.items():
            if len({*strengths, 0}) <= len(strengths):
                raise ValueError(f"{kind}: list each strength once, and not 0, which is the clean clip")
            if kind != "gain" and any(strength < 0 for strength in strengths):
                raise ValueError(f"{kind}: strengths are above 0 (got {min(strengths):g})")
        return self
