"""Write the label-path index (pickle) and its readable twin (JSON)."""

from __future__ import annotations

from pathlib import Path

from foldwise.command import parser, run
from foldwise.files import read_json
from foldwise.index import Entry, make_index
from foldwise.settings import Data, Split, parse
from foldwise.sheet import read_sheet


def main() -> None:
    """Read the command line."""
    made = parser(__doc__, Split)
    made.add_argument("--data", required=True, help="the data section, as YAML or JSON")
    made.add_argument("--crops", required=True, type=Path, help="folder of the crops")
    made.add_argument("--caches", required=True, type=Path, help="folder of the caches")
    made.add_argument("--index", required=True, type=Path, help="pickle to write")
    made.add_argument("--splits", required=True, type=Path, help="JSON to write")
    args = made.parse_args()
    data = parse(Data, args.data)
    entries = []
    for case in read_sheet(data).cases:
        if not case.trains:
            continue
        facts = read_json(args.crops / case.name / "crop.json")
        entries.append(
            Entry(
                case=case.name,
                group=case.group,
                images=tuple(facts["images"]),
                label=facts["label"],
                cache=str(args.caches / f"{case.name}.h5"),
                foreground_ml=facts["foreground_ml"],
            )
        )
    index = make_index(entries, data.targets(), parse(Split, args.settings))
    index.write(args.index, args.splits)


if __name__ == "__main__":
    run(main)
