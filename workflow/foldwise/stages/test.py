"""Predict a fold's cases with its model; a restarted job continues with the remaining cases.

The held-out cases are the test. The validation cases are predicted only if they choose, e.g. post-processing.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any, Literal

from foldwise.command import Folder, Of, Output, run, stage
from foldwise.evaluate import made_from, read_trained, refuse_learnt, refuse_other_fold
from foldwise.files import atomic_folder, file_hash, write_json
from foldwise.hdf5 import identity_of
from foldwise.index import Index
from foldwise.provenance import provenance
from foldwise.record import used
from foldwise.section import Section, values_for
from foldwise.settings import dump
from foldwise.store import Store
from foldwise.systems.base import System


@stage(gpus=1)
def predict_fold(
    *,
    system: System[Any, Any],
    settings: Annotated[Section, Of("evaluate")],
    index: Annotated[Path, "label-path index"],
    features: Annotated[Folder | None, "folder of <case>.h5 to use instead of the caches"] = None,
    fold: Annotated[int, "fold, from 0"],
    share: Annotated[
        Literal["predictions", "validation"],
        "predictions: the held-out cases; validation: the validation cases",
    ] = "predictions",
    model: Annotated[Path, "the fold's model"],
    state: Annotated[Store, "folder for unfinished work"],
    predictions: Annotated[Output, "folder of <case>.h5 to write"],
    facts: Annotated[Output, "provenance (.json)"],
) -> None:
    """Predict the held-out or the validation cases of a fold."""
    read = Index.read(index)
    held = read.fold(fold)
    trained = read_trained([model], settings, system=system.name, task=read.task)
    refuse_other_fold(model, trained.states[0], fold)
    cases = held.validation if share == "validation" else held.test
    caches = read.caches(cases, features)
    used(*caches.values())
    if share != "validation":
        identities = {case: identity_of(path) for case, path in caches.items()}
        refuse_learnt(model, trained.states[0], [read[case] for case in cases], identities)
    predicted = made_from(caches, trained.steps, state, file_hash(model), values_for(settings, "predict"))
    with atomic_folder(predictions) as folder:
        state.give(predicted, folder)
    write_json(facts, {"provenance": provenance(settings=dump(settings), inputs=[index, model])})
    state.clear()
    logging.info("%d cases predicted", len(predicted))


if __name__ == "__main__":
    run(predict_fold.main)
