"""How much memory the jobs of a surgical experiment will need."""

from __future__ import annotations

from math import ceil, prod
from pathlib import Path
from typing import Any

from foldwise import forecast
from foldwise.forecast import TORCH_MIB, WORKER_MIB, WORKERS, Step
from foldwise.systems.surgical.settings import Model, Settings

# FFmpeg's decoder of a 1080p video with its threads' frames, and the frames looked at for the border.
DECODER_MIB = 350
# The frame caches that a reading process keeps open, with HDF5's own caches; measured with 80 videos.
OPEN_MIB = 80
# Frames of features that a whole video may have: four hours at one frame per second.
LONG = 4 * 3600
WIDTH = 2048


def frames_mib() -> float:
    """Peak of making a frame cache, whatever the video's length."""
    return forecast.BASE_MIB + DECODER_MIB


def count(model: Model, task: dict[str, Any], memory: Path, trying: bool = False) -> Step:
    """Count what a training step of a model holds, or recall it.

    Args:
        model: its settings.
        task: what is learnt.
        memory: JSON file that remembers counts; it may be missing.
        trying: also try everything else that a training makes of the settings.
    """
    asked = model.model_dump(mode="json", include={"kind", "backbone", "window", "crop", "hidden"})
    key = [asked, model.training.batch, task]
    return forecast.remembered("surgical", model, task, key, memory, trying=trying)


def model_mib(stage: str, settings: Settings, model: Model, memory: Path) -> int:
    """Peak memory of training, testing or making features, on a CPU, in MiB.

    Args:
        stage: train, test, ensemble, predict or features.
        settings: of the experiment.
        model: the model.
        memory: JSON file that remembers counts.
    """
    video = 4 * LONG * WIDTH
    source = settings.models[model.features] if model.features else model
    task = {"phases": list(settings.data.phases), "tools": list(settings.data.tools)}
    step = count(source, task, memory)
    samples = source.training.batch * source.window
    frames = step.forward + 2 * step.largest
    predicting = frames * source.batch_frames / samples + 2 * video
    if stage != "train":
        return ceil(TORCH_MIB + (8 * step.weights + predicting) / 2**20)
    if model.kind == "tecno":
        # The backbone lies idle in the model; the temporal network is small beside the features.
        kept = 4 * LONG * model.temporal.channels * 8 * model.temporal.layers * model.temporal.stages
        return ceil(TORCH_MIB + (8 * step.weights + 3 * video + kept) / 2**20)
    batch = 4 * prod(model.crop) * 3 * samples
    learning = max(step.kept + 2 * step.largest + 3 * batch, predicting)
    own = TORCH_MIB + 20 * step.weights / 2**20 + WORKERS * (WORKER_MIB + OPEN_MIB)
    shared = learning + WORKERS * batch
    return ceil(forecast.processes_mib(model.training.gpus, own) + shared / 2**20)
