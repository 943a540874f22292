"""Store a frozen network's features of a case's clips, so that an epoch only trains the decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from foldwise.command import Output, run, stage
from foldwise.files import naming
from foldwise.systems.clips.features import make_vision, write_features
from foldwise.systems.clips.settings import Model


@stage(gpus=1)
def clip_features(
    *,
    source: Annotated[Path, "the case's frame cache or file of regions"],
    settings: Model,
    features: Annotated[Output, "HDF5 file to write"],
) -> None:
    """Write the features of a case."""
    with naming(source.stem):
        write_features(source, settings, make_vision(settings), features)


if __name__ == "__main__":
    run(clip_features.main)
