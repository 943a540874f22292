"""Write the features of every frame of all training videos, by the backbone of a fold's model."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from foldwise.command import parser, run
from foldwise.evaluate import is_whole, read_trained
from foldwise.files import atomic_folder, file_hash
from foldwise.index import Index


def main() -> None:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--index", required=True, type=Path, help="label-path index")
    made.add_argument("--model", required=True, type=Path, help="the fold's model")
    made.add_argument("--state", required=True, type=Path, help="folder for unfinished work")
    made.add_argument("--folder", required=True, type=Path, help="folder of <case>.h5 to write")
    args = made.parse_args()
    index = Index.read(args.index)
    trained = read_trained([args.model])
    # Features of another model never mix with this one's.
    work = args.state / file_hash(args.model)[:16]
    paths = [work / f"{entry.case}.h5" for entry in index.entries]
    for number, (entry, path) in enumerate(zip(index.entries, paths, strict=True), start=1):
        if not is_whole(path):
            system = trained.system
            system.write_features(trained.networks[0], entry.cache, path, str(args.model))  # type: ignore[attr-defined]
            logging.info("features of %s (%d of %d)", entry.case, number, len(paths))
    with atomic_folder(args.folder) as folder:
        for path in paths:
            shutil.move(path, folder / path.name)
    shutil.rmtree(args.state, ignore_errors=True)


if __name__ == "__main__":
    run(main)
