"""How much memory an interactive model will need: a training step, and a volume with its sessions."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

from foldwise import forecast
from foldwise.forecast import TORCH_MIB, WORKER_MIB, WORKERS, Step
from foldwise.systems.interactive.settings import Model, Settings
from foldwise.volumes.forecast import Size, cached_voxels


def count(model: Model, task: dict[str, Any], memory: Path, trying: bool = False) -> Step:
    """Count a model's step, or recall it.

    Args:
        model: its settings.
        task: what is learnt.
        memory: JSON file that remembers counts; it may be missing.
        trying: also try everything else that a training makes of the settings.
    """
    heavy: Any = {"trunk": True, "size": True, "frames": {"count": True}, "memory": {"mode"}}
    asked = model.model_dump(mode="json", include=heavy)
    key = [asked, model.training.batch, task]
    return forecast.remembered("interactive", model, task, key, memory, trying=trying)


def model_mib(stage: str, sizes: Sequence[Size], settings: Settings, model: Model, step: Step) -> int:
    """Peak memory of training or of testing on the largest case, on a CPU, in MiB.

    Args:
        stage: train, test or ensemble.
        sizes: of the cases that it may meet.
        settings: of the experiment.
        model: the model.
        step: what a training step holds.
    """
    objects = len(settings.data.targets().names)
    channels = max((size.channels for size in sizes), default=1)
    voxels = max((cached_voxels(size, settings.cache) for size in sizes), default=0)
    source = max((size.voxels for size in sizes), default=0)
    # Normalised image, label, object numbers, a state and its copy; back in the source, one mask's scores.
    whole = voxels * (4 * channels + 4 + 6 * objects) + source * (12 + 4 * objects)
    networks = settings.split.folds if stage == "ensemble" else 1
    # A slice at a time, a few encoded ahead.
    forward = 8 * step.forward / max(1, model.training.batch * model.frames.count)
    if stage == "train":
        pixels = model.size**2 * (model.frames.count + 6) * 4 * model.training.batch
        # Weights, gradients, two moments, the best weights, and copies while a checkpoint is written.
        own = TORCH_MIB + 28 * step.weights / 2**20 + WORKERS * WORKER_MIB
        shared = step.kept + 2 * step.largest + whole + WORKERS * 2 * pixels
        return ceil(forecast.processes_mib(model.training.gpus, own) + shared / 2**20)
    return ceil(TORCH_MIB + (4 * step.weights * (networks + 1) + forward + whole) / 2**20)
