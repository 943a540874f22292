"""What a job computes on, for its log."""

from __future__ import annotations

import logging

import torch

from foldwise.gpus import driver, usable_gpus


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
    if device.type == "cpu" and usable_gpus():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
        logging.warning(
            "there is a GPU, but PyTorch cannot use it: it was built for %s, and the driver is %s",
            *(built, driver()),
        )
    logging.info("device: %s, precision %s", device_text(device), precision)
