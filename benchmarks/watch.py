"""Run a command and monitor its memory: shared by the benchmarks."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import psutil


def run(command: list[str], log: Path, **more: str) -> tuple[float, float]:
    """Run a command; returns its seconds and its peak memory in MiB.

    Memory is the largest sum of proportional set sizes over the process and its children, sampled every
    0.2 s: shared pages count once, as in Slurm.

    Raises:
        SystemExit: the command failed.
    """
    peak = 0.0
    begun = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        process = psutil.Popen(command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **more})
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.5):
                total = 0
                try:
                    family = [process, *process.children(recursive=True)]
                except psutil.Error:
                    continue
                for one in family:
                    try:
                        total += one.memory_full_info().pss
                    except psutil.Error:
                        continue
                peak = max(peak, total / 2**20)

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait()
        done.set()
        watcher.join()
    if code:
        raise SystemExit(f"{' '.join(command)} failed with {code}; see {log}")
    return time.monotonic() - begun, peak
