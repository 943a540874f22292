"""Peak memory, as the operating system and the GPU driver count it."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

import psutil
import torch


def peak_mib() -> float:
    """Peak resident memory of this process and of its present children (loader workers), in MiB.

    The sum of single peaks: an upper bound, since pages shared with the children count in each.
    """
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return own + sum(_peak_of(child) for child in psutil.Process().children(recursive=True))


def peak_gpu_mib(device: torch.device) -> float:
    """Peak memory allocated on a GPU by this process, in MiB; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0


def _peak_of(process: psutil.Process) -> float:
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 2**10 if found else 0.0
