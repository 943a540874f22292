"""Predict the fixed test set and the unlabelled cases with all folds' models averaged; score and export."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd

from foldwise.command import run, system_parser, written
from foldwise.evaluate import KEYS, clear, predict_missing, read_trained, refuse_learnt, unfinished
from foldwise.files import atomic_folder, atomic_path, file_hash, read_json, write_json
from foldwise.hdf5 import content_of
from foldwise.provenance import provenance
from foldwise.settings import dump, parse
from foldwise.systems import part


def main() -> None:
    """Read the command line."""
    made = system_parser(__doc__, "Evaluate")
    made.add_argument("--data", required=True, help="the data section, as YAML or JSON")
    made.add_argument("--export", default="{}", help="the export section, as YAML or JSON")
    made.add_argument("--models", required=True, type=Path, nargs="+", help="one model per fold")
    made.add_argument("--choice", required=True, type=Path, help="the choice of the cross-validation")
    made.add_argument("--prepared", required=True, type=Path, help="folder of the prepared cases")
    made.add_argument("--caches", required=True, type=Path, help="folder of the caches")
    made.add_argument("--state", required=True, type=Path, help="folder for unfinished work")
    made.add_argument("--predictions", required=True, type=written, help="folder of <case>.h5 to write")
    made.add_argument("--folder", required=True, type=written, help="folder of exported files to write")
    made.add_argument("--metrics", required=True, type=written, help="scores of the test set (.csv)")
    made.add_argument("--facts", required=True, type=written, help="choices and provenance (.json)")
    args = made.parse_args()
    sections, results = part(args.system, "settings"), part(args.system, "results")
    settings, export = parse(sections.Evaluate, args.settings), parse(sections.Export, args.export)
    task, entries = part(args.system, "index").make_entries(
        parse(sections.Data, args.data), args.prepared, args.caches, training=False
    )

    trained = read_trained(args.models, settings, system=args.system, task=task if entries else None)
    contents = {entry.case: content_of(entry.cache) for entry in entries}
    for path, state in zip(args.models, trained.states, strict=True):
        # Of a patient who was trained on, another case without a label is rightly here.
        refuse_learnt(path, state, [replace(entry, group="") for entry in entries], contents)
    work = unfinished(args.state, [file_hash(path) for path in args.models], dump(settings), contents)
    predictions = predict_missing(trained, {entry.case: entry.cache for entry in entries}, work)
    chosen = read_json(args.choice)["chosen"]
    table = results.score(predictions, entries, "ensemble", trained.task, settings, chosen)
    with atomic_folder(args.folder) as folder:
        results.export(predictions, entries, export, chosen, folder)
    with atomic_folder(args.predictions) as folder:
        for path in predictions.values():
            shutil.move(path, folder / path.name)
    with atomic_path(args.metrics) as temporary:
        (table if len(table) else pd.DataFrame(columns=[*KEYS])).to_csv(temporary, index=False)
    facts = provenance(settings=dump(settings), inputs=args.models)
    write_json(args.facts, {"chosen": chosen, **facts})
    clear(args.state)
    logging.info("%d cases predicted", len(predictions))


if __name__ == "__main__":
    run(main)
