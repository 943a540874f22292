"""Write the features of every frame of all training videos, by the backbone of a fold's model."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from foldwise.command import parser, run, written
from foldwise.evaluate import clear, is_whole, read_trained, unfinished
from foldwise.files import atomic_folder, file_hash
from foldwise.hdf5 import content_of
from foldwise.index import Index


def main() -> None:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--index", required=True, type=Path, help="label-path index")
    made.add_argument("--model", required=True, type=Path, help="the fold's model")
    made.add_argument("--state", required=True, type=Path, help="folder for unfinished work")
    made.add_argument("--folder", required=True, type=written, help="folder of <case>.h5 to write")
    args = made.parse_args()
    index = Index.read(args.index)
    trained = read_trained([args.model], task=index.task)
    # Features by another model, or of other data, never mix with these.
    contents = {entry.case: content_of(entry.cache) for entry in index.entries}
    work = unfinished(args.state, file_hash(args.model), contents)
    paths = [work / f"{entry.case}.h5" for entry in index.entries]
    for number, (entry, path) in enumerate(zip(index.entries, paths, strict=True), start=1):
        if not is_whole(path):
            system = trained.system
            system.write_features(trained.networks[0], entry.cache, path, str(args.model))  # type: ignore[attr-defined]
            logging.info("features of %s (%d of %d)", entry.case, number, len(paths))
    with atomic_folder(args.folder) as folder:
        for path in paths:
            shutil.move(path, folder / path.name)
    clear(args.state)


if __name__ == "__main__":
    run(main)
