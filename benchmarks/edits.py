"""Random edits of pretended experiments, as in tests/unit/experiment/test_stale.py, for a given time.

    python benchmarks/edits.py --minutes 60 --seed 1

Every system in turn gets other sequences of edits, by the seeds that follow the first one. A sequence after
which a call does not make what a fresh run would make, or makes more, is printed as a call of `follow` after
it was minimised; paste it into tests/unit/experiment/test_stale.py to repeat it. The exit code is 1 if there
is any.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from itertools import count, cycle
from pathlib import Path

from hypothesis import HealthCheck, given, seed, settings

# The edits come from the helpers of the tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
from pretended import SYSTEMS
from random_edits import PARTS, ROUNDS, Rounds, follow

# Sequences with one seed.
BATCH = 25


def main() -> int:
    """Read the command line."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--minutes", type=float, default=60)
    arguments.add_argument("--seed", type=int, default=time.time_ns() % 10**6, help="default: by the clock")
    arguments.add_argument("--only", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="systems")
    args = arguments.parse_args()
    end = time.monotonic() + 60 * args.minutes
    tried, failed = Counter[str](), 0
    for system, number in zip(cycle(args.only), count(args.seed), strict=False):
        if time.monotonic() > end:
            break
        failed += not _try(system, number, tried)
    for system, sequences in tried.items():
        print(f"{system}: {sequences} sequences")
    print(f"{failed} of {tried.total() // BATCH} seeds failed" if failed else "none failed")
    return bool(failed)


def _try(system: str, number: int, tried: Counter[str]) -> bool:
    """Whether all sequences with a seed pass; the first one that fails is minimised and printed."""
    failing = False

    @seed(number)
    @settings(
        max_examples=BATCH,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(parts=PARTS, rounds=ROUNDS)
    def sequence(parts: int | None, rounds: Rounds) -> None:
        nonlocal failing
        tried[system] += not failing  # minimising tries many more
        try:
            follow(system, parts, rounds)
        except Exception:
            failing = True
            raise

    try:
        sequence()
    except Exception as error:
        said = "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
        print(f"{system}, seed {number}: {said}", flush=True)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
