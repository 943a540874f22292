"""Train one model on one fold; the same command continues a training that was killed or stopped.

Exit codes: 0 finished; 75 saved before the time limit or on SIGTERM, run again; 1 failed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from foldwise.command import Folder, Of, Output, run, stage
from foldwise.index import Index
from foldwise.plan import merged, read_plan, with_plan
from foldwise.record import used
from foldwise.settings import dump
from foldwise.systems.base import System
from foldwise.training.budget import Budget
from foldwise.training.job import Job, Made, train_fold


@stage(gpus=lambda values: int(values["settings"].get("training", {}).get("gpus", 1)))
def train(
    *,
    system: System[Any, Any],
    settings: Annotated[dict[str, Any], Of("models", whole=False)],
    name: Annotated[str, "the model's name in the plan"] = "model",
    plan: Annotated[Path | None, "plan.yaml, for values missing from the settings"] = None,
    prepared: Annotated[
        dict[str, Any] | None, "sections kept in the model's file for new cases, as YAML"
    ] = None,
    index: Annotated[Path, "label-path index"],
    features: Annotated[Folder | None, "folder of <case>.h5 to use instead of the caches"] = None,
    fold: Annotated[int, "fold, from 0"],
    seed: Annotated[int, "seed of the experiment"] = 0,
    state: Annotated[Folder, "folder of checkpoints and history"],
    model: Annotated[Output, "best weights to write (.pt)"],
    log: Annotated[Output, "one row per epoch to write (.csv)"],
    provenance: Annotated[Output, "provenance to write (.json)"],
    budget_min: Annotated[float | None, "time limit of this job, in minutes"] = None,
    workers: Annotated[int, "processes that read data; speed only"] = 2,
    checkpoint_min: Annotated[float, "minutes between checkpoints"] = 10,
    attempt: Annotated[int, "number of the try, from 1"] = 1,
    stage_caches: Annotated[bool, "1: read copies on the node's own disk"] = False,
) -> int:
    """Train a fold's model, or continue its training."""
    job = Job(
        system=system,
        settings=with_plan(system.model, settings, plan, "models", name),
        prepared=_completed(prepared or {}, plan),
        index=Index.read(index),
        index_path=index,
        features=features,
        fold=fold,
        seed=seed,
        state=state,
        workers=workers,
        checkpoint_min=checkpoint_min,
        attempt=attempt,
        stage_caches=stage_caches,
    )
    used(*job.caches.values())
    return train_fold(job, Budget(budget_min), Made(model, log, provenance))


def _completed(sections: dict[str, Any], plan: Path | None) -> dict[str, Any]:
    """The sections that define how new cases are prepared, completed by the plan."""
    if plan is None:
        return sections
    planned = dump(read_plan(plan))
    return {name: merged(planned.get(name, {}), values) for name, values in sections.items()}


if __name__ == "__main__":
    run(train.main)
