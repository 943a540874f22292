"""From the training cases to spacing, patch, batch, network and grey values, by nnU-Net's rules.

Isensee et al., nnU-Net (Nature Methods 18, 2021), section "Inferred parameters" of the supplement; the
memory is counted from the network itself instead of looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from foldwise.files import CaseError, read_json
from foldwise.plan import merged, read_plan
from foldwise.settings import dump, validate
from foldwise.systems.segmentation.settings import Model, Plan, Settings
from foldwise.volumes.grids import spacing_of
from foldwise.volumes.targets import Targets

# An axis is coarse when its voxels are this many times as long as the others'.
ANISOTROPIC = 3
BASE_FEATURES, MOST_FEATURES = 32, {2: 512, 3: 320}
# No axis is halved below this many voxels.
SMALLEST_EDGE = 4
# A batch holds at most this share of all voxels of the training cases.
BATCH_SHARE = 0.05
# The spacing keeps all but this percentage of the labels' instances.
LOST_PERCENT = 5
# A slab holds this multiple of the extent of all but the largest twentieth of lesions, so that each is seen
# with its surroundings.
CONTEXT, MOST_LESIONS = 1.5, 95
# Voxels of the first patch to try, before memory and the cases' size reduce it.
FIRST_PATCH = {2: 2048**2, 3: 256**3}


@dataclass(frozen=True)
class Fingerprint:
    """Properties of the training cases; axes are RAS.

    Attributes:
        cases: their number.
        shapes: (cases, 3) voxels of the cropped volumes.
        spacings: (cases, 3) in mm.
        grey: per channel: percentiles 0.5 and 99.5, mean and standard deviation of labelled voxels.
        ct: whether the first channel is a CT in HU.
        nonzero_share: median share of a scan that is not 0.
        finest: (instances, 3) voxel edges in mm that keep each instance of the labels.
        lesions_mm: (lesions, 3) extents of connected labelled voxels, whatever their classes.
    """

    cases: int
    shapes: np.ndarray
    spacings: np.ndarray
    grey: list[dict[str, float]]
    ct: bool
    nonzero_share: float
    finest: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    lesions_mm: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))


def read_fingerprint(crops: Sequence[Path], ct: bool | None) -> Fingerprint:
    """Compute the fingerprint of cropped training cases.

    Args:
        crops: folders of the crop stage.
        ct: whether the first channel is a CT; None: decided by whether most cases have values below −500
            there, as air does in HU.

    Raises:
        CaseError: no case has a labelled voxel.
    """
    facts = [read_json(folder / "crop.json") for folder in crops]
    # Not imported by a call that only completes the settings.
    from foldwise.volumes.geometry import Lineage

    natives = [Lineage.of_crop(one) for one in facts]
    shapes = np.array([native.shape for native in natives])
    spacings = np.array([spacing_of(native.cached_affine) for native in natives])
    values = np.concatenate([np.load(folder / "foreground.npy") for folder in crops], axis=1)
    if not values.shape[1]:
        raise CaseError(f"{crops[0].parent}: no training case has a labelled voxel; nothing can be planned")
    grey = [
        {
            "percentile_0.5": float(np.percentile(channel, 0.5)),
            "percentile_99.5": float(np.percentile(channel, 99.5)),
            "mean": float(channel.mean(dtype=np.float64)),
            "std": float(channel.std(dtype=np.float64)),
        }
        for channel in values
    ]
    if ct is None:
        ct = bool(np.median([one["minimum"] for one in facts]) < -500)
    share = float(np.median([one["nonzero_share"] for one in facts]))
    finest, lesions = [np.zeros((0, 3))], [np.zeros((0, 3))]
    for folder, native, one in zip(crops, natives, facts, strict=True):
        # Both are along stored axes, which are turned; crops of earlier versions lack them.
        axes = np.argsort(native.turn, axis=0)[:, 0]
        if (folder / "instances.npy").exists():
            finest.append(np.load(folder / "instances.npy")[:, axes])
        lesions.append(np.reshape(one.get("lesions_mm", []), (-1, 3))[:, axes])
    return Fingerprint(
        len(facts), shapes, spacings, grey, ct, share, np.concatenate(finest), np.concatenate(lesions)
    )


def target_spacing(fingerprint: Fingerprint) -> tuple[float, float, float]:
    """Median spacing in mm; for a coarse axis with few slices the 10th percentile, to keep thin slices.

    No axis is coarser than what keeps 95 % of the instances of the labels: half their extent, or a voxel of
    their scan if that is longer.
    """
    middle = np.median(fingerprint.spacings, axis=0)
    shape = np.median(fingerprint.shapes, axis=0)
    worst = int(middle.argmax())
    others = [axis for axis in range(3) if axis != worst]
    if (
        middle[worst] > ANISOTROPIC * middle[others].min()
        and shape[worst] * ANISOTROPIC < shape[others].min()
    ):
        finer = float(np.percentile(fingerprint.spacings[:, worst], 10))
        middle[worst] = max(finer, middle[others].max())
    if len(fingerprint.finest):
        middle = np.minimum(middle, np.percentile(fingerprint.finest, LOST_PERCENT, axis=0))
    x, y, z = (round(float(step), 4) for step in middle)
    return x, y, z


@dataclass(frozen=True)
class Topology:
    """A U-Net's levels: kernel and stride of each, per axis; the first stride is 1."""

    kernels: list[list[int]]
    strides: list[list[int]]

    @property
    def multiples(self) -> np.ndarray:
        """Each edge of a patch must be a multiple of these."""
        return np.prod(self.strides, axis=0)


