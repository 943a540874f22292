"""Test a fold's model on the cases it never saw; a killed job goes on with the cases that are left."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from foldwise.command import parser, run
from foldwise.evaluate import choose_postprocess, metrics_table, networks, predict_missing
from foldwise.files import atomic_folder, atomic_path, file_hash, write_json
from foldwise.index import Index
from foldwise.provenance import provenance
from foldwise.settings import Evaluate, dump, parse


def main() -> None:
    """Read the command line."""
    made = parser(__doc__, Evaluate)
    made.add_argument("--index", required=True, type=Path, help="label-path index")
    made.add_argument("--fold", required=True, type=int, help="fold, from 0")
    made.add_argument("--model", required=True, type=Path, help="the fold's model")
    made.add_argument("--state", required=True, type=Path, help="folder for unfinished work")
    made.add_argument("--predictions", required=True, type=Path, help="folder of <case>.h5 to write")
    made.add_argument("--metrics", required=True, type=Path, help="scores to write (.csv)")
    made.add_argument("--facts", required=True, type=Path, help="choices and provenance (.json)")
    args = made.parse_args()
    settings = parse(Evaluate, args.settings)
    index = Index.read(args.index)
    fold = index.folds[args.fold]

    # Predictions of another model never mix with this one's.
    work = args.state / file_hash(args.model)[:16]
    system, trained, targets = networks([args.model])
    labels = {entry.case: Path(entry.label) for entry in index.entries}
    chosen: list[str] = []
    if settings.postprocess:
        seen = predict_missing(
            system, trained, {c: index[c].cache for c in fold.validation}, work / "validation"
        )
        chosen = choose_postprocess(seen, labels, targets, settings.postprocess)
    predictions = predict_missing(system, trained, {c: index[c].cache for c in fold.test}, work / "test")
    groups = {entry.case: entry.group for entry in index.entries}
    table = metrics_table(predictions, labels, groups, args.fold, targets, settings, chosen)
    with atomic_folder(args.predictions) as folder:
        for path in predictions.values():
            shutil.move(path, folder / path.name)
    with atomic_path(args.metrics) as temporary:
        table.to_csv(temporary, index=False)
    facts = provenance(settings=dump(settings), inputs=[args.index, args.model])
    write_json(args.facts, {"postprocess": chosen, **facts})
    shutil.rmtree(args.state, ignore_errors=True)
    logging.info("%d cases, mean Dice %.4f", len(predictions), table["dice"].mean())


if __name__ == "__main__":
    run(main)
