"""Write the label-path index (pickle) and its readable twin (JSON)."""

from __future__ import annotations

from pathlib import Path

from foldwise.command import parser, run, written
from foldwise.files import CaseError
from foldwise.index import make_index
from foldwise.settings import Split, parse
from foldwise.systems import NAMES, part


def main() -> None:
    """Read the command line."""
    made = parser(__doc__, Split)
    made.add_argument("--system", default=NAMES[0], choices=NAMES, help="family of experiments")
    made.add_argument("--data", required=True, help="the data section, as YAML or JSON")
    made.add_argument("--prepared", required=True, type=Path, help="folder of the prepared cases")
    made.add_argument("--caches", required=True, type=Path, help="folder of the caches")
    made.add_argument("--index", required=True, type=written, help="pickle to write")
    made.add_argument("--splits", required=True, type=written, help="JSON to write")
    args = made.parse_args()
    data = parse(part(args.system, "settings").Data, args.data)
    settings = parse(Split, args.settings)
    if settings.file and settings.file.resolve() in (args.index.resolve(), args.splits.resolve()):
        raise CaseError(f"{settings.file}: would be overwritten; give --index and --splits other names")
    task, entries = part(args.system, "index").make_entries(data, args.prepared, args.caches)
    index = make_index(entries, task, settings)
    index.write(args.index, args.splits)


if __name__ == "__main__":
    run(main)
