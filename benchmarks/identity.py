"""What it costs to judge by their records whether outputs are stale, as the number of cases grows.

    python benchmarks/identity.py --cases 2500 --out identity.json

Pretends an experiment whose cases have four small source files each, and whose outputs were all made, in a
temporary folder. Measured is what the front door does after reading the sheet: read what is remembered, judge
all outputs, set their times, remember. File-system calls are counted by strace, if it is installed, in a
second run. All files are in the page cache; a network file system adds its latency to every call.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

# Pretended experiments come from the helpers of the tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
from foldwise.experiment.open import Opened
from foldwise.experiment.outputs import all_outputs
from foldwise.experiment.stale import judge, settle
from foldwise.looks import looking_once
from foldwise.store import Memory
from pretended import World, unsynced

# Name in the table → system calls, as strace groups them.
CALLS = {
    "stat": r"newfstatat|(l|f)?stat(64)?|statx",
    "open": r"open(at2?)?",
    "scandir": r"getdents(64)?",
    "utime": r"utimensat|utimes?",
}


def main() -> None:
    """Read the command line."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--cases", type=int, default=2500)
    arguments.add_argument("--out", type=Path, help="JSON file to write")
    args = arguments.parse_args()
    with unsynced(), tempfile.TemporaryDirectory() as folder:
        world = large(Path(folder) / "world", args.cases)
        world.call()
        with chdir(world.folder):
            outputs = sum(map(len, all_outputs(world.opened())))
        print(f"{args.cases} cases, {len(world.sources())} sources, {outputs} outputs with records\n")
        columns = ("call", "CPU (s)", "wall (s)", "stale", *(f"{name} per case" for name in CALLS))
        print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        rows = []
        for name, prepare in STEPS.items():
            prepare(world)
            row = {"call": name, **measured(world)}
            prepare(world)
            row |= {call: number / args.cases for call, number in counted(world).items()}
            shown = (f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values())
            print(f"| {' | '.join(shown)} |", flush=True)
            rows.append(row)
    if args.out:
        args.out.write_text(
            json.dumps({"cases": args.cases, "outputs": outputs, "rows": rows}, indent=2) + "\n"
        )


def large(folder: Path, cases: int) -> World:
    """An experiment of five folds; a case has two images, a label and a map of weights."""
    world = World(folder, "segmentation")
    world.header = "case,group,image_a,image_b,label,weight"
    world.rows = {
        name: [name, name, *(f"{name}-{kind}.nii" for kind in ("a", "b", "label", "weight"))]
        for name in (f"c{number}" for number in range(cases))
    }
    world.settings["split"]["folds"] = 5
    for path in world.sources():
        world.write(path, f"first {path.name}")
    return world


def run(opened: Opened[Any, Any]) -> int:
    """What the front door does after opening the experiment; returns the number of stale outputs."""
    memory = Memory(Path(opened.paths.known))
    with looking_once():
        levels = judge(opened, memory)
        memory.save()
        settle(levels, Path(opened.paths.stale))
    return sum(found.stale for level in levels for found in level)


def measured(world: World) -> dict[str, float]:
    """Seconds, and how many outputs are stale."""
    with chdir(world.folder):
        opened = world.opened()
        before, begun = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        stale = run(opened)
        wall, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_s": seconds, "wall_s": wall, "stale": stale}


def counted(world: World) -> dict[str, int]:
    """Numbers of file-system calls; empty without strace, or where it may not look into a process."""
    if shutil.which("strace") is None:
        return {}
    with chdir(world.folder), tempfile.NamedTemporaryFile("r") as table:
        opened = world.opened()
        command = ["strace", "-c", "-f", "-U", "calls,name", "-o", table.name, "-p", str(os.getpid())]
        with subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8") as strace:
            assert strace.stderr is not None
            if "attached" not in strace.stderr.readline():
                return {}
            run(opened)
            strace.send_signal(signal.SIGINT)
        lines = re.findall(r"^ *(\d+) (\w+)$", table.read(), re.MULTILINE)
    return {
        call: sum(int(number) for number, name in lines if re.fullmatch(names, name))
        for call, names in CALLS.items()
    }


def forgotten(world: World) -> None:
    """Nothing is remembered."""
    (world.results / "x/state/known.json").unlink(missing_ok=True)


def unchanged(world: World) -> None:
    """Everything is as it was."""


def touched(world: World) -> None:
    """All sources get new times."""
    for path in world.sources():
        path.touch()


def verified(world: World) -> None:
    """All sources are to be read."""
    world.settings["verify"] = "always"


def copied(world: World) -> None:
    """The results are copied without their times."""
    world.settings["verify"] = "changed"
    old = world.results
    world.settings["results"] = f"{old.name}c"
    shutil.copytree(old, world.results, copy_function=shutil.copy)
    shutil.rmtree(old)


STEPS: dict[str, Callable[[World], None]] = {
    "first": forgotten,
    "again": unchanged,
    "sources touched": touched,
    "again, touched": unchanged,
    "verify: always": verified,
    "results copied": copied,
}

if __name__ == "__main__":
    main()