def topology(patch: Sequence[int], spacing: Sequence[float], most_levels: int = 6) -> Topology:
    """Levels for a patch: an axis is halved while enough voxels remain and no axis is over twice as fine.

    A coarse axis is halved only when the finer ones are within a factor of two, with kernels of 1 until then.
    """
    size, step = np.array(patch, float), np.array(spacing, float)
    kernels: list[list[int]] = []
    strides = [[1] * len(size)]
    while True:
        kernels.append([3 if s < 2 * step.min() else 1 for s in step])
        able = size >= 2 * SMALLEST_EDGE
        if not able.any() or len(strides) == most_levels:
            return Topology(kernels, strides)
        halved = able & (step < 2 * step[able].min())
        strides.append([2 if h else 1 for h in halved])
        size, step = np.where(halved, np.ceil(size / 2), size), np.where(halved, step * 2, step)


def network_for(levels: Topology) -> dict[str, Any]:
    """A U-Net with deep supervision for these levels, as settings."""
    count, dims = len(levels.strides), len(levels.strides[0])
    features = [min(BASE_FEATURES * 2**level, MOST_FEATURES[dims]) for level in range(count)]
    return {
        "name": "DynUNet",
        "kernel_size": levels.kernels,
        "strides": levels.strides,
        "upsample_kernel_size": levels.strides[1:],
        "filters": features,
        "norm_name": ["INSTANCE", {"affine": True}],
        "act_name": ["LEAKYRELU", {"inplace": True, "negative_slope": 0.01}],
        **({"deep_supervision": True, "deep_supr_num": min(count - 2, 3)} if count > 2 else {}),
    }


