"""Predict the fixed test set and the unlabelled cases with all folds' models averaged; score and export."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pandas as pd

from foldwise.command import Folder, Of, Output, run, stage
from foldwise.evaluate import KEYS, made_from, read_trained, refuse_learnt
from foldwise.experiment.preparation import prepared_file
from foldwise.exported import export_folder
from foldwise.files import atomic_folder, atomic_path, file_hash, read_json, write_json
from foldwise.hdf5 import identity_of
from foldwise.provenance import provenance
from foldwise.record import fingerprint_so_far, used
from foldwise.section import Section, values_for
from foldwise.settings import Data, dump
from foldwise.store import Store
from foldwise.systems.base import System


@stage
def ensemble(
    *,
    system: System[Any, Any],
    settings: Annotated[Section, Of("evaluate")],
    data: Annotated[Data, Of("data")],
    export: Annotated[Section, Of("export")],
    models: Annotated[list[Path], "one model per fold"],
    choice: Annotated[Path, "choice of the cross-validation"],
    prepared: Annotated[Folder, "folder of the prepared cases"],
    caches: Annotated[Folder, "folder of the caches"],
    state: Annotated[Store, "folder for unfinished work"],
    predictions: Annotated[Output, "folder of <case>.h5 to write"],
    folder: Annotated[Output, "folder of exported files to write"],
    metrics: Annotated[Output, "scores of the test set (.csv)"],
    facts: Annotated[Output, "choices and provenance (.json)"],
) -> None:
    """Predict, score and export all cases outside the cross-validation."""
    results = system.results
    task, entries = system.entries(data, prepared, caches, training=False)
    used(*(prepared_file(prepared, entry.case) for entry in entries), *(entry.cache for entry in entries))
    trained = read_trained(models, settings, system=system.name, task=task if entries else None)
    caches_of = {entry.case: entry.cache for entry in entries}
    identities = {case: identity_of(path) for case, path in caches_of.items()}
    for path, held in zip(models, trained.states, strict=True):
        # An unlabelled case may belong to a patient in training.
        refuse_learnt(path, held, [replace(entry, group="") for entry in entries], identities)
    made_of = ([file_hash(path) for path in models], values_for(settings, "predict"))
    cached = made_from(caches_of, trained.steps, state, *made_of)
    chosen = read_json(choice)["chosen"]
    table = results.score(cached, entries, "ensemble", trained.task, settings, chosen)
    table = table.assign(**fingerprint_so_far())
    with atomic_folder(predictions) as temporary:
        state.give(cached, temporary)
    with atomic_path(metrics) as temporary:
        (table if len(table) else pd.DataFrame(columns=[*KEYS])).to_csv(temporary, index=False)
    origin = provenance(settings=dump(settings), inputs=models)
    write_json(facts, {"chosen": chosen, "provenance": origin})
    # Last, since it may fail for some cases.
    export_folder(folder, partial(results.export, cached, entries, export, chosen))
    state.clear()
    logging.info("%d cases predicted", len(cached))


if __name__ == "__main__":
    run(ensemble.main)
