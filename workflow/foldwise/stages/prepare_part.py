"""Prepare a part of an experiment's cases in one job, by the same rules as one by one.

A case that fails names itself in the log and takes no other one with it; what is done already is left alone.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from pathlib import Path

from foldwise.command import run, system_parser, written
from foldwise.files import CaseError, write_json, write_text
from foldwise.settings import parse_values

SNAKEFILE = Path(__file__).parents[3] / "Snakefile"


def main() -> None:
    """Read the command line."""
    made = system_parser(__doc__, "Settings")
    made.add_argument("--part", required=True, help="name of the part, e.g. training_3of30")
    made.add_argument("--target", default="prepared", choices=["indexed", "prepared"], help="how far")
    made.add_argument("--rules", required=True, nargs="+", help="rules that prepare a case")
    made.add_argument("--cores", type=int, default=1, help="cases at a time")
    made.add_argument("--mem-mib", type=int, help="memory that they may take together, in MiB")
    made.add_argument("--marker", required=True, type=written, help="what says that the part is done (.json)")
    args = made.parse_args()
    with tempfile.TemporaryDirectory(prefix="foldwise-") as scratch:
        config = Path(scratch) / "part.json"
        write_json(config, {**parse_values(args.settings), "part": args.part})
        command = [
            *(sys.executable, "-m", "snakemake", args.target, "--snakefile", str(SNAKEFILE)),
            *("--configfile", str(config), "--allowed-rules", args.target, *args.rules),
            # The job's own Snakemake holds the lock, and other parts write beside this one.
            *("--nolock", "--rerun-incomplete", "--keep-going", "--show-failed-logs"),
            *("--quiet", "progress", "--cores", str(args.cores)),
            *(("--resources", f"mem_mb={args.mem_mib}") if args.mem_mib else ()),
        ]
        done = subprocess.run(command)
    if done.returncode:
        raise CaseError(f"part {args.part}: not all of its cases could be prepared; the log above names them")
    write_text(args.marker, "{}\n")
    logging.info("part %s is prepared", args.part)


if __name__ == "__main__":
    run(main)