def plan_model(
    fingerprint: Fingerprint,
    spacing: Sequence[float],
    given: Mapping[str, Any],
    targets: Targets,
    channels: int,
    memory_gib: float,
) -> dict[str, Any]:
    """Plan one model.

    Args:
        fingerprint: of the training cases.
        spacing: target voxel size in mm.
        given: values set in the experiment; a patch, batch or network among them is kept, and the rest
            planned to fit.
        targets: what is learnt.
        channels: image channels.
        memory_gib: GPU memory available to training.

    Returns:
        Settings of a model: network, patch, intensity, sampling, training and inference.

    Raises:
        CaseError: even the smallest patch does not fit into the memory.
    """
    planned = {
        "intensity": _intensity(fingerprint),
        "sampling": {"overhang": 0.0},
        "inference": {"mirror": True},
    }
    # A preliminary model gives the dimensions, and the settings for counting memory.
    model = validate(Model, merged(planned, given), origin="plan")
    axes = [a for a in range(3) if not (model.dimensions in ("2d", "2.5d") and "xyz"[a] == model.slice_axis)]
    shape = np.median(fingerprint.shapes * fingerprint.spacings / np.array(spacing), axis=0)
    step = np.array(spacing)[axes]
    everything = float((np.prod(fingerprint.shapes * fingerprint.spacings, axis=1) / np.prod(spacing)).sum())

    def planned_with(patch: np.ndarray, batch: int) -> tuple[dict[str, Any], float]:
        full = np.array(model.patch)
        full[axes] = patch
        settings = planned | {
            "network": network_for(topology(patch.tolist(), step.tolist())),
            "patch": [int(n) for n in full],
            "training": {"batch": batch},
        }
        candidate = validate(Model, merged(settings, given), origin="plan")
        return settings, training_gib(candidate, targets, channels)

    first = (FIRST_PATCH[len(axes)] * np.prod(step)) ** (1 / len(axes)) / step
    patch = np.minimum(np.rint(first), np.ceil(shape[axes])).astype(int)
    patch = np.maximum(patch, 2 * SMALLEST_EDGE)
    free = np.ones(len(axes), bool)
    if "patch" in given:
        patch = np.array(given["patch"])[axes]
        free[:] = False
    else:
        if model.dimensions == "slab":
            free = np.array(["xyz"[axis] == model.slice_axis for axis in axes])
            if len(fingerprint.lesions_mm):
                extent = np.percentile(fingerprint.lesions_mm, MOST_LESIONS, axis=0)[axes]
                enough = np.maximum(np.ceil(CONTEXT * extent / step), 2 * SMALLEST_EDGE)
                patch = np.minimum(patch, enough)
            patch = np.where(free, patch, np.ceil(shape[axes])).astype(int)
        patch = _rounded_up(patch, step)
    training = given.get("training", {})
    # Several GPUs share the batch evenly.
    batch, gpus = int(training.get("batch", 2)), int(training.get("gpus", 1))
    if "network" in given and "patch" not in given:
        patch = _accepted(patch, lambda larger: planned_with(larger, batch)[0])
    settings, gib = planned_with(patch, batch)
    while gib > memory_gib:
        multiples = topology(patch.tolist(), step.tolist()).multiples
        able = free & (patch - multiples >= 2 * SMALLEST_EDGE)
        if not able.any():
            raise CaseError(
                f"plan: training with patch {settings['patch']} and batch {batch} needs {gib:.1f} GiB, but "
                f"only {memory_gib:g} GiB are allowed (plan.memory)"
            )
        axis = int(np.where(able, patch / shape[axes], -1).argmax())
        patch[axis] -= multiples[axis]
        patch = _rounded_up(patch, step)
        settings, gib = planned_with(patch, batch)
    most = max(2, int(BATCH_SHARE * everything / np.prod(patch)))
    while "batch" not in training and batch + gpus <= most:
        larger, gib = planned_with(patch, batch + gpus)
        if gib > memory_gib:
            break
        settings, batch = larger, batch + gpus
    return settings


def training_gib(model: Model, targets: Targets, channels: int) -> float:
    """GPU memory of training a segmentation model in GiB, counted from shapes alone."""
    from foldwise.systems.segmentation.learner import SegmentationLearner
    from foldwise.training.memory import count_step, gpu_gib

    task = {"targets": targets.as_dict(), "channels": channels}
    return gpu_gib(count_step(SegmentationLearner(model, task)), half=model.training.amp != "off")


def plan_text(
    fingerprint: Fingerprint, spacing: Sequence[float] | None, models: Mapping[str, Any], plan: Plan
) -> str:
    """The plan as YAML that a person can read and edit."""
    facts = {
        "cases": fingerprint.cases,
        "median_shape": np.median(fingerprint.shapes, axis=0).tolist(),
        "median_spacing_mm": np.median(fingerprint.spacings, axis=0).round(4).tolist(),
        "spacing_range_mm": [
            fingerprint.spacings.min(0).round(4).tolist(),
            fingerprint.spacings.max(0).round(4).tolist(),
        ],
        "instances": len(fingerprint.finest),
        **(_keeping(fingerprint) if len(fingerprint.finest) else {}),
        "ct": fingerprint.ct,
        "nonzero_share": round(fingerprint.nonzero_share, 4),
        "lesions": len(fingerprint.lesions_mm),
        **(_extents(fingerprint) if len(fingerprint.lesions_mm) else {}),
        "labelled_voxels": [{k: round(v, 4) for k, v in channel.items()} for channel in fingerprint.grey],
        "memory_gib": plan.gib,
    }
    cache = {} if spacing is None else {"cache": {"spacing": [float(step) for step in spacing]}}
    text = yaml.safe_dump(
        {"fingerprint": facts, **cache, "models": dict(models)},
        sort_keys=False,
        default_flow_style=None,
        width=110,
    )
    return (
        "# Planned from the training cases. You may edit `cache` and `models` and run again: everything that "
        "depends\n"
        "# on them is redone. Values set in the experiment override the plan. Delete it to plan again.\n"
        + text
    )


