"""Write a new index of the cases whose new regions were accepted, with the new masks; the old one stays."""

from __future__ import annotations

import logging
from pathlib import Path

from foldwise.command import parser, run, written
from foldwise.files import read_json
from foldwise.index import Index
from foldwise.systems.clips.index import update_index


def main() -> None:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--index", required=True, type=Path, help="index as made from the sheet")
    made.add_argument("--regions", required=True, type=Path, help="folder of the regions and their facts")
    made.add_argument("--updated", required=True, type=written, help="index to write")
    made.add_argument("--splits", required=True, type=written, help="its readable twin (.json)")
    args = made.parse_args()
    old = Index.read(args.index)
    facts = {entry.case: read_json(args.regions / f"{entry.case}.json") for entry in old.entries}
    new = update_index(old, facts, args.regions)
    new.write(args.updated, args.splits)
    logging.info("%d of %d cases accepted", len(new.entries), len(old.entries))


if __name__ == "__main__":
    run(main)
