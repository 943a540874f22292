"""Decode a video into its frame cache, with the rows of its annotation."""

from __future__ import annotations

from pathlib import Path

from foldwise.command import parser, run, written
from foldwise.files import CaseError
from foldwise.settings import parse
from foldwise.systems.surgical.prepare import cache_video
from foldwise.systems.surgical.settings import Cache, Data


def main() -> None:
    """Read the command line."""
    made = parser(__doc__, Cache)
    made.add_argument("--case", required=True, help="the case's name")
    made.add_argument("--video", required=True, type=Path, help="video file, or folder of numbered images")
    made.add_argument("--phases", type=Path, help="phase annotation (.txt)")
    made.add_argument("--tools", type=Path, help="tool annotation (.txt)")
    made.add_argument("--data", required=True, help="the data section, as YAML or JSON")
    made.add_argument("--cache", required=True, type=written, help="HDF5 file to write")
    args = made.parse_args()
    data, settings = parse(Data, args.data), parse(Cache, args.settings)
    try:
        cache_video(args.case, args.video, args.phases, args.tools, data, settings, args.cache)
    except CaseError as error:
        raise CaseError(f"case {args.case}: {str(error).removeprefix(f'case {args.case}: ')}") from error


if __name__ == "__main__":
    run(main)
