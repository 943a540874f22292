"""Decode a clip into its frame cache, with its class."""

from __future__ import annotations

import logging
from pathlib import Path

from foldwise.command import parser, run, written
from foldwise.files import naming
from foldwise.settings import parse
from foldwise.systems.clips.cache import cache_clip
from foldwise.systems.clips.settings import Cache


def main() -> None:
    """Read the command line."""
    made = parser(__doc__, Cache)
    made.add_argument("--case", required=True, help="name of the case")
    made.add_argument("--video", required=True, type=Path, help="video file")
    made.add_argument("--label", default="", help="the case's class, by name")
    made.add_argument("--cache", required=True, type=written, help="HDF5 file to write")
    args = made.parse_args()
    settings = parse(Cache, args.settings)
    with naming(args.case):
        count = cache_clip(args.case, args.video, args.label, settings, args.cache)
    logging.info("%s: %d frames", args.case, count)


if __name__ == "__main__":
    run(main)
