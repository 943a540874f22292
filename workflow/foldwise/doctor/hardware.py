"""GPUs, the driver, and PyTorch's use of them; shared memory and open files."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from foldwise import gpus
from foldwise.cuda import advice, driver_text, torch_build
from foldwise.doctor.finding import Finding

SHM = Path("/dev/shm")
# Enough for the batches that some processes hand to a training. MiB.
SHM_MIB = 1024
# Files that readers of cases, their caches and Snakemake's jobs have open at a time.
OPEN_FILES = 1024


def gpu(found: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """The GPUs here, and whether PyTorch can use them.

    Args:
        found: facts of the probe, with those of `torch`.
    """
    every, held, build = gpus.every_gpu(), gpus.held(), torch_build()
    torch = found.get("torch", {})
    if not every and not held:
        count = torch.get("count", 0)
        text = f"{count}, of another maker" if count else "none here: jobs on this machine compute on the CPU"
        yield Finding("GPU", "ok", text)
        return
    for one in every:
        yield Finding("GPU", "ok", f"{one.number}: {one.name}, {one.mib / 1024:.0f} GiB ({one.uuid})")
    version = build.text if build else "no PyTorch"
    text = f"{version}; {driver_text()}"
    if every and not gpus.usable_gpus():
        todo = f"unset {gpus.VISIBLE}, or name GPUs of nvidia-smi"
        yield Finding("CUDA", "warning", f"{gpus.VISIBLE}={os.environ[gpus.VISIBLE]!r} hides all", todo)
    elif not held:
        todo = (
            "ask the admin for access (group video), or for a job of Slurm with a GPU: `salloc --gres=gpu:1`"
        )
        yield Finding("CUDA", "warning", f"{gpus.DEVICES}* cannot be opened, so no GPU can be used", todo)
    elif problem := advice(build):
        yield Finding("CUDA", "error", text, problem)
    elif "cuda" in torch:
        todo = "call nvidia-smi: another program may hold the GPU, or it is too old for this PyTorch"
        yield Finding("CUDA", "error", f"{text}: {torch['cuda']}", todo)
    elif "error" not in torch:
        yield Finding("CUDA", "ok", f"{text}; PyTorch sees {torch['count']}")


def shared_memory() -> Iterator[Finding]:
    """The folder through which processes that read data hand over batches."""
    what = "processes that read training data hand over their batches there"
    if not SHM.is_dir() or not os.access(SHM, os.W_OK):
        todo = f"mount it, as a file system in memory: {what}"
        yield Finding(str(SHM), "error", "missing, or not writable", todo)
        return
    usage = shutil.disk_usage(SHM)
    free = f"{usage.free / 2**20:.0f} of {usage.total / 2**20:.0f} MiB free"
    if usage.free < SHM_MIB * 2**20:
        todo = f"give a container more (docker: --shm-size=8g, or --ipc=host): {what}"
        yield Finding(str(SHM), "warning", free, todo)
    else:
        yield Finding(str(SHM), "ok", free)


def open_files() -> Iterator[Finding]:
    """How many files a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        yield Finding("open files", "ok", "no limit")
    elif soft < OPEN_FILES:
        most = "" if hard == resource.RLIM_INFINITY else f"; at most {hard} without the admin's help"
        todo = f"call `ulimit -n {4 * OPEN_FILES}` in the shell first{most}"
        yield Finding("open files", "warning", f"{soft} a process", todo)
    else:
        yield Finding("open files", "ok", f"{soft} a process")
