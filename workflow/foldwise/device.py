"""What a job computes on."""

from __future__ import annotations

import logging
import os
import warnings

import torch

from foldwise import cuda
from foldwise.files import CaseError
from foldwise.gpus import VISIBLE, driver, held
from foldwise.sampling import WITHIN


def chosen_device(*, tried: bool = True) -> torch.device:
    """The GPU, or the CPU where there is none; a GPU that is held is not left idle without a word.

    A stage's job (foldwise.sampling.gpu_job) computes on a GPU if PyTorch can. If not, it stops if it holds
    one, that is, if the driver lists it, CUDA_VISIBLE_DEVICES allows it, and its device file can be opened;
    without such a GPU it runs on the CPU. With the setting `device: gpu` it stops then, too; with
    `device: cpu` it sees no GPU at all. Other commands, e.g. annotation, only warn.

    Args:
        tried: whether to compute a number on the GPU, if one is to be used.

    Raises:
        CaseError: a job holds a GPU that cannot be used, or lacks the one that the settings demand.
    """
    wanted = os.environ.get(WITHIN)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "CUDA initialization")  # said below
        usable = torch.cuda.is_available()
    reason = _failure() if (tried and wanted is not None if usable else held()) else None
    if reason is None and not usable and wanted == "gpu":
        raise CaseError(
            f"device: gpu, but this job on {os.uname().nodename} has no GPU; request one in the profile, for "
            'Slurm `gres: "gpu:1"`, or set `device: auto`'
        )
    if reason is not None and wanted is not None:
        raise CaseError(
            f"this job on {os.uname().nodename} holds a GPU that PyTorch cannot use, so nothing was "
            f"computed: {reason}. To compute on the CPU: `device: cpu` in the experiment, or an empty "
            f"{VISIBLE}"
        )
    if reason is not None:
        logging.warning("computing on the CPU, since PyTorch cannot use the GPU: %s", reason)
    return torch.device("cuda" if usable and reason is None else "cpu")


def _failure() -> str | None:
    """Why PyTorch cannot compute on the GPU, and what helps; None: it can."""
    try:
        torch.cuda.init()
        torch.ones(1, device="cuda").add_(1).item()
    except (RuntimeError, AssertionError) as error:  # the latter from a build without CUDA
        build = cuda.torch_build()
        said = str(error).strip().splitlines()[0].rstrip(".")
        todo = cuda.advice(build) or "call nvidia-smi and `foldwise doctor` on that machine"
        names = ", ".join(held()) or "GPU"
        version = build.text if build else f"PyTorch {torch.__version__}"
        return f"{names}: {said} ({version}; {cuda.driver_text()}). What helps: {todo}"
    return None


def name_of(device: torch.device) -> str:
    """The model of a GPU, or `CPU`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def device_text(device: torch.device, count: int = 1) -> str:
    """A job's device in words: model, memory and driver of its GPUs, or its threads on the CPU.

    Args:
        device: of the first process.
        count: number of such devices.
    """
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        version = f", driver {known}" if (known := driver()) else ""
        text = f"{facts.name}, {facts.total_memory / 2**20:.0f} MiB{version}"
    else:
        text = f"CPU, {torch.get_num_threads()} threads"
    return f"{count} × {text}" if count > 1 else text


def log_device(device: torch.device, precision: str) -> None:
    """Log what a job runs on, and the precision of the network's operations, in Fabric's words."""
    logging.info("device: %s, precision %s", device_text(device), precision)
