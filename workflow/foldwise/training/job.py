"""One job of a training: its inputs, its fingerprint, and the files that it writes."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foldwise.beside import BESIDE, contents_beside
from foldwise.evaluate import marks
from foldwise.files import atomic_path, file_hash, read_json, short_hash, write_json, write_text
from foldwise.hdf5 import identity_of
from foldwise.index import Fold, Index
from foldwise.provenance import provenance
from foldwise.representatives import representatives
from foldwise.section import values_for
from foldwise.settings import Model, dump
from foldwise.systems import origin
from foldwise.systems.base import System
from foldwise.training import checkpoint, folders
from foldwise.training.attempts import Attempts
from foldwise.training.budget import UNFINISHED, Budget
from foldwise.training.checkpoint import MODEL
from foldwise.training.claim import claim
from foldwise.training.learner import Learner
from foldwise.training.log import log_text
from foldwise.training.loop import Run, Trainer
from foldwise.training.parallel import gathered, is_helper
from foldwise.training.pretrained import refuse_not_finite
from foldwise.training.schedule import left_of, length_of, with_lengths
from foldwise.training.scratch import node_scratch, staged
from foldwise.twins import refuse_twins

# Separates the choice of whole validation cases, and of a share of the patients, from other draws.
CHOICE, LABELS = 7, 8


@dataclass(frozen=True)
class Made:
    """Files of a finished training: best weights, a row per epoch, and provenance."""

    model: Path
    log: Path
    provenance: Path

    @classmethod
    def within(cls, folder: Path) -> Made:
        """Those that a training keeps in its own folder, where Snakemake does not delete them."""
        return cls(folder / MODEL, folder / "log.csv", folder / "provenance.json")

    def hand_over(self, outputs: Made) -> None:
        """Give each file its place among the outputs, too, without using more of the disk."""
        folders.link(self.model, outputs.model)
        folders.link(self.log, outputs.log)
        # Last, since its record holds the contents of the others; and no link, since the kept one has none.
        write_json(outputs.provenance, read_json(self.provenance))

    def result_of(self, run: Run) -> bool:
        """Whether all are there, and the model is that of this training."""
        if not all(path.is_file() for path in vars(self).values()):
            return False
        try:
            state = torch.load(self.model, map_location="cpu", weights_only=True, mmap=True)
        except Exception:  # a truncated file raises any of half a dozen types
            return False
        return bool(state.get("fingerprint") == run.fingerprint)

    def renew(self, run: Run) -> None:
        """Let the model say how new cases are prepared now, where that is no other training."""
        state = torch.load(self.model, map_location="cpu", weights_only=True)
        # The fingerprint stands for the settings that matter.
        if any(state.get(key) != value for key, value in run.facts.items() if key != "settings"):
            with atomic_path(self.model) as temporary:
                torch.save({**state, **run.facts}, temporary)
            write_json(self.provenance, {**read_json(self.provenance), "settings": run.facts["settings"]})


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
        state: folder of the fold's trainings and their history.
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
        """The cases for training, as far as the model learns from them, for validation and for testing."""
        fold, share = self.index.fold(self.fold), self.settings.labels
        return fold if share == 1 else self.index.fewer(fold, share, [self.seed, self.fold, LABELS])

    @cached_property
    def learns_from(self) -> dict[str, Any] | None:
        """Numbers of the training patients and cases that a share of the labels leaves, and of all."""
        share, every = self.settings.labels, self.index.fold(self.fold).train

        def counted(cases: Sequence[str]) -> dict[str, int]:
            return {"patients": len({self.index[case].group for case in cases}), "cases": len(cases)}

        return None if share == 1 else {"labels": share, **counted(self.cases.train), "of": counted(every)}

    @cached_property
    def caches(self) -> dict[str, str]:
        """Training or validation case → the file to learn from."""
        return self.index.caches(self.cases.train + self.cases.validation, self.features)

    @cached_property
    def fitted(self) -> Model:
        """The settings with values from the training cases."""
        fitted: Model = self.system.learner.fitted(self.settings, [self.caches[c] for c in self.cases.train])
        return fitted

    @cached_property
    def learner(self) -> Learner[Any]:
        """The learner of the model."""
        learner: Learner[Any] = self.system.learner(self.fitted, self.index.task)
        return learner

    def run(self) -> Run:
        """The inputs of the loop."""
        identities = {case: identity_of(path) for case, path in self.caches.items()}
        contents = {case: identity.content for case, identity in identities.items()}
        fold, model, task = self.cases, self.fitted, self.index.task
        # An index from the sheet alone knows no recordings.
        seen = {
            case: identity_of(path).recording
            for case, path in self.index.caches(fold.test, self.features).items()
        }
        seen |= {case: identity.recording for case, identity in identities.items()}
        refuse_twins([self.index[case] for case in seen], seen)
        pretrained = file_hash(model.pretrained.file) if model.pretrained else None
        whole = representatives(
            [self.index[case] for case in fold.validation],
            model.training.validation.cases,
            np.random.default_rng([self.seed, self.fold, CHOICE]),
        )

        def hashed(values: dict[str, Any]) -> str:
            learnt = [values, self.seed, self.fold, task, fold.train, fold.validation, whole]
            return short_hash([*learnt, contents, pretrained], 32)

        values = values_for(model, "train")
        extend = values["training"].pop("extend", None)
        ends = {"patience", "keep"} if self.learner.counts_epochs else {"epochs", "patience", "keep"}
        course = {**values, "training": {k: v for k, v in values["training"].items() if k not in ends}}
        if schedule := model.scheduler:
            left = left_of(model.training, length_of(model.training))
            course["scheduler"] = dump(with_lengths(schedule, left))
        exact = similar = hashed(course)
        if schedule:
            similar = hashed({**course, "scheduler": dump(with_lengths(schedule, sys.maxsize, given=False))})
        if follow := extend == "follow" and exact != similar:
            values["training"]["extend"] = extend
        fingerprint = hashed(values)
        return Run(
            model=model,
            train=[self.caches[case] for case in fold.train],
            validation=[self.caches[case] for case in fold.validation],
            whole=[self.caches[case] for case in whole],
            seed=(self.seed, self.fold),
            fingerprint=fingerprint,
            folder=self.state / fingerprint,
            courses=[similar] if follow else [exact, similar],
            follow=follow,
            facts={
                "settings": dump(model),
                "system": self.system.name,
                "package": origin(self.system.name),
                "task": task,
                "prepared": dict(self.prepared),
                BESIDE: contents_beside(self.system.beside, {"prepared": self.prepared}),
                "fingerprint": fingerprint,
                "fold": self.fold,
                **({"learns_from": self.learns_from} if self.learns_from else {}),
                "held_out": sorted(marks(self.index[case])["case"] for case in fold.test),
                "learnt": sorted(
                    {m for case in self.caches for m in marks(self.index[case], identities[case]).values()}
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
    learner, kept = job.learner, Made.within(run.folder)
    if (part := job.learns_from) and not is_helper():
        logging.info(
            "labels: %g: learns from %d of %d training patients, %d of %d cases: %s",
            *(part["labels"], part["patients"], part["of"]["patients"], part["cases"], part["of"]["cases"]),
            ", ".join(job.cases.train),
        )

    def give_up() -> bool:
        return budget.reason is not None

    with ExitStack() as stack:
        # One process holds the claim for all that it starts, and only it writes files.
        if not is_helper() and not stack.enter_context(claim(job.state, give_up)):
            return UNFINISHED
        if not is_helper():
            folders.adopt_old_layout(job.state)
            done = kept.result_of(run)
            if not done:
                folders.begin(run)
            folders.thin(run.folder, settings.training.kept)
            if done:
                logging.info("finished before; its files are kept in %s", run.folder)
                kept.renew(run)
                kept.hand_over(made)
                checkpoint.settle(run.folder, _goes_on(job, run, kept))
                return 0
        if job.stage_caches:
            local = stack.enter_context(staged(list(job.caches.values()), node_scratch(), give_up))
            train, validation, whole = (
                [local[path] for path in paths] for paths in (run.train, run.validation, run.whole or ())
            )
            run = replace(run, train=train, validation=validation, whole=whole)
        with gathered(settings.training) as team:
            trainer = Trainer(run, learner, attempts, budget, team)
            finished = trainer.fit()
        if team.rank:
            return 0
        if not finished:
            return UNFINISHED
        _write(job, trainer, attempts, kept)
        kept.hand_over(made)
        checkpoint.settle(run.folder, _goes_on(job, run, kept))
    return 0


def _goes_on(job: Job, run: Run, files: Made) -> bool:
    """Whether the state of a finished training is kept, for a longer one to go on from it."""
    training = run.model.training
    if training.keep_state != "auto":
        return training.keep_state
    fixed = len(set(run.courses)) == 1 and not job.learner.counts_epochs
    return fixed or read_json(files.provenance)["epochs"] < training.epochs


def _write(job: Job, trainer: Trainer, attempts: Attempts, files: Made) -> None:
    best, pretrained = trainer.best, job.fitted.pretrained
    assert best is not None
    # The last step's weights may be NaN although its loss, computed before, was not.
    refuse_not_finite(best["network"], files.model)
    with atomic_path(files.model) as temporary:
        torch.save(trainer.model_file(best["network"], best["epoch"], best["score"]), temporary)
    write_text(files.log, log_text(trainer.rows))
    write_json(
        files.provenance,
        provenance(
            settings=dump(job.fitted),
            inputs=[job.index_path, *([pretrained.file] if pretrained else [])],
            seed=job.seed,
            fold=job.fold,
            best_epoch=best["epoch"],
            learns_from=job.learns_from,
            score=None if math.isnan(best["score"]) else best["score"],
            epochs=len(trainer.rows),
            pretrained=trainer.pretrained,
            attempts=attempts.rows(),
            gpu=attempts.gpu,
            system=origin(job.system.name),
        ),
    )
    score = "no score" if math.isnan(best["score"]) else f"score {best['score']:.4f}"
    logging.info("kept epoch %d, %s", best["epoch"], score)
