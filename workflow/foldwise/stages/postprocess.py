"""Choose the post-processing of new cases on the held-out cases of the whole cross-validation."""

from __future__ import annotations

import logging
from pathlib import Path

from foldwise.command import parser, run
from foldwise.evaluate import choose_postprocess
from foldwise.files import write_json
from foldwise.index import Index
from foldwise.settings import Evaluate, parse


def main() -> None:
    """Read the command line."""
    made = parser(__doc__, Evaluate)
    made.add_argument("--index", required=True, type=Path, help="label-path index")
    made.add_argument("--predictions", required=True, type=Path, nargs="+", help="folder of each test stage")
    made.add_argument("--facts", required=True, type=Path, help="the choice, to write (.json)")
    args = made.parse_args()
    index = Index.read(args.index)
    predictions = {path.stem: path for folder in args.predictions for path in sorted(folder.glob("*.h5"))}
    labels = {entry.case: Path(entry.label) for entry in index.entries}
    wanted = parse(Evaluate, args.settings).postprocess
    chosen = choose_postprocess(predictions, labels, index.targets, wanted)
    write_json(args.facts, {"postprocess": chosen, "tried": wanted, "cases": len(predictions)})
    logging.info("of %s kept %s", ", ".join(wanted) or "nothing", ", ".join(chosen) or "nothing")


if __name__ == "__main__":
    run(main)
