"""One job of a training: its inputs, its fingerprint, and the files that it writes."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from foldwise.evaluate import marks
from foldwise.files import atomic_path, file_hash, short_hash, write_json, write_text
from foldwise.hdf5 import content_of
from foldwise.index import Fold, Index
from foldwise.provenance import provenance
from foldwise.section import values_for
from foldwise.settings import Model, dump
from foldwise.systems import origin
from foldwise.systems.base import System
from foldwise.training import checkpoint
from foldwise.training.attempts import Attempts
from foldwise.training.budget import UNFINISHED, Budget
from foldwise.training.claim import claim
from foldwise.training.loop import Run, Trainer, log_text
from foldwise.training.parallel import gathered, is_helper
from foldwise.training.pretrained import refuse_not_finite
from foldwise.training.scratch import node_scratch, staged


@dataclass(frozen=True)
class Made:
    """Files to write when a training has finished: best weights, a row per epoch, and provenance."""

    model: Path
    log: Path
    provenance: Path


@dataclass(frozen=True)
class Job:
    """The task of a job of a training.

    Attributes:
        system: system of the model.
        settings: of the model, before values are taken from training cases.
        prepared: the sections that define how a new case is prepared.
        index: cases for training, validation and testing.
        index_path: file of the index.
        features: folder of <case>.h5 to use instead of the caches.
        fold: number of the fold.
        seed: of the experiment.
        state: folder of checkpoints and history.
        workers: processes that read data.
        checkpoint_min: minutes between checkpoints.
        attempt: number of the try, from 1.
        stage_caches: whether to read copies on the node's own disk.
    """

    system: System[Any, Any]
    settings: Model
    prepared: Mapping[str, Any]
    index: Index
    index_path: Path
    features: Path | None
    fold: int
    seed: int
    state: Path
    workers: int
    checkpoint_min: float
    attempt: int
    stage_caches: bool

    @cached_property
    def cases(self) -> Fold:
        """The cases for training, validation and testing."""
        return self.index.fold(self.fold)

    @cached_property
    def caches(self) -> dict[str, str]:
        """Training or validation case → the file to learn from."""
        return self.index.caches(self.cases.train + self.cases.validation, self.features)

    @cached_property
    def fitted(self) -> Model:
        """The settings with values from the training cases."""
        fitted: Model = self.system.learner.fitted(self.settings, [self.caches[c] for c in self.cases.train])
        return fitted

    def run(self) -> Run:
        """The inputs of the loop."""
        contents = {case: content_of(path) for case, path in self.caches.items()}
        fold, model, task = self.cases, self.fitted, self.index.task
        pretrained = file_hash(model.pretrained.file) if model.pretrained else None
        learnt = [values_for(model, "train"), self.seed, self.fold, task, fold.train, fold.validation]
        fingerprint = short_hash([*learnt, contents, pretrained], 32)
        return Run(
            model=model,
            train=[self.caches[case] for case in fold.train],
            validation=[self.caches[case] for case in fold.validation],
            seed=(self.seed, self.fold),
            fingerprint=fingerprint,
            folder=self.state,
            facts={
                "settings": dump(model),
                "system": self.system.name,
                "package": origin(self.system.name),
                "task": task,
                "prepared": dict(self.prepared),
                "fingerprint": fingerprint,
                "fold": self.fold,
                "learnt": sorted(
                    {m for case in self.caches for m in marks(self.index[case], contents[case]).values()}
                ),
            },
            workers=self.workers,
            checkpoint_min=self.checkpoint_min,
        )


def train_fold(job: Job, budget: Budget, made: Made) -> int:
    """Start or continue training, and write the files once it is finished.

    Args:
        job: the training.
        budget: decides when to stop.
        made: files to write.

    Returns:
        Exit code: 0, or 75 if another job must continue.
    """
    job.state.mkdir(parents=True, exist_ok=True)
    if is_helper():
        logging.getLogger().setLevel(logging.WARNING)
    else:
        # Snakemake deletes a rule's log before every attempt; this log keeps all attempts.
        logging.getLogger().addHandler(logging.FileHandler(job.state / "train.log", encoding="utf-8"))
    run, settings = job.run(), job.fitted
    attempts = Attempts(job.state / "attempts.jsonl", job.attempt, run.fingerprint)
    learner = job.system.learner(settings, job.index.task)

    def give_up() -> bool:
        return budget.reason is not None

    with ExitStack() as stack:
        # One process holds the claim for all that it starts, and only it writes files.
        if not is_helper() and not stack.enter_context(claim(job.state, give_up)):
            return UNFINISHED
        if not is_helper():
            checkpoint.set_aside(job.state, run.fingerprint, settings.training.gpus)
        if job.stage_caches:
            local = stack.enter_context(staged(list(job.caches.values()), node_scratch(), give_up))
            train, validation = ([local[path] for path in paths] for paths in (run.train, run.validation))
            run = replace(run, train=train, validation=validation)
        team = stack.enter_context(gathered(settings.training))
        trainer = Trainer(run, learner, attempts, budget, team)
        if trainer.step == 0 and team.rank == 0:
            learner.examples(run.train, run.seed, settings.training.examples, job.state / "examples")
        finished = trainer.fit()
        if team.rank:
            return 0
        if not finished:
            return UNFINISHED
    _write(job, trainer, attempts, made)
    return 0


def _write(job: Job, trainer: Trainer, attempts: Attempts, outputs: Made) -> None:
    best, pretrained = trainer.best, job.fitted.pretrained
    assert best is not None
    # The last step's weights may be NaN although its loss, computed before, was not.
    refuse_not_finite(best["network"], outputs.model)
    with atomic_path(outputs.model) as temporary:
        torch.save(trainer.model_file(best["network"], best["epoch"], best["score"]), temporary)
    write_text(outputs.log, log_text(trainer.rows))
    write_json(
        outputs.provenance,
        provenance(
            settings=dump(job.fitted),
            inputs=[job.index_path, *([pretrained.file] if pretrained else [])],
            seed=job.seed,
            fold=job.fold,
            best_epoch=best["epoch"],
            epochs=len(trainer.rows),
            pretrained=trainer.pretrained,
            attempts=attempts.rows(),
            system=origin(job.system.name),
        ),
    )
    score = "no score" if math.isnan(best["score"]) else f"score {best['score']:.4f}"
    logging.info("kept epoch %d, %s", best["epoch"], score)
