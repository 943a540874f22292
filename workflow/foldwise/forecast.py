"""How much memory and disk each stage will need, from headers and settings alone.

The figures are upper estimates: a base for the interpreter and its libraries, and bytes per voxel of what a
stage holds at its peak. They become `mem_mb` of the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, prod

from foldwise.settings import Model, Settings

# Resident memory of a stage before it holds any voxel, in MiB; two Snakemake processes share the job.
SNAKEMAKE_MIB = 300
VOLUME_MIB = 300
TORCH_MIB = 1100
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
        voxels: of one channel of the source.
        voxel_mm3: volume of a voxel.
        channels: image channels.
        labelled: whether there is a label.
    """

    voxels: int
    voxel_mm3: float
    channels: int
    labelled: bool


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
        made += 12 * _cached_voxels(size, settings) / 2**20
    return _rounded(made)


def model_mib(stage: str, sizes: Mapping[str, Size], settings: Settings, model: Model) -> int:
    """Peak memory of training, testing or the ensemble on the largest case, in MiB.

    Args:
        stage: train, test or ensemble.
        sizes: case → its size.
        settings: of the experiment.
        model: the model.
    """
    patch = prod(model.patch)
    classes = 1 + len(settings.data.labels)
    features = _features(model)
    # Two convolutions with their norm and activation per level; deeper levels add a seventh each time.
    activations = 4 * patch * features * 12 * model.training.batch
    made = float(TORCH_MIB)
    if stage == "train":
        channels = max((size.channels for size in sizes.values()), default=1)
        # Up to eight workers, each with two batches read ahead.
        read_ahead = 8 * 2 * model.training.batch * patch * (2 * channels + 1)
        made += (activations + read_ahead) / 2**20 + 8 * 60
    # Validation, testing and the ensemble hold one case whole: image, probabilities, and the sum of them.
    cached = max((_cached_voxels(size, settings) for size in sizes.values()), default=0)
    source = max((size.voxels for size in sizes.values()), default=0)
    whole = cached * 4 * (2 + 3 * classes)
    if stage != "train":
        whole += source * (4 * classes + 6) + activations / 4
    made += whole / 2**20
    return _rounded(max(made, CUDA_MIB))


def small_mib(stage: str, settings: Settings) -> int:
    """Memory of check, index, export and report, in MiB."""
    return _rounded({"check": 900, "index": 300, "export": 1200, "report": 900}[stage])


def disk_mib(size: Size, settings: Settings) -> dict[str, float]:
    """Disk of a case by kind, in MiB; a CT compresses to a little over one byte a voxel."""
    cached = _cached_voxels(size, settings)
    return {
        "crop": 1.2 * size.voxels * size.channels / 2**20,
        "cache": 1.1 * cached * size.channels / 2**20,
        "predictions": 0.1 * cached * len(settings.data.labels) / 2**20,
    }


def table(sizes: Mapping[str, Size], settings: Settings) -> str:
    """What check prints: memory per stage with its largest case, and disk in all."""
    lines = ["stage        memory (MiB)  largest case"]
    stages = (["lung_mask"] if settings.prepare.lung_mask else []) + ["crop", "cache"]
    for stage in stages:
        case = max(sizes, key=lambda name: case_mib(stage, sizes[name], settings))
        lines.append(f"{stage:12} {case_mib(stage, sizes[case], settings):12}  {case}")
    for name, model in settings.models.items():
        for stage in ("train", "test"):
            lines.append(f"{stage:12} {model_mib(stage, sizes, settings, model):12}  model {name}")
    total = sum(sum(disk_mib(size, settings).values()) for size in sizes.values())
    lines.append(f"disk: about {total / 1024:.2f} GiB for {len(sizes)} cases")
    return "\n".join(lines)


def _cached_voxels(size: Size, settings: Settings) -> float:
    """Voxels of the cached grid, were nothing cropped away."""
    if settings.cache.spacing is None:
        return size.voxels
    return size.voxels * size.voxel_mm3 / prod(settings.cache.spacing)


def _features(model: Model) -> int:
    """Channels at full resolution, from whatever the network's arguments call them."""
    arguments = model.network.arguments
    for key in ("features", "channels", "filters", "init_filters", "feature_size", "n_filters"):
        value = arguments.get(key)
        if isinstance(value, list | tuple) and value:
            return int(value[0])
        if isinstance(value, int | float):
            return int(value)
    return 32


def _rounded(mib: float) -> int:
    """With Snakemake's own share, rounded up to 100; at least what a job of the Slurm plugin needs."""
    return max(1000, 100 * ceil((mib + SNAKEMAKE_MIB) / 100))
