"""Predict the fixed test set and the unlabelled cases with all folds' models averaged.

A restarted job continues with the remaining cases.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from foldwise.command import Folder, Of, Output, run, stage
from foldwise.evaluate import made_from, read_trained, refuse_learnt
from foldwise.experiment.preparation import prepared_file
from foldwise.experiment.settings import Data
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
def ensemble(
    *,
    system: System[Any, Any],
    settings: Annotated[Section, Of("evaluate")],
    data: Annotated[Data, Of("data")],
    models: Annotated[list[Path], "one model per fold"],
    prepared: Annotated[Folder, "folder of the prepared cases"],
    caches: Annotated[Folder, "folder of the caches"],
    state: Annotated[Store, "folder for unfinished work"],
    predictions: Annotated[Output, "folder of <case>.h5 to write"],
    index: Annotated[Output, "index of these cases to write"],
    facts: Annotated[Output, "provenance (.json)"],
) -> None:
    """Predict all cases outside the cross-validation."""
    task, entries = system.entries(data, prepared, caches, training=False)
    used(*(prepared_file(prepared, entry.case) for entry in entries), *(entry.cache for entry in entries))
    trained = read_trained(models, settings, system=system.name, task=task if entries else None)
    caches_of = {entry.case: entry.cache for entry in entries}
    identities = {case: identity_of(path) for case, path in caches_of.items()}
    for path, held in zip(models, trained.states, strict=True):
        # An unlabelled case may belong to a patient in training.
        refuse_learnt(path, held, [replace(entry, group="") for entry in entries], identities)
    made_of = ([file_hash(path) for path in models], values_for(settings, "predict"))
    predicted = made_from(caches_of, trained.steps, state, *made_of)
    with atomic_folder(predictions) as temporary:
        state.give(predicted, temporary)
    Index(dict(trained.task), tuple(entries), ()).write(index)
    write_json(facts, {"provenance": provenance(settings=dump(settings), inputs=models)})
    state.clear()
    logging.info("%d cases predicted", len(predicted))


if __name__ == "__main__":
    run(ensemble.main)
