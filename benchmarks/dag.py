"""What a dry run costs as the number of cases grows: seconds, memory, and calls that name a file.

    python benchmarks/dag.py EMPTY --cases 100 1000 10000
    python benchmarks/dag.py EMPTY --cases 100 200 --count
    python benchmarks/dag.py EMPTY --cases 1000 --ways single --delay 3
    python benchmarks/dag.py EMPTY --cases 10 --jobs

Experiments of five folds on tiny scans, each with a label, in the folder EMPTY. `parts` is the Slurm
profile's method, 30 jobs for all cases; `single` a job for each case and stage. In the state `planned`
nothing is made; in `made` all outputs are there (pretended by the helpers of the tests), so nothing is
planned. The first call of a state also reads headers and tries the network; the second one remembers.

Calls are counted by strace (`apt-get install strace`): stat, open, list and so on, by the file's place: of
the experiment, of Snakemake's records (.snakemake), or of programs, Python's and Foldwise's code. What grows
with the cases is the difference of two rows over the difference of their cases. With `--delay`, every call
takes so many ms longer, as on a network file system that remembers nothing; threads wait at the same time.
With `--jobs`, one job for each stage of a case and one for a part are run, with the Snakemake that a job on a
cluster starts (the executor cluster-generic, with `sh` as the command that submits).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections import Counter
from contextlib import chdir
from pathlib import Path

import psutil

from foldwise.training.memory import peak_of

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from file_calls import Call, calls_of
from many_cases import Scans

ROOT = Path(__file__).parents[1]
WAYS = {"parts": 30, "single": None}
# As `snakemake` itself, without the working folder in Python's path.
SNAKEMAKE = [sys.executable, "-P", "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
SUBMIT = ["--executor", "cluster-generic", "--cluster-generic-submit-cmd", "sh", "--jobs", "1"]
PLACES = ("experiment", "records", "programs")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder to work in, outside the checkout")
    parser.add_argument("--cases", nargs="+", type=int, default=[100, 1000, 10000], help="numbers of cases")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS, help="how cases become jobs")
    parser.add_argument("--states", nargs="+", default=["planned", "made"], choices=["planned", "made"])
    parser.add_argument("--count", action="store_true", help="count calls instead of seconds")
    parser.add_argument("--delay", type=float, default=0, help="ms by which every call is delayed")
    parser.add_argument("--jobs", action="store_true", help="count the calls of running jobs")
    args = parser.parse_args()
    # Compiled code is kept, as after an installation.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPATH"] = str(ROOT / "workflow")
    if args.jobs:
        running(args.folder, args.cases[0])
        return
    if args.count:
        columns = ["cases", "way", "state", "call", *PLACES]
    else:
        columns = [
            "cases",
            "way",
            "state",
            "call",
            "jobs",
            "seconds",
            "CPU (s)",
            "Snakemake (MiB)",
            "counting (MiB)",
        ]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for cases in args.cases:
        for way in args.ways:
            scans = Scans(args.folder / f"{cases}-{way}", cases)
            for state in args.states:
                if state == "made":
                    scans.parts = WAYS[way]
                    scans.make()
                for call in ("first", "second"):
                    command = dry_run(WAYS[way])
                    if args.count:
                        seen = Counter(map(place, calls_of(command, scans.folder)))
                        row = [str(seen[each]) for each in PLACES]
                    else:
                        row = measured(scans.folder, command, args.delay)
                    print(f"| {' | '.join(map(str, (cases, way, state, call, *row)))} |", flush=True)


def dry_run(parts: int | None) -> list[str]:
    divided = [] if parts is None else ["--set-scatter", f"prepare={parts}"]
    return [*SNAKEMAKE, "-n", "--quiet", "rules", "--cores", "1", *divided, "--configfile", "experiment.yaml"]


def place(call: Call) -> str:
    """Where a file is."""
    if call.path.startswith(".snakemake") or "/.snakemake/" in call.path:
        return "records"
    return "experiment" if call.inner else "programs"


def measured(folder: Path, command: list[str], delay_ms: float) -> list[str]:
    """Jobs, seconds, CPU seconds, and the peak memory (MiB) of Snakemake and of the process that counts."""
    if delay_ms:
        begun = time.monotonic()
        calls_of(command, folder, delay_ms=delay_ms)
        said, seconds = (folder / "output").read_text(), time.monotonic() - begun
        return [str(jobs_in(said)), f"{seconds:.1f}", "", "", ""]
    begun, before = time.monotonic(), os.times()
    own = other = 0.0
    with (folder / "output").open("w+") as log:
        process = psutil.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:
            time.sleep(0.1)
            # The kernel's peak, so that a short one between two samples is not missed.
            own = max(own, peak_of(process))
            children = process.children() if process.is_running() else []
            other = max([other, *(peak_of(child) for child in children)])
        seconds, after = time.monotonic() - begun, os.times()
        log.seek(0)
        said = log.read()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return [str(jobs_in(said)), f"{seconds:.1f}", f"{cpu:.1f}", f"{own:.0f}", f"{other:.0f}"]


def jobs_in(said: str) -> int:
    """Jobs that a dry run plans."""
    total = re.search(r"^total +(\d+)", said, re.MULTILINE)
    if total is None and "Nothing to be done" not in said:
        raise SystemExit(said)
    return int(total.group(1)) if total else 0


def running(folder: Path, cases: int) -> None:
    """Print the calls of processes: of single jobs for a case, and of a part with all cases."""
    print(f"| way | process | number | {' | '.join(PLACES)} |\n|{'---|' * (3 + len(PLACES))}")
    for way, parts in (("single", None), ("parts", 1)):
        scans = Scans(folder / f"jobs-{way}", cases, parts)
        divided = [] if parts is None else ["--set-scatter", f"prepare={parts}"]
        command = [*SNAKEMAKE, prepared(scans), *SUBMIT, *divided, "--configfile", "experiment.yaml"]
        calls = calls_of(command, scans.folder)
        programs = dict.fromkeys(call.program for call in calls)
        kinds = Counter(kind for program in programs if (kind := kind_of(program)))
        for kind, number in kinds.items():
            seen = Counter(place(call) for call in calls if kind_of(call.program) == kind)
            row = (way, kind, number, *(round(seen[each] / number) for each in PLACES))
            print(f"| {' | '.join(map(str, row))} |", flush=True)


def prepared(scans: Scans) -> str:
    """What shows that the first case is prepared: its cache, or the marker of its part."""
    with chdir(scans.folder):
        opened = scans.opened()
        return opened.parts.ready(opened.training[:1], opened.preparation.cached)[0]


def kind_of(program: str) -> str | None:
    """What a process is: a stage, the user's Snakemake, or that of a job or of a part; None for others."""
    if not Path(program.partition(" ")[0]).name.startswith("python"):
        return None  # a shell that starts it
    if stage := re.search(r"-m foldwise\.stages\.(\w+)", program):
        return stage[1]
    if " -m snakemake" not in program:
        return None
    if "--mode" in program:
        return "Snakemake of a job"
    return "Snakemake of a part" if "--nolock" in program else "Snakemake"


if __name__ == "__main__":
    main()
