"""Generate one chest CT of the demo's phantom set, with its tumours as a label map."""

from __future__ import annotations

from typing import Annotated

from foldwise.command import Output, run, stage
from foldwise.volumes.phantom import make_phantom
from foldwise.volumes.volume import write_volume


@stage
def phantom(
    *,
    case: Annotated[str, "p01, p02, …; p03a and p03b are one patient"],
    image: Annotated[Output, "CT to write (.nii.gz)"],
    label: Annotated[Output, "tumours to write (.nii.gz)"],
) -> None:
    """Write a phantom."""
    generated = make_phantom(case)
    write_volume(generated.image, image)
    write_volume(generated.label, label)


if __name__ == "__main__":
    run(phantom.main)
