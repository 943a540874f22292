"""Choose what new cases get, e.g. their post-processing, on all held-out cases of the cross-validation.

A killed job goes on with the cases that are left.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from foldwise.command import run, system_parser, written
from foldwise.files import write_json
from foldwise.index import Index
from foldwise.settings import parse
from foldwise.systems import part


def main() -> None:
    """Read the command line."""
    made = system_parser(__doc__, "Evaluate")
    made.add_argument("--index", required=True, type=Path, help="label-path index")
    made.add_argument("--predictions", required=True, type=Path, nargs="+", help="folder of each test stage")
    made.add_argument("--facts", required=True, type=written, help="the choice, to write (.json)")
    args = made.parse_args()
    settings = parse(part(args.system, "settings").Evaluate, args.settings)
    index = Index.read(args.index)
    predictions = {path.stem: path for folder in args.predictions for path in sorted(folder.glob("*.h5"))}
    entries = [index[case] for case in predictions]
    # Cases that are done stay done if the job is killed.
    state = args.facts.with_suffix(".unfinished")
    chosen = part(args.system, "results").choose(predictions, entries, index.task, settings, state)
    write_json(args.facts, {"chosen": chosen, "cases": len(predictions)})
    shutil.rmtree(state, ignore_errors=True)
    logging.info("of %d cases: %s", len(predictions), chosen)


if __name__ == "__main__":
    run(main)
