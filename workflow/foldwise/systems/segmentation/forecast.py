"""How much memory a segmentation model will need: what a step holds, and the whole volumes of testing."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from pathlib import Path
from typing import Any

from foldwise import forecast
from foldwise.forecast import TORCH_MIB, WORKER_MIB, WORKERS, Step
from foldwise.systems.segmentation.planning import memory_gib
from foldwise.systems.segmentation.settings import Model, Settings
from foldwise.volumes.forecast import Size, cached_voxels


def count(model: Model, task: dict[str, Any], memory: Path, trying: bool = False, whole: bool = True) -> Step:
    """Count a model's step, or recall it.

    Args:
        model: its settings.
        task: what is learnt.
        memory: JSON file that remembers counts; it may be missing.
        trying: also try everything else that a training makes of the settings.
        whole: false before a plan is made, when nothing can be counted.
    """
    asked = model.model_dump(mode="json", include={"network", "dimensions", "slice_axis", "slices", "patch"})
    key = [asked, model.training.batch, task]
    return forecast.remembered("segmentation", model, task, key, memory, trying=trying, whole=whole)


def model_mib(stage: str, sizes: Sequence[Size], settings: Settings, model: Model, step: Step | None) -> int:
    """Peak memory of training or of predicting the largest case, on a CPU, in MiB.

    Args:
        stage: train, test, ensemble or predict.
        sizes: of the cases that it may meet.
        settings: of the experiment.
        model: the model, planned if it is to be.
        step: what a training step holds; None while a plan is to be made: as much as the plan may take.
    """
    if step is None:
        assert settings.plan is not None
        kept = int(memory_gib(settings.plan) * 2**30)
        step = Step(20 * 10**6, kept, 0, kept // 3)
    outputs = len(settings.data.targets().names) + 1
    channels = max((size.channels for size in sizes), default=1)
    cached = max((cached_voxels(size, settings.cache) for size in sizes), default=0)
    # The sliding window holds the image, the sum of outputs and of weights; then probabilities and labels.
    window = (step.forward + 2 * step.largest) * model.inference.batch / model.training.batch
    whole = cached * (4 * channels + 4 * outputs * 2 + 12) + window
    if stage == "train":
        patch = prod(model.patch) * (2 * channels + 1) * model.training.batch
        own = TORCH_MIB + 20 * step.weights / 2**20 + WORKERS * WORKER_MIB
        shared = max(step.kept + 2 * step.largest, whole) + WORKERS * 2 * patch
        return ceil(forecast.processes_mib(model.training.gpus, own) + shared / 2**20)
    source = max((size.voxels for size in sizes), default=0)
    # Back on the source's grid: its probabilities, labels, truth and the masks of one class.
    return ceil(TORCH_MIB + (4 * step.weights + max(whole, source * (4 * outputs * 2 + 8))) / 2**20)
