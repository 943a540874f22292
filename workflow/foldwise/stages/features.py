"""Write the features of every frame of all training videos, by the backbone of a fold's model."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Annotated

from foldwise.command import Output, run, stage
from foldwise.evaluate import clear, is_whole, read_trained, unfinished
from foldwise.files import atomic_folder, file_hash
from foldwise.hdf5 import content_of
from foldwise.index import Index
from foldwise.record import used
from foldwise.systems.surgical.learner import SurgicalLearner


@stage
def features(
    *,
    index: Annotated[Path, "label-path index"],
    model: Annotated[Path, "the fold's model"],
    state: Annotated[Path, "folder for unfinished work"],
    folder: Annotated[Output, "folder of <case>.h5 to write"],
) -> None:
    """Write the bank of features of a fold."""
    read = Index.read(index)
    trained = read_trained([model], task=read.task)
    learner = trained.learner
    assert isinstance(learner, SurgicalLearner), "the rule is included only for surgical experiments"
    used(*(entry.cache for entry in read.entries))
    # Features from another model or other data never mix with these.
    contents = {entry.case: content_of(entry.cache) for entry in read.entries}
    work = unfinished(state, file_hash(model), contents)
    paths = [work / f"{entry.case}.h5" for entry in read.entries]
    for number, (entry, path) in enumerate(zip(read.entries, paths, strict=True), start=1):
        if not is_whole(path):
            learner.write_features(trained.networks[0], entry.cache, path, str(model))
            logging.info("features of %s (%d of %d)", entry.case, number, len(paths))
    with atomic_folder(folder) as temporary:
        for path in paths:
            shutil.move(path, temporary / path.name)
    clear(state)


if __name__ == "__main__":
    run(features.main)
