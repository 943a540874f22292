"""Predict the fixed test set and the unlabelled cases with all folds' models averaged; score and export."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pandas as pd

from foldwise.command import parser, run
from foldwise.evaluate import KEYS, metrics_table, networks, predict_missing
from foldwise.export import export_case
from foldwise.files import atomic_folder, atomic_path, file_hash, read_json, short_hash, write_json
from foldwise.provenance import provenance
from foldwise.settings import Data, Evaluate, Export, dump, parse
from foldwise.sheet import read_sheet


def main() -> None:
    """Read the command line."""
    made = parser(__doc__, Evaluate)
    made.add_argument("--data", required=True, help="the data section, as YAML or JSON")
    made.add_argument("--export", default="{}", help="the export section, as YAML or JSON")
    made.add_argument("--models", required=True, type=Path, nargs="+", help="one model per fold")
    made.add_argument("--postprocess", required=True, type=Path, help="the choice of the cross-validation")
    made.add_argument("--caches", required=True, type=Path, help="folder of the caches")
    made.add_argument("--state", required=True, type=Path, help="folder for unfinished work")
    made.add_argument("--predictions", required=True, type=Path, help="folder of <case>.h5 to write")
    made.add_argument("--folder", required=True, type=Path, help="folder of <case>.nii.gz to write")
    made.add_argument("--metrics", required=True, type=Path, help="scores of the test set (.csv)")
    made.add_argument("--facts", required=True, type=Path, help="choices and provenance (.json)")
    args = made.parse_args()
    settings = parse(Evaluate, args.settings)
    cases = [case for case in read_sheet(parse(Data, args.data)).cases if not case.trains]

    system, trained, targets = networks(args.models)
    work = args.state / short_hash([file_hash(path) for path in args.models], 16)
    caches = {case.name: str(args.caches / f"{case.name}.h5") for case in cases}
    predictions = predict_missing(system, trained, caches, work)

    chosen = read_json(args.postprocess)["postprocess"]

    labels = {case.name: case.label for case in cases if case.label is not None}
    groups = {case.name: case.group for case in cases}
    scored = {name: predictions[name] for name in labels}
    table = metrics_table(scored, labels, groups, "ensemble", targets, settings, chosen)
    export = parse(Export, args.export)
    with atomic_folder(args.folder) as folder:
        for case in cases:
            export_case(predictions[case.name], chosen, export, folder, case.images[0])
    with atomic_folder(args.predictions) as folder:
        for path in predictions.values():
            shutil.move(path, folder / path.name)
    with atomic_path(args.metrics) as temporary:
        (table if len(table) else pd.DataFrame(columns=[*KEYS, "class", "dice"])).to_csv(
            temporary, index=False
        )
    facts = provenance(settings=dump(settings), inputs=args.models)
    write_json(args.facts, {"postprocess": chosen, **facts})
    shutil.rmtree(args.state, ignore_errors=True)
    logging.info("%d cases, %d of them with a label", len(predictions), len(scored))


if __name__ == "__main__":
    run(main)
