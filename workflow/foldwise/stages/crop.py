"""Crop a case to its box and keep the way back."""

from __future__ import annotations

from pathlib import Path

import yaml

from foldwise.command import parser, run, written
from foldwise.files import CaseError, atomic_folder
from foldwise.settings import parse
from foldwise.volumes.prepare import crop_case
from foldwise.volumes.settings import Crop


def main() -> None:
    """Read the command line."""
    made = parser(__doc__, Crop)
    made.add_argument("--case", required=True, help="the case's name, for messages")
    made.add_argument("--images", required=True, type=Path, nargs="+", help="one file per channel")
    made.add_argument("--label", type=Path, help="label map on the images' grid")
    made.add_argument("--weight", type=Path, help="weight map on the images' grid")
    made.add_argument("--inside", type=Path, help="mask that the box encloses; default: the whole scan")
    made.add_argument("--labels", default="{tumour: 1}", help="class name → voxel value, as YAML")
    made.add_argument("--folder", required=True, type=written, help="folder to write")
    args = made.parse_args()
    settings = parse(Crop, args.settings)
    classes = yaml.safe_load(args.labels)
    try:
        with atomic_folder(args.folder) as folder:
            crop_case(args.images, args.label, args.weight, args.inside, settings, classes, folder)
    except CaseError as error:
        raise CaseError(f"case {args.case}: {error}") from error


if __name__ == "__main__":
    run(main)
