"""Store a frozen network's features of a case, so that an epoch only trains what reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from foldwise.command import Of, Output, run, stage
from foldwise.files import naming
from foldwise.systems.base import System
from foldwise.systems.videos import VideoSystem


@stage(gpus=1)
def encode(
    *,
    system: System[Any, Any],
    source: Annotated[Path, "the case's frame cache, or file of regions"],
    settings: Annotated[Any, Of("models")],
    features: Annotated[Output, "HDF5 file to write"],
) -> None:
    """Write the features of a case."""
    assert isinstance(system, VideoSystem), "only video systems have this rule"
    with naming(source.stem):
        system.encode(source, settings, features)


if __name__ == "__main__":
    run(encode.main)
