"""Test a fold's model on the cases it never saw; a killed job goes on with the cases that are left."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from foldwise.command import run, system_parser
from foldwise.evaluate import predict_missing, read_trained
from foldwise.files import atomic_folder, atomic_path, file_hash, write_json
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
    made.add_argument("--predictions", required=True, type=Path, help="folder of <case>.h5 to write")
    made.add_argument("--metrics", required=True, type=Path, help="scores to write (.csv)")
    made.add_argument("--facts", required=True, type=Path, help="choices and provenance (.json)")
    args = made.parse_args()
    settings = parse(part(args.system, "settings").Evaluate, args.settings)
    results = part(args.system, "results")
    index = Index.read(args.index)
    fold = index.folds[args.fold]

    # Predictions of another model never mix with this one's.
    work = args.state / file_hash(args.model)[:16]
    trained = read_trained([args.model], settings)
    choosing = fold.validation if results.chooses(settings) else ()
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
    shutil.rmtree(args.state, ignore_errors=True)
    means = table.select_dtypes("number").drop(columns="fold", errors="ignore").mean().head(3)
    logging.info("%d cases: %s", len(predictions), ", ".join(f"mean {k} {v:.4f}" for k, v in means.items()))


if __name__ == "__main__":
    run(main)
