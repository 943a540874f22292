"""Segmentation of volumes by patches: one of the systems."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING

from foldwise import forecast
from foldwise.forecast import BASE_MIB, TORCH_MIB, WORKER_MIB, WORKERS, Step
from foldwise.overlap import BEHIND
from foldwise.systems.segmentation.held import held_bytes
from foldwise.systems.segmentation.settings import Model, Settings
from foldwise.systems.volumes import VolumeFootprint, VolumeSystem, cached_voxels, kept_voxels
from foldwise.volumes import space
from foldwise.volumes.size import Size

if TYPE_CHECKING:
    from foldwise.systems.segmentation.learner import SegmentationLearner
    from foldwise.systems.segmentation.results import SegmentationResults

# Bytes per voxel of the source of its label map.
LABEL_MAP_BYTES = 26
# Seconds per million cached voxels to stitch, resample and write an output, on a slow node.
OUTPUT_SECONDS = 0.1


class Segmentation(VolumeSystem[Settings]):
    """Patches, sliding windows, and a plan if requested."""

    name = "segmentation"
    settings = Settings

    def needs_weight(self, settings: Settings) -> str | None:
        """The model that samples by weight, if there is no region, which would be the default map."""
        weighted = [name for name, model in settings.models.items() if model.sampling.weighted]
        region = settings.prepare.lung_mask or settings.prepare.region
        return f"model {weighted[0]} samples by weight" if weighted and region is None else None

    def writes_seg(self, settings: Settings) -> bool:
        """Whether the setting asks for it."""
        return settings.export.dicom_seg

    def complete(self, settings: Settings, plan: Path | None) -> Settings:
        """The settings completed by the plan; once all models are planned, nothing is left to plan."""
        from foldwise.systems.segmentation.planning import complete

        return complete(settings, plan) if plan is not None and plan.exists() else settings

    @property
    def learner(self) -> type[SegmentationLearner]:
        """The class that trains and predicts."""
        from foldwise.systems.segmentation.learner import SegmentationLearner

        return SegmentationLearner

    @property
    def footprint(self) -> SegmentationFootprint:
        """Memory and disk."""
        return SegmentationFootprint()

    @property
    def results(self) -> SegmentationResults:
        """Scores and files."""
        from foldwise.systems.segmentation.results import SegmentationResults

        return SegmentationResults()


class SegmentationFootprint(VolumeFootprint[Settings]):
    """Memory of a step, and of the whole volumes in testing."""

    def counted(self, settings: Settings, name: str) -> Model | Step:
        """The model; if it is still to be planned, the memory that a plan may use."""
        if settings.plan is None:
            return settings.models[name]
        kept = int(settings.plan.gib * 2**30)
        return Step(20 * 10**6, kept, 0, kept // 3)

    def model_mib(
        self, stage: str, settings: Settings, name: str, sizes: Sequence[Size], step: Step
    ) -> float:
        """Peak memory of training or of predicting the largest case, on a CPU, in MiB."""
        model = settings.models[name]
        channels = max((size.channels for size in sizes), default=1)
        if stage == "train":
            patch = prod(model.patch) * (2 * channels + 1) * model.training.batch
            own = TORCH_MIB + 20 * step.weights / 2**20 + WORKERS * WORKER_MIB
            whole = max((held_bytes(size, settings, model, step, 0) for size in sizes), default=0)
            shared = max(step.kept + 2 * step.largest, whole) + WORKERS * 2 * patch
            return ceil(forecast.processes_mib(model.training.gpus, own) + shared / 2**20)
        networks = 1 if stage == "test" else settings.split.folds
        source = max((size.voxels for size in sizes), default=0)
        predicting = max((held_bytes(size, settings, model, step, networks) for size in sizes), default=0)
        if stage == "predict" and sizes:
            # The next scan is prepared meanwhile, and the last one exported unless it is large.
            predicting += max((self.case_mib("cache", size, settings) - BASE_MIB) * 2**20 for size in sizes)
            cached = max(cached_voxels(size, settings.cache) for size in sizes)
            names = len(settings.data.targets().names)
            predicting += LABEL_MAP_BYTES * source * min(1, BEHIND / (cached * (1 + names)))
        return ceil(TORCH_MIB + (4 * networks * step.weights + predicting) / 2**20)

    def results_mib(self, size: Size, settings: Settings, name: str) -> dict[str, float]:
        """Disk space of a prediction, of label maps with all post-processing steps, and of files."""
        targets, export = settings.data.targets(), settings.export
        cached = kept_voxels(size, settings)
        outputs, detail = len(targets.names), space.detail_of(len(targets.classes))
        prediction = space.FILE + space.PROBABILITY * cached * outputs
        prediction += space.mask_bytes(cached, detail, space.EMPTY_HDF5)
        files = space.mask_bytes(size.voxels, detail)
        files += export.probabilities * space.FLOATS * size.voxels * outputs
        files += export.dicom_seg * space.PRESENT / 8 * size.voxels * len(targets.classes)
        # Steps rarely change more than some voxels, but each map that differs is kept.
        maps = 2 ** len(settings.evaluate.postprocess)
        kept = space.FILE + maps * space.mask_bytes(size.voxels, detail, space.EMPTY_KEPT)
        found = {"predictions": prediction, "scores": kept, "export": files}
        return {kind: needed / 2**20 for kind, needed in found.items()}

    def predict_seconds(self, settings: Settings, name: str, size: Size, step: Step) -> float:
        """Time of all windows, and of stitching, resampling and writing every output."""
        model = settings.models[name]
        inference, voxels = model.inference, cached_voxels(size, settings.cache)
        axes = 3 if model.dimensions in ("3d", "slab") else 2
        windows = max(1, voxels / prod(model.patch)) / (1 - inference.overlap) ** axes
        passes = windows * (2**axes if inference.mirror else 1)
        outputs = len(settings.data.targets().names) + 1
        forward = passes * forecast.forward_seconds(step, model.training.batch)
        return 2 + forward + OUTPUT_SECONDS * outputs * voxels / 1e6
