"""Disk space of an experiment by stage: from its cases' sizes, and from its models' weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foldwise.forecast import Step
from foldwise.settings import Model, Named
from foldwise.sheet import Case
from foldwise.systems.base import Footprint

# Numbers that an optimiser of torch keeps for each weight; others keep two, or fewer.
MOMENTS = {"SGD": 0, "RMSprop": 1, "Adagrad": 1, "Rprop": 2, "ASGD": 1, "Adafactor": 0, "LBFGS": 200}
# Checkpoints of a training while one is written: that one, the last one, and the one before it.
CHECKPOINTS = 3
MIB = 2**20


@dataclass(frozen=True)
class Space:
    """Disk space of a stage, of all of its cases or folds, in MiB.

    Attributes:
        left: what it leaves.
        passing: what it needs besides while it runs.
    """

    left: float
    passing: float = 0.0


NONE = Space(0.0)


def of_cases(footprint: Footprint[Any], settings: Any, sizes: Mapping[str, Any]) -> dict[str, Space]:
    """The space of preparation: name of a stage → that of all cases.

    Args:
        footprint: of the system.
        settings: of the experiment.
        sizes: case → its size.
    """
    sums: dict[str, float] = {}
    for size in sizes.values():
        for stage, mib in footprint.disk_mib(size, settings).items():
            sums[stage] = sums.get(stage, 0.0) + mib
    return {stage: Space(mib) for stage, mib in sums.items()}


def of_model(
    footprint: Footprint[Any],
    settings: Any,
    name: str,
    cases: Sequence[Case],
    sizes: Mapping[str, Any],
    step: Step,
) -> dict[str, Space]:
    """The space of a model: name of a stage → that of all folds.

    Args:
        footprint: of the system.
        settings: of the experiment.
        name: of the model.
        cases: of the experiment; each one that trains is held out by one fold.
        sizes: case → its size.
        step: the counted step, for the number of weights.
    """
    trained = _summed(footprint, settings, name, (sizes[case.name] for case in cases if case.trains))
    others = _summed(footprint, settings, name, (sizes[case.name] for case in cases if not case.trains))
    split = settings.split
    # Each case that trains is held out once; a fold's validation cases are predicted if they choose.
    again = (split.folds - 1) * split.validation if settings.chooses else 0
    found = {"train": _training(settings.models[name], footprint.weights(settings, name, step), split.folds)}
    if "features" in trained:
        found["features"] = Space(split.folds * trained["features"])
    found["test"] = Space((1 + again) * trained["predictions"])
    if others:
        found["ensemble"] = Space(others["predictions"])
    for stage, kind, repeated in (("score", "scores", again), ("export", "export", 0)):
        found[stage] = Space((1 + repeated) * trained.get(kind, 0.0) + others.get(kind, 0.0))
    return found


def moments(optimiser: Named) -> int:
    """How many numbers an optimiser keeps for each weight that it changes."""
    given = optimiser.arguments
    extra = sum(bool(given.get(name)) for name in ("amsgrad", "centered"))
    if optimiser.plain in ("SGD", "RMSprop"):
        extra += bool(given.get("momentum"))
    return MOMENTS.get(optimiser.plain, 2) + extra


def _training(model: Model, weights: tuple[int, int], folds: int) -> Space:
    """Models, and the states of unfinished and finished trainings.

    Args:
        model: its settings.
        weights: numbers in its file, and those that are learnt.
        folds: of the experiment.
    """
    stored, learnt = (4 * number / MIB for number in weights)
    training = model.training
    every = training.epochs // training.save_every if training.save_every else 0
    models = 1 + every + min(training.save_last or 0, training.epochs)
    # The weights, and the optimiser's state; while training, the best weights, too.
    state = stored + moments(model.optimiser) * learnt
    # A schedule's rate depends on the number of epochs, as a rule: no longer training would go on from it.
    goes_on = training.keep_state is True or (training.keep_state == "auto" and model.scheduler is None)
    kept = state if goes_on else 0
    return Space(folds * (models * stored + kept), folds * (CHECKPOINTS * (stored + state) - kept))


def _summed(footprint: Footprint[Any], settings: Any, name: str, sizes: Iterable[Any]) -> dict[str, float]:
    """Kind of result → that of all these cases; empty without cases."""
    sums: dict[str, float] = {}
    for size in sizes:
        for kind, mib in footprint.results_mib(size, settings, name).items():
            sums[kind] = sums.get(kind, 0.0) + mib
    return sums


def room(results: Path, needed: float, there: Iterable[Path]) -> list[str]:
    """Lines about the free space for an experiment: how much there is, and a warning if it does not suffice.

    Args:
        results: folder of all results.
        needed: by the whole experiment, in MiB.
        there: its files and folders, some of which may be written already.
    """
    place = results.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / MIB
    lines = [f"free on the disk of {results}: {free / 1024:.1f} GiB"]
    # Looking at thousands of files takes long on a network file system.
    if needed > free and (missing := needed - _used_mib(there) - free) > 0:
        lines.append(
            f"warning: about {missing / 1024:.1f} GiB are missing on the disk of {results}, which has "
            f"{free / 1024:.1f} GiB free: free some space, or set `results` to a folder on a larger disk"
        )
    return lines


def _used_mib(paths: Iterable[Path]) -> float:
    """Space of files, and of all files in folders, in MiB; what is missing has none."""
    total = 0
    for path in paths:
        files = path.rglob("*") if path.is_dir() else [path]
        total += sum(file.stat().st_size for file in files if file.is_file())
    return total / MIB
