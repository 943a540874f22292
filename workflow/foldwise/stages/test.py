"""Test a fold's model on the cases it never saw; a restarted job continues with the remaining cases."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

from foldwise.command import Folder, Of, Output, run, stage
from foldwise.evaluate import made_from, read_trained, refuse_learnt
from foldwise.files import CaseError, atomic_folder, atomic_path, file_hash, write_json
from foldwise.hdf5 import identity_of
from foldwise.index import Index
from foldwise.provenance import provenance
from foldwise.record import fingerprint_so_far, used
from foldwise.section import Section, values_for
from foldwise.settings import dump
from foldwise.store import Store
from foldwise.systems.base import System


@stage
def held_out(
    *,
    system: System[Any, Any],
    settings: Annotated[Section, Of("evaluate")],
    index: Annotated[Path, "label-path index"],
    features: Annotated[Folder | None, "folder of <case>.h5 to use instead of the caches"] = None,
    fold: Annotated[int, "fold, from 0"],
    model: Annotated[Path, "the fold's model"],
    state: Annotated[Store, "folder for unfinished work"],
    predictions: Annotated[Output, "folder of <case>.h5 to write"],
    metrics: Annotated[Output, "scores to write (.csv)"],
    facts: Annotated[Output, "choices and provenance (.json)"],
) -> None:
    """Predict and score the held-out cases of a fold."""
    results, read = system.results, Index.read(index)
    cases = read.fold(fold)
    trained = read_trained([model], settings, system=system.name, task=read.task)
    own = trained.states[0].get("fold", fold)
    if own != fold:
        raise CaseError(f"{model}: the model of fold {own}; --fold {fold} was given")
    choosing = cases.validation if results.chooses(settings) else ()
    caches = read.caches((*choosing, *cases.test), features)
    used(*caches.values())
    entries = [read[case] for case in cases.test]
    identities = {entry.case: identity_of(caches[entry.case]) for entry in entries}
    refuse_learnt(model, trained.states[0], entries, identities)
    made_of = (file_hash(model), values_for(settings, "predict"))
    seen = made_from({case: caches[case] for case in choosing}, trained.steps, state, *made_of)
    validation = [read[case] for case in choosing]
    chosen = results.choose(seen, validation, read.task, settings, state.memory("choice"))
    predicted = made_from({case: caches[case] for case in cases.test}, trained.steps, state, *made_of)
    table = results.score(predicted, entries, fold, read.task, settings, chosen)
    table = table.assign(**fingerprint_so_far())
    with atomic_folder(predictions) as folder:
        state.give(predicted, folder)
    with atomic_path(metrics) as temporary:
        table.to_csv(temporary, index=False)
    origin = provenance(settings=dump(settings), inputs=[index, model])
    write_json(facts, {"chosen": chosen, "provenance": origin})
    state.clear()
    means = table.select_dtypes("number").drop(columns="fold", errors="ignore").mean().head(3)
    logging.info("%d cases: %s", len(predicted), ", ".join(f"mean {k} {v:.4f}" for k, v in means.items()))


if __name__ == "__main__":
    run(held_out.main)
