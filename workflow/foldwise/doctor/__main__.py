"""`python -m foldwise.doctor`, for where the command `foldwise` itself does not start."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from foldwise.doctor import examine
from foldwise.doctor.shown import show

if __name__ == "__main__":
    arguments = argparse.ArgumentParser(prog="python -m foldwise.doctor", description=__doc__)
    arguments.add_argument("experiment", nargs="?", type=Path, help="settings, to look at their results, too")
    arguments.add_argument("--json", action="store_true", help="print a list of findings")
    given = arguments.parse_args()
    found = examine(given.experiment)
    show(found, as_json=given.json)
    sys.exit(any(one.level == "error" for one in found))
