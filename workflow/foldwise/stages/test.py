"""Test a fold's model on the cases it never saw; a killed job goes on with the cases that are left."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from foldwise.command import run, system_parser, written
from foldwise.evaluate import clear, predict_missing, read_trained, refuse_learnt, unfinished
from foldwise.files import CaseError, atomic_folder, atomic_path, file_hash, write_json
from foldwise.hdf5 import content_of
from foldwise.index import Index
from foldwise.provenance import provenance
from foldwise.settings import dump, parse
from foldwise.systems import part


def main() -> None:
    """Read the command line."""
    made = system_parser(__doc__, "Evaluate")
    made.add_argument("--index", required=True, type=Path, help="label-path index")
    made.add_argument("--features", type=Path, help="folder of <case>.h5 to use instead of the caches")
    made.add_argument("--fold", required=True, type=int, help="fold, from 0")
    made.add_argument("--model", required=True, type=Path, help="the fold's model")
    made.add_argument("--state", required=True, type=Path, help="folder for unfinished work")
    made.add_argument("--predictions", required=True, type=written, help="folder of <case>.h5 to write")
    made.add_argument("--metrics", required=True, type=written, help="scores to write (.csv)")
    made.add_argument("--facts", required=True, type=written, help="choices and provenance (.json)")
    args = made.parse_args()
    settings = parse(part(args.system, "settings").Evaluate, args.settings)
    results = part(args.system, "results")
    index = Index.read(args.index)
    fold = index.fold(args.fold)

    trained = read_trained([args.model], settings, system=args.system, task=index.task)
    own = trained.states[0].get("fold", args.fold)
    if own != args.fold:
        raise CaseError(f"{args.model}: the model of fold {own}; --fold {args.fold} is asked for")
    choosing = fold.validation if results.chooses(settings) else ()
    caches = index.caches((*choosing, *fold.test), args.features)
    contents = {case: content_of(path) for case, path in caches.items()}
    refuse_learnt(args.model, trained.states[0], [index[case] for case in fold.test], contents)
    # Predictions of another model, or of other data, never mix with these.
    work = unfinished(args.state, file_hash(args.model), dump(settings), contents)
    seen = predict_missing(trained, index.caches(choosing, args.features), work / "validation")
    validation = [index[case] for case in choosing]
    chosen = results.choose(seen, validation, index.task, settings, work / "choice")
    predictions = predict_missing(trained, index.caches(fold.test, args.features), work / "test")
    entries = [index[case] for case in fold.test]
    table = results.score(predictions, entries, args.fold, index.task, settings, chosen)
    with atomic_folder(args.predictions) as folder:
        for path in predictions.values():
            shutil.move(path, folder / path.name)
    with atomic_path(args.metrics) as temporary:
        table.to_csv(temporary, index=False)
    facts = provenance(settings=dump(settings), inputs=[args.index, args.model])
    write_json(args.facts, {"chosen": chosen, **facts})
    clear(args.state)
    means = table.select_dtypes("number").drop(columns="fold", errors="ignore").mean().head(3)
    logging.info("%d cases: %s", len(predictions), ", ".join(f"mean {k} {v:.4f}" for k, v in means.items()))


if __name__ == "__main__":
    run(main)