def complete(settings: Settings, plan: Path) -> Settings:
    """An experiment's settings completed by the plan; `plan` is null if no model is left to plan.

    Raises:
        CaseError: the plan is not readable, or its values are wrong.
    """
    given = dump(settings, given=True)
    planned = read_plan(plan)
    names = settings.models.keys()
    if (strange := planned.models.keys() - names) and (lacking := names - planned.models.keys()):
        raise CaseError(
            f"{plan}: plans models.{min(strange)}, which the experiment lacks, and no "
            f"models.{min(lacking)}; delete it to plan again"
        )
    models = {
        name: merged(planned.models.get(name, {}), dump(model, given=True))
        for name, model in settings.models.items()
    }
    try:
        return validate(
            Settings,
            given
            | {"cache": merged(planned.cache, given.get("cache", {})), "models": models}
            | ({"plan": None} if names <= planned.models.keys() else {}),
            origin=f"settings with {plan}",
        )
    except CaseError as error:
        raise CaseError(f"{error}\nCorrect {plan}, or delete it to plan again.") from None


def _keeping(fingerprint: Fingerprint) -> dict[str, Any]:
    """The spacing that keeps the instances, and what it is."""
    keeps = np.percentile(fingerprint.finest, LOST_PERCENT, axis=0)
    return {
        "keeps_instances_mm": [round(float(step), 4) for step in keeps],
        "spacing_rule": f"the median, but no coarser than what keeps {100 - LOST_PERCENT} % of the labels' "
        "instances: half their extent, or a voxel of their scan",
    }


def _extents(fingerprint: Fingerprint) -> dict[str, Any]:
    """Percentiles of the lesions' extents, by which the thickness of a slab is planned."""
    shares = (5, 50, MOST_LESIONS)
    of = np.percentile(fingerprint.lesions_mm, shares, axis=0).round(1).tolist()
    return {"lesion_extent_mm": {f"percentile_{n}": edges for n, edges in zip(shares, of, strict=True)}}


def _intensity(fingerprint: Fingerprint) -> list[dict[str, Any]]:
    nonzero = {"clip": None, "scale": "zscore_nonzero" if fingerprint.nonzero_share < 0.75 else "zscore"}
    if not fingerprint.ct:
        return [nonzero]
    grey = fingerprint.grey[0]
    window = {
        "clip": [round(grey["percentile_0.5"], 2), round(grey["percentile_99.5"], 2)],
        "scale": [round(grey["mean"], 2), round(max(grey["std"], 1e-3), 2)],
    }
    return [window, *[nonzero] * (len(fingerprint.grey) - 1)]


def _accepted(patch: np.ndarray, settings_of: Callable[[np.ndarray], Mapping[str, Any]]) -> np.ndarray:
    """The patch, with its edges rounded up until the experiment's own network takes it.

    Raises:
        CaseError: the network takes no patch of about this size.
    """
    problem: CaseError | None = None
    for multiple in (1, 8, 16, 32, 64):
        larger = (multiple * np.ceil(patch / multiple)).astype(int)
        try:
            settings_of(larger)
        except CaseError as error:
            problem = problem or error
        else:
            return larger
    assert problem is not None
    raise problem


def _rounded_up(patch: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """The patch, with edges rounded up to multiples of its levels' strides."""
    for _ in range(3):  # a larger patch may have one more level
        multiples = topology(patch.tolist(), spacing.tolist()).multiples
        patch = np.maximum(multiples * np.ceil(patch / multiples), multiples).astype(int)
    return patch
