"""Store a frozen network's features of a case's clips, so that an epoch costs the decoder alone."""

from __future__ import annotations

from pathlib import Path

from foldwise.command import parser, run, written
from foldwise.files import naming
from foldwise.settings import parse
from foldwise.systems.clips.features import make_vision, write_features
from foldwise.systems.clips.settings import Model


def main() -> None:
    """Read the command line."""
    made = parser(__doc__, Model)
    made.add_argument("--source", required=True, type=Path, help="the case's frame cache or file of regions")
    made.add_argument("--features", required=True, type=written, help="HDF5 file to write")
    args = made.parse_args()
    model = parse(Model, args.settings)
    with naming(args.source.stem):
        write_features(args.source, model, make_vision(model), args.features)


if __name__ == "__main__":
    run(main)
