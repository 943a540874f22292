"""Interactive segmentation with a memory network: one of the systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldwise import forecast
from foldwise.check import Checked
from foldwise.files import CaseError
from foldwise.forecast import TORCH_MIB, WORKER_MIB, WORKERS, Step
from foldwise.sheet import Sheet
from foldwise.store import Memory
from foldwise.systems.base import NOTHING
from foldwise.systems.interactive.kinds import CHOICES, PROTOCOLS
from foldwise.systems.interactive.settings import Evaluate, Settings
from foldwise.systems.new import NewCases
from foldwise.systems.volumes import VolumeFootprint, VolumeSystem, cached_voxels, kept_voxels
from foldwise.volumes import space
from foldwise.volumes.sheet import Case
from foldwise.volumes.size import Size

# Bytes of a recorded round besides its mask: HDF5's groups, and its slices' quality.
ROUND = 8e3
# Bytes of the rows of a case's scores.
SCORE = 20e3

if TYPE_CHECKING:
    from foldwise.systems.interactive.learner import InteractiveLearner
    from foldwise.systems.interactive.results import InteractiveResults


class Interactive(VolumeSystem[Settings]):
    """Hints, propagation and predicted quality; cases are prepared as for segmentation."""

    name = "interactive"
    settings = Settings

    def check(self, settings: Settings, sheet: Sheet[Case], *, deep: bool, memory: Memory) -> Checked:
        """Check volumes and files of weights; cases without a label get a warning."""
        for name, model in settings.models.items():
            weights = model.trunk.weights
            if weights is not None and not weights.exists():
                raise CaseError(f"models.{name}.trunk.weights: {weights}: no such file")
        checked = super().check(settings, sheet, deep=deep, memory=memory)
        unlabelled = [case.name for case in sheet.cases if not case.labelled]
        if not unlabelled:
            return checked
        warning = (
            f"{len(unlabelled)} case(s) without a label, e.g. {unlabelled[0]}: no user can be simulated for "
            f"them; segment such scans with `foldwise annotate`"
        )
        return replace(checked, warnings=(*checked.warnings, warning))

    @property
    def learner(self) -> type[InteractiveLearner]:
        """The class that trains and predicts."""
        from foldwise.systems.interactive.learner import InteractiveLearner

        return InteractiveLearner

    @property
    def footprint(self) -> InteractiveFootprint:
        """Memory and disk."""
        return InteractiveFootprint()

    @property
    def results(self) -> InteractiveResults:
        """Scores and files."""
        from foldwise.systems.interactive.results import InteractiveResults

        return InteractiveResults()

    def weights(self, settings: Settings, name: str) -> list[Path]:
        """Weights of the trunk, and of the whole model."""
        trunk = settings.models[name].trunk.weights
        return ([trunk] if trunk else []) + super().weights(settings, name)

    def new_cases(
        self, source: Path, task: Mapping[str, Any] | None = None, prepared: Mapping[str, Any] = NOTHING
    ) -> NewCases:
        """Refuse: nothing can be predicted without hints.

        Raises:
            CaseError: always.
        """
        raise CaseError(
            f"{source}: an interactive model needs hints for a new scan; use `foldwise annotate <scan> "
            f"--model <model>`"
        )


# Seconds per slice and round for hints and the memory's reading, on a slow node.
SLICE_SECONDS = 0.05


class InteractiveFootprint(VolumeFootprint[Settings]):
    """Memory of a step of both networks, and of a volume with its sessions."""

    def model_mib(
        self, stage: str, settings: Settings, name: str, sizes: Sequence[Size], step: Step
    ) -> float:
        """Peak memory of training or of testing on the largest case, on a CPU, in MiB."""
        model = settings.models[name]
        objects = len(settings.data.targets().names)
        channels = max((size.channels for size in sizes), default=1)
        voxels = max((cached_voxels(size, settings.cache) for size in sizes), default=0)
        source = max((size.voxels for size in sizes), default=0)
        # The image, stored and normalised, label, object numbers, a round's masks and the label map before;
        # on the source grid, the scores of one mask.
        whole = voxels * (8 * channels + 8 + 3 * objects) + source * (12 + 4 * objects)
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

    def results_mib(self, size: Size, settings: Settings, name: str) -> dict[str, float]:
        """Disk space of a case's sessions, all of whose rounds are kept, and of the exported mask."""
        evaluate, objects = settings.evaluate, len(settings.data.targets().names)
        if not size.labelled:
            return {"predictions": space.FILE / 2**20, "scores": 0.0, "export": 0.0}
        cached = kept_voxels(size, settings)
        mask = space.mask_bytes(cached, space.detail_of(objects), space.EMPTY_HDF5) + ROUND
        found = space.FILE + _rounds(evaluate) * mask
        exported = space.mask_bytes(size.voxels, space.detail_of(objects))
        return {"predictions": found / 2**20, "scores": SCORE / 2**20, "export": exported / 2**20}

    def predict_seconds(self, settings: Settings, name: str, size: Size, step: Step) -> float:
        """Time of all sessions: in each round, every slice is read once by both networks."""
        model = settings.models[name]
        slices = cached_voxels(size, settings.cache) ** (1 / 3)
        frame = forecast.forward_seconds(step, model.training.batch * model.frames.count)
        return 5 + 2 * slices * _rounds(settings.evaluate) * (frame + SLICE_SECONDS)

    def case_seconds(self, stage: str, size: Size, settings: Settings) -> float:
        """A score for each round of each session."""
        seconds = super().case_seconds(stage, size, settings)
        return seconds * _rounds(settings.evaluate) if stage == "score" else seconds


def _rounds(evaluate: Evaluate) -> int:
    """Rounds of all sessions of a case."""
    sessions = (len(CHOICES) if evaluate.compare else 1) + evaluate.baseline
    published = PROTOCOLS[evaluate.protocol] * (1 + evaluate.baseline) if evaluate.protocol else 0
    return len(evaluate.hints) * sessions * evaluate.rounds + published
