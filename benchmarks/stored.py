"""Run a benchmark and keep what it prints, with the machine, the commit and the command.

    python benchmarks/stored.py memory python benchmarks/memory.py --folder /scratch/memory

writes benchmarks/results/memory.json. Paths in the command are kept as they are typed: use short ones.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch

from foldwise.files import write_json
from foldwise.provenance import provenance

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("name", help="of the result")
    arguments.add_argument("command", nargs=argparse.REMAINDER)
    args = arguments.parse_args()
    started = time.monotonic()
    done = subprocess.run(args.command, stdout=subprocess.PIPE, encoding="utf-8")
    print(done.stdout)
    if done.returncode:
        return done.returncode
    origin = provenance(settings={}, inputs=[])
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    write_json(
        RESULTS / f"{args.name}.json",
        {
            "command": args.command,
            "commit": origin["commit"],
            "date": time.strftime("%Y-%m-%d"),
            "seconds": round(time.monotonic() - started),
            "machine": {
                "processor": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
                "memory_gib": round(psutil.virtual_memory().total / 2**30),
                "gpu": gpu,
                "python": origin["python"],
                "packages": origin["packages"],
            },
            "output": done.stdout.splitlines(),
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
