"""Write the features of every frame of all training videos, by the backbone of a fold's model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from foldwise.command import Output, run, stage
from foldwise.evaluate import made_from, read_trained
from foldwise.files import atomic_folder, file_hash
from foldwise.index import Index
from foldwise.record import used
from foldwise.store import Store
from foldwise.systems.surgical.learner import SurgicalLearner


@stage(gpus=1)
def features(
    *,
    index: Annotated[Path, "label-path index"],
    model: Annotated[Path, "the fold's model"],
    state: Annotated[Store, "folder for unfinished work"],
    folder: Annotated[Output, "folder of <case>.h5 to write"],
) -> None:
    """Write the bank of features of a fold."""
    read = Index.read(index)
    trained = read_trained([model], task=read.task)
    learner = trained.learner
    assert isinstance(learner, SurgicalLearner), "the rule is included only for surgical experiments"
    write = partial(learner.write_features, trained.networks[0], str(model))
    caches = {entry.case: entry.cache for entry in read.entries}
    used(*caches.values())
    made = made_from(caches, write, state, str(model), file_hash(model))
    with atomic_folder(folder) as temporary:
        state.give(made, temporary)
    state.clear()


if __name__ == "__main__":
    run(features.main)
