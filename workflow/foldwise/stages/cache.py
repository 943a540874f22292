"""Write a case's HDF5 cache."""

from __future__ import annotations

import logging
from pathlib import Path

import yaml

from foldwise.command import parser, run, written
from foldwise.files import CaseError
from foldwise.plan import with_plan
from foldwise.volumes.prepare import cache_case
from foldwise.volumes.settings import Cache


def main() -> None:
    """Read the command line."""
    made = parser(__doc__, Cache)
    made.add_argument("--case", required=True, help="the case's name")
    made.add_argument("--crop", required=True, type=Path, help="folder that the crop stage wrote")
    made.add_argument("--plan", type=Path, help="plan.yaml, for what the settings leave open")
    made.add_argument("--labels", default="{tumour: 1}", help="class name → voxel value, as YAML")
    made.add_argument("--cache", required=True, type=written, help="HDF5 file to write")
    args = made.parse_args()
    settings = with_plan(Cache, args.settings, args.plan, "cache")
    try:
        cache_case(args.case, args.crop, settings, yaml.safe_load(args.labels), args.cache)
    except CaseError as error:
        raise CaseError(f"case {args.case}: {error}") from error
    logging.info("case %s: %.1f MiB", args.case, args.cache.stat().st_size / 2**20)


if __name__ == "__main__":
    run(main)
