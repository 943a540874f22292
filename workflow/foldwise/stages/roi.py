"""Find a clip's region in all frames: MedSAM or a classical method on key frames, interpolated between."""

from __future__ import annotations

import logging
from pathlib import Path

from foldwise.command import parser, run, written
from foldwise.files import naming
from foldwise.settings import parse
from foldwise.systems.clips.regions import find_regions
from foldwise.systems.clips.settings import Regions


def main() -> None:
    """Read the command line."""
    made = parser(__doc__, Regions)
    made.add_argument("--case", required=True, help="name of the case")
    made.add_argument("--cache", required=True, type=Path, help="the case's frame cache")
    made.add_argument("--box", default="", help="prompt `x0 y0 x1 y1` in pixels of the video")
    made.add_argument("--mask", type=Path, help="given mask: an image, or a folder of images by frame number")
    made.add_argument("--regions", required=True, type=written, help="HDF5 file to write")
    made.add_argument("--facts", required=True, type=written, help="what was found, to write (.json)")
    args = made.parse_args()
    settings = parse(Regions, args.settings)
    with naming(args.case):
        found = find_regions(args.case, args.cache, args.box, args.mask, settings, args.regions, args.facts)
    logging.info("%s: %.1f %% of the frame; %s", args.case, 100 * found.share, found.review or "accepted")


if __name__ == "__main__":
    run(main)
