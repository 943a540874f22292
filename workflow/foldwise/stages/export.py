"""Write a fold's predictions as files for other programs, under the cases' own names."""

from __future__ import annotations

from pathlib import Path

from foldwise.command import run, system_parser, written
from foldwise.files import atomic_folder, read_json
from foldwise.index import Index
from foldwise.settings import parse
from foldwise.systems import part


def main() -> None:
    """Read the command line."""
    made = system_parser(__doc__, "Export")
    made.add_argument("--index", required=True, type=Path, help="label-path index")
    made.add_argument("--predictions", required=True, type=Path, help="folder of the test stage")
    made.add_argument("--facts", required=True, type=Path, help="facts of the test stage (.json)")
    made.add_argument("--folder", required=True, type=written, help="folder to write")
    args = made.parse_args()
    settings = parse(part(args.system, "settings").Export, args.settings)
    index = Index.read(args.index)
    predictions = {path.stem: path for path in sorted(args.predictions.glob("*.h5"))}
    entries = [index[case] for case in predictions]
    chosen = read_json(args.facts)["chosen"]
    with atomic_folder(args.folder) as folder:
        part(args.system, "results").export(predictions, entries, settings, chosen, folder)


if __name__ == "__main__":
    run(main)
