"""Write a fold's predictions as NIfTI in each case's own geometry, under its own name."""

from __future__ import annotations

from pathlib import Path

from foldwise.command import parser, run
from foldwise.export import export_case
from foldwise.files import atomic_folder, read_json
from foldwise.index import Index
from foldwise.settings import Export, parse


def main() -> None:
    """Read the command line."""
    made = parser(__doc__, Export)
    made.add_argument("--index", required=True, type=Path, help="label-path index")
    made.add_argument("--predictions", required=True, type=Path, help="folder of the test stage")
    made.add_argument("--facts", required=True, type=Path, help="facts of the test stage (.json)")
    made.add_argument("--folder", required=True, type=Path, help="folder of <case>.nii.gz to write")
    args = made.parse_args()
    settings = parse(Export, args.settings)
    index = Index.read(args.index)
    postprocess = read_json(args.facts)["postprocess"]
    with atomic_folder(args.folder) as folder:
        for path in sorted(args.predictions.glob("*.h5")):
            export_case(path, postprocess, settings, folder, Path(index[path.stem].images[0]))


if __name__ == "__main__":
    run(main)
