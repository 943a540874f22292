"""How much memory and disk each stage will need, from headers and settings alone.

A forecast is the peak to be expected: a base for the interpreter and its libraries, bytes per voxel of what
a stage holds at its peak, and for training what a step keeps, counted on the network's shapes. What a job
asks for (`mem_mb`) is more: a margin, Snakemake's own share, and on jobs that may get a GPU that of its
driver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, prod
from pathlib import Path

from foldwise.files import read_json, short_hash, write_json
from foldwise.planning import memory_gib
from foldwise.settings import Model, Settings
from foldwise.targets import Targets

# Peak memory of a stage before it holds any voxel, in MiB.
VOLUME_MIB = 230
TORCH_MIB = 560
# Each process that reads patches, beside what it shares.
WORKER_MIB = 60
WORKERS = 4

# A job asks for a fifth more than the forecast, and for the Snakemake that runs within it.
MARGIN = 1.2
SNAKEMAKE_MIB = 300
# A GPU job's share of main memory for the driver and its libraries.
CUDA_MIB = 3000

# Bytes per voxel of the source at a stage's peak, beside the base (counted from the code, and measured).
LUNG_BYTES = 14
CROP_BYTES = 14
CACHE_BYTES = 22


@dataclass(frozen=True)
class Size:
    """What a header tells of a case.

    Attributes:
        shape: voxels of one channel of the source.
        spacing: voxel edges in mm.
        channels: image channels.
        labelled: whether there is a label.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    channels: int
    labelled: bool

    @property
    def voxels(self) -> int:
        """Voxels of one channel."""
        return prod(self.shape)


@dataclass(frozen=True)
class Step:
    """What the network holds, in bytes unless said otherwise; a training step is of one batch.

    Attributes:
        weights: numbers in the network.
        kept: what a forward pass keeps for the backward one.
        largest: the largest tensor that is kept.
        forward: the most that a forward pass holds at once which keeps nothing, input left out.
    """

    weights: int
    kept: int
    largest: int
    forward: int


def count(model: Model, targets: Targets, channels: int, memory: Path) -> Step:
    """Count a model's step, or recall it: counting needs torch, whose import takes seconds.

    Args:
        model: its settings.
        targets: what is learnt.
        channels: image channels.
        memory: JSON file that remembers counts; it may be missing.
    """
    asked = model.model_dump(include={"network", "dimensions", "slice_axis", "slices", "patch"})
    asked["batch"] = model.training.batch
    key = short_hash([sorted(Step.__annotations__), asked, targets.as_dict(), channels], 16)
    known = read_json(memory) if memory.exists() else {}
    if key not in known:
        from foldwise.systems.segmentation import Family
        from foldwise.training.memory import count_step

        known[key] = asdict(count_step(Family(model, targets, channels)))
        write_json(memory, known)
    return Step(**known[key])


def case_mib(stage: str, size: Size, settings: Settings) -> int:
    """Peak memory of a per-case stage, in MiB.

    Args:
        stage: lung_mask, crop or cache.
        size: of the case.
        settings: of the experiment.
    """
    bytes_per_voxel = {
        "lung_mask": LUNG_BYTES,
        "crop": CROP_BYTES + 4 * (size.channels - 1),
        "cache": CACHE_BYTES + 8 * (size.channels - 1),
    }[stage]
    made = VOLUME_MIB + bytes_per_voxel * size.voxels / 2**20
    if stage == "cache":
        made += 12 * cached_voxels(size, settings) / 2**20
    return ceil(made)


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
    cached = max((cached_voxels(size, settings) for size in sizes), default=0)
    # The sliding window holds the image, the sum of outputs and of weights; then probabilities and labels.
    window = (step.forward + 2 * step.largest) * model.inference.batch / model.training.batch
    whole = cached * (4 * channels + 4 * outputs * 2 + 12) + window
    if stage == "train":
        patch = prod(model.patch) * (2 * channels + 1) * model.training.batch
        return ceil(
            TORCH_MIB
            + (20 * step.weights + max(step.kept + 2 * step.largest, whole)) / 2**20
            + WORKERS * (WORKER_MIB + 2 * patch / 2**20)
        )
    source = max((size.voxels for size in sizes), default=0)
    # Back on the source's grid: its probabilities, labels, truth and the masks of one class.
    return ceil(TORCH_MIB + (4 * step.weights + max(whole, source * (4 * outputs * 2 + 8))) / 2**20)


def small_mib(stage: str) -> int:
    """Memory of check, index, plan, export and report, in MiB."""
    return {"check": 600, "index": 200, "plan": 900, "export": 900, "report": 600}[stage]


def asked_mib(stage: str, peak: float, attempt: int = 1) -> int:
    """Memory that a job asks for in MiB, rounded up to 100; a retry asks for half as much again.

    Args:
        stage: name of the rule.
        peak: the forecast.
        attempt: number of the try, from 1.
    """
    made = MARGIN * peak * (1 + 0.5 * (attempt - 1)) + SNAKEMAKE_MIB
    if stage in ("train", "test", "ensemble", "predict"):
        made = max(made, CUDA_MIB + SNAKEMAKE_MIB)
    # The Slurm plugin's own job step needs about one GiB.
    return max(1000, 100 * ceil(made / 100))


def disk_mib(size: Size, settings: Settings) -> dict[str, float]:
    """Disk of a case by kind, in MiB; a CT compresses to a little over one byte a voxel."""
    cached = cached_voxels(size, settings)
    return {
        "crop": 1.2 * size.voxels * size.channels / 2**20,
        "cache": 1.1 * cached * size.channels / 2**20,
        "predictions": 0.1 * cached * len(settings.data.labels) / 2**20,
    }


def table(sizes: Mapping[str, Size], settings: Settings, models: Mapping[str, Mapping[str, int]]) -> str:
    """What check prints: memory per stage with its largest case, and disk in all.

    Args:
        sizes: case → its size.
        settings: of the experiment.
        models: model → stage → peak in MiB.
    """
    lines = ["stage        peak (MiB)  job asks (MiB)  largest case"]
    stages = (["lung_mask"] if settings.prepare.lung_mask else []) + ["crop", "cache"]
    for stage in stages:
        case = max(sizes, key=lambda name: case_mib(stage, sizes[name], settings))
        peak = case_mib(stage, sizes[case], settings)
        lines.append(f"{stage:12} {peak:10}  {asked_mib(stage, peak):14}  {case}")
    for name, peaks in models.items():
        for stage, peak in peaks.items():
            lines.append(f"{stage:12} {peak:10}  {asked_mib(stage, peak):14}  model {name}")
    total = sum(sum(disk_mib(size, settings).values()) for size in sizes.values())
    lines.append(f"disk: about {total / 1024:.2f} GiB for {len(sizes)} cases")
    return "\n".join(lines)


def cached_voxels(size: Size, settings: Settings) -> float:
    """Voxels of the cached grid, were nothing cropped away."""
    if settings.cache.shape is not None:
        return prod(settings.cache.shape)
    if settings.cache.spacing is None:
        return size.voxels
    return size.voxels * prod(size.spacing) / prod(settings.cache.spacing)
