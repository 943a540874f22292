"""Predict a fold's held-out clips with changed frames; a restarted job continues with the remaining ones."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Annotated

from foldwise.command import Folder, Output, run, stage
from foldwise.evaluate import made_from, read_trained, refuse_learnt, refuse_other_fold
from foldwise.files import atomic_path, file_hash, write_json
from foldwise.hdf5 import identity_of
from foldwise.index import Index
from foldwise.provenance import provenance
from foldwise.record import used
from foldwise.settings import dump
from foldwise.store import Store
from foldwise.systems.clips.learner import ClipsLearner
from foldwise.systems.clips.perturbed import table_of, write_perturbed
from foldwise.systems.clips.robustness import Perturb


@stage(gpus=1)
def perturb(
    *,
    settings: Perturb,
    index: Annotated[Path, "label-path index"],
    frames: Annotated[Folder | None, "folder of files of regions, if clips are from these"] = None,
    fold: Annotated[int, "fold, from 0"],
    model: Annotated[Path, "the fold's model"],
    state: Annotated[Store, "folder for unfinished work"],
    table: Annotated[Output, "a row for each clip and change to write (.csv)"],
    facts: Annotated[Output, "provenance (.json)"],
) -> None:
    """Predict the held-out clips of a fold under each change of their frames."""
    read = Index.read(index)
    trained = read_trained([model], system="clips", task=read.task)
    refuse_other_fold(model, trained.states[0], fold)
    cases = read.fold(fold).test
    caches = read.caches(cases, frames)
    used(*caches.values())
    entries = [read[case] for case in cases]
    refuse_learnt(model, trained.states[0], entries, {c: identity_of(path) for c, path in caches.items()})
    assert isinstance(trained.learner, ClipsLearner), "the model is of this system"
    write = partial(write_perturbed, trained.learner, trained.networks[0], settings)
    made = made_from(caches, write, state, file_hash(model), dump(settings))
    with atomic_path(table) as temporary:
        rows = table_of(made, entries, read.task["classes"], settings, fold)
        rows.to_csv(temporary, index=False)
    write_json(facts, {"provenance": provenance(settings=dump(settings), inputs=[index, model])})
    state.clear()
    logging.info("%d clips predicted, each with %d changes", len(made), len(rows) // len(made) - 1)


if __name__ == "__main__":
    run(perturb.main)
