"""What a job computes on, for its log."""

from __future__ import annotations

import logging

import torch

from foldwise.gpus import driver, usable_gpus


def name_of(device: torch.device) -> str:
    """The model of a GPU, or `CPU`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def log_device(device: torch.device, precision: str, count: int = 1) -> None:
    """Log the model, memory and driver of a job's GPUs, or its threads on the CPU, and the precision.

    Args:
        device: of the first process.
        precision: of the network's operations, in Fabric's words.
        count: number of such devices.
    """
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        version = f", driver {known}" if (known := driver()) else ""
        text = f"{facts.name}, {facts.total_memory / 2**20:.0f} MiB{version}"
    else:
        text = f"CPU, {torch.get_num_threads()} threads"
        if usable_gpus():
            built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
            logging.warning(
                "there is a GPU, but PyTorch cannot use it: it was built for %s, and the driver is %s",
                *(built, driver()),
            )
    logging.info("device: %s%s, precision %s", f"{count} × " if count > 1 else "", text, precision)
