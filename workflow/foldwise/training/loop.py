"""The training loop: exact steps, whole-state checkpoints, and a stop before the job's time limit."""

from __future__ import annotations

import logging
import math
import sys
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from foldwise.errors import plain_words
from foldwise.files import atomic_path, write_text
from foldwise.networks import build
from foldwise.settings import Model
from foldwise.training import checkpoint
from foldwise.training.attempts import Attempts
from foldwise.training.budget import Budget
from foldwise.training.learner import Learner
from foldwise.training.log import added, log_text, progress
from foldwise.training.memory import peak_gpu_mib, peak_mib
from foldwise.training.opening import opening
from foldwise.training.parallel import LostError, Team, make_fabric
from foldwise.training.pretrained import load_pretrained
from foldwise.training.pulse import Pulse
from foldwise.training.schedule import Schedule, length_of
from foldwise.training.steps import batches, reader_killed, step_seed
from foldwise.training.validation import Measured, Validation

# What the end of a training may change: without it, more epochs go on from a finished training.
CHANGED_BY_END = ("rows", "best", "score")
STATE = (*CHANGED_BY_END, "step", "waited", "lowest", "longest", "sums", "finished", "before_end", "courses")


@dataclass(frozen=True)
class Run:
    """The inputs of one training.

    Attributes:
        model: its settings.
        train: caches to learn from.
        validation: caches of whose samples a curve is drawn; may be empty.
        whole: those of them that are predicted whole; None: all.
        seed: integers that determine every random draw.
        fingerprint: hash of settings and data; a checkpoint with another fingerprint is not continued.
        folder: folder of checkpoints, log and kept models between jobs.
        courses: hashes without what decides only about the end (epochs, patience, the weights to keep).
            Trainings that share one pass through the same states; this one goes on from those of the first.
        follow: whether it may go on where only the schedule of the learning rate is another, and then
            follows its own.
        facts: plain values for every model file, from which the network can be rebuilt.
        workers: processes that read data; changes speed only.
        checkpoint_min: minutes between checkpoints.
    """

    model: Model
    train: Sequence[str]
    validation: Sequence[str]
    seed: tuple[int, ...]
    fingerprint: str
    folder: Path
    courses: Sequence[str] = ()
    follow: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    workers: int = 0
    checkpoint_min: float = 10
    whole: Sequence[str] | None = None


class Trainer:
    """One training of one model on one fold, over any number of jobs."""

    def __init__(
        self, run: Run, learner: Learner[Any], attempts: Attempts, budget: Budget, team: Team | None = None
    ) -> None:
        """Build everything, then load the checkpoint if there is one.

        Args:
            run: the inputs of the training.
            learner: of the model.
            attempts: the history.
            budget: decides when to stop.
            team: the processes that train together; None: only this one.
        """
        self.run, self.learner, self.attempts, self.budget = run, learner, attempts, budget
        training = run.model.training
        self.team = team or Team(make_fabric(training))
        self.fabric = self.team.fabric
        torch.manual_seed(step_seed(run.seed, 0))
        network = learner.network()
        self.pretrained = load_pretrained(network, run.model.pretrained) if run.model.pretrained else None
        optimiser = build("optimiser", run.model.optimiser, learner.parameters(network))
        if logging.getLogger().isEnabledFor(logging.INFO):  # counting a step takes seconds
            logging.info(opening(learner, training, network, optimiser, self.fabric, run.workers))
        self.schedule = Schedule(run.model.scheduler, optimiser, training, length_of(training))
        assert training.steps_per_epoch is not None, "the learner sets the steps of an epoch"
        self.per_epoch = training.steps_per_epoch
        self.network, self.optimiser = self.fabric.setup(network, optimiser)
        self.team.align(self.network)
        self.step = 0
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, Any] | None = None
        self.score = self.lowest = math.nan
        self.waited = self.longest = 0
        self.sums = _empty_sums()
        self.finished = False
        self.before_end: dict[str, Any] | None = None
        self.courses = list(run.courses)
        self._saved_at = time.monotonic()
        self._saved: Any = None
        self.pulse = Pulse(run.folder, training.epochs, silent=self.team.rank > 0)
        whole = run.validation if run.whole is None else run.whole
        self.validation = Validation(
            *(learner, training, run.validation, whole),
            *(run.seed, run.folder, self.team, budget.spent_on),
            told=self.pulse.case,
        )
        if state := checkpoint.load(run.folder, run.fingerprint):
            self._restore(state)
            logging.info("resumed at epoch %d, step %d", len(self.rows), self.step)
        self.validation.resume(self.step)

    @property
    def _place(self) -> tuple[int, int, bool]:
        """What distinguishes the states of this training."""
        return self.step, len(self.rows), self.finished

    @property
    def total(self) -> int:
        """Optimiser steps of the whole training."""
        return self.run.model.training.epochs * self.per_epoch

    def model_file(self, weights: dict[str, torch.Tensor], epoch: int, score: float) -> dict[str, Any]:
        """Contents of a model's file: weights, their origin, and how to rebuild the network."""
        return {"network": weights, "epoch": epoch, "score": score, **self.run.facts}

    def fit(self) -> bool:
        """Train until finished (True) or until the budget is spent (False); the state is saved in both cases.

        Raises:
            CaseError: two previous attempts failed here without progress.
            Exception: any exception of a step; its traceback is recorded first.
        """
        if self.finished:
            return True
        self.team.of_first(lambda: self.attempts.start(self.step))
        try:
            self._fit()
        except LostError:
            raise
        except Exception as error:
            if reader_killed(error):
                # Not an error of the training: the job counts as killed, and the next one requests more
                # memory.
                raise LostError(
                    "a process that reads training data was killed, most likely because memory ran out. Run "
                    "again with more memory (mem_mb): training continues from its last checkpoint"
                ) from error
            if self.team.rank == 0:
                told = plain_words(error) or traceback.format_exc()
                with suppress(OSError):  # on a full disk the error itself matters more
                    self.attempts.note("error", self.step, traceback=told)
            raise
        if self.team.rank == 0:
            self.attempts.note("finished" if self.finished else "stopped", self.step)
        return self.finished

    def _examples(self) -> None:
        run = self.run
        self.learner.examples(run.train, run.seed, run.model.training.examples, run.folder / "examples")

    def _fit(self) -> None:
        training = self.run.model.training
        every = training.accumulate
        if self.step == 0:
            self.team.of_first(self._examples)
        feed = batches(
            self.learner.items(self.run.train, self.run.seed),
            self.step * every,
            self.total * every,
            training.batch,
            math.ceil(self.run.workers / self.team.size),
            pin=self.fabric.device.type == "cuda",
            share=(self.team.rank, self.team.size),
        )
        with closing(feed):
            while True:
                if not self._over:
                    self._epoch(feed)
                if self._over:  # also where it goes on from a training that had come this far
                    self._finish()
                if self.finished:
                    return
                if reason := self._stop():
                    self._save()
                    logging.info("%s: saved at step %d of %d", reason, self.step, self.total)
                    return

    def _epoch(self, feed: Any) -> None:
        """Take steps to the end of the epoch, or to a stop within it."""
        training = self.run.model.training
        per_epoch = self.per_epoch
        # With a patience of this, training would have ended here.
        self.longest = max(self.longest, self.waited)
        # Its steps may be over already, but not its validation.
        end = (len(self.rows) + 1) * per_epoch
        begin = end - per_epoch
        bar = tqdm(
            total=per_epoch,
            initial=self.step - begin,
            desc=f"epoch {end // per_epoch}/{training.epochs}",
            disable=self.team.rank > 0 or not sys.stderr.isatty(),
            leave=False,
        )
        self.pulse.begin(end // per_epoch)
        with bar:
            while self.step < end:
                begun = time.monotonic()
                self._step(feed)
                self.budget.spent_on(time.monotonic() - begun)
                bar.update()
                done = self.step - begin
                self.pulse.step(done, per_epoch, self.sums["values"]["loss"] / done)
                if self.step < end:
                    if self._stop():
                        return
                    if time.monotonic() - self._saved_at > 60 * self.run.checkpoint_min:
                        self._save()
        self._end_epoch()

    def _step(self, feed: Any) -> None:
        training = self.run.model.training
        self.network.train()
        self.optimiser.zero_grad()
        begun = time.monotonic()
        parts: list[dict[str, float]] = []
        for part in range(training.accumulate):
            asked = time.monotonic()
            batch = self.fabric.to_device(next(feed))
            self.sums["waiting"] += time.monotonic() - asked
            # Drop-out and augmentation of a pass depend only on its number, so a resumed run repeats them.
            number = self.step * training.accumulate + part
            seed = step_seed(self.run.seed, number, self.team.rank)
            torch.manual_seed(seed)
            generator = torch.Generator(self.fabric.device).manual_seed(seed)
            values = self.learner.loss(self.network, batch, generator)
            self.fabric.backward(values["loss"] / training.accumulate)
            parts.append({name: value.item() for name, value in values.items()})
        for means in self.team.mean(parts):
            if not math.isfinite(means["loss"]):
                raise FloatingPointError(
                    f"the loss is {means['loss']} at step {self.step}; lower the learning rate, "
                    f"or check the data"
                )
            for name, mean in means.items():
                share = mean / training.accumulate
                self.sums["values"][name] = self.sums["values"].get(name, 0.0) + share
        self.team.average(self.network)
        if training.clip_gradient is not None:
            self.fabric.clip_gradients(
                self.network,
                self.optimiser,
                max_norm=training.clip_gradient,
                error_if_nonfinite=False,
            )
        self.optimiser.step()
        self.sums["lr"] = float(self.optimiser.param_groups[0]["lr"])
        self.schedule.after_step()
        self.step += 1
        self.sums["seconds"] += time.monotonic() - begun

    def _stop(self) -> str | None:
        """Why all processes stop now, or None: a reason in any of them is enough."""
        return next((reason for reason in self.team.exchange(self.budget.reason) if reason), None)

    @property
    def _over(self) -> bool:
        """Whether the last epoch has ended, with its validation."""
        training = self.run.model.training
        waited = training.patience is not None and self.waited >= training.patience
        return waited or len(self.rows) == training.epochs

    def _end_epoch(self) -> None:
        """Validate and end the epoch; nothing changes if the validation is stopped."""
        training = self.run.model.training
        epoch = len(self.rows) + 1
        due = epoch % training.validate_every == 0
        measured = self._measure(samples=True, cases=due)
        if measured is None:
            return
        row: dict[str, float] = {"epoch": epoch, "step": self.step}
        row |= {k: v / self.per_epoch for k, v in self.sums["values"].items()}
        # Of the last step; a state saved by an earlier version lacks it.
        row["lr"] = self.sums.get("lr", self.optimiser.param_groups[0]["lr"])
        row |= measured.columns
        self._judge(epoch, measured)
        self._schedule(row["loss"], self._watch(measured))
        seconds = self.sums["seconds"]
        row |= {
            "seconds": seconds,
            "data_wait": self.sums["waiting"] / max(seconds, 1e-9),
            **self._peaks(),
        }
        self.rows.append(row)
        self.sums = _empty_sums()
        if not self._over:
            self._snapshot()
            self._write_log()
        logging.info(progress(self.rows[-1], training.epochs))

    def _finish(self) -> None:
        """Validate the last epoch, choose the weights, and save; nothing changes if it is stopped.

        A training with more epochs may not validate here; the checkpoint keeps what that would change.
        """
        training, epoch = self.run.model.training, len(self.rows)
        due = epoch % training.validate_every != 0 and training.validation.best == "cases"
        measured = self._measure(samples=False, cases=due)
        if measured is None:
            return
        self.before_end = {name: getattr(self, name) for name in CHANGED_BY_END}
        if measured.columns:
            self.rows = [*self.rows[:-1], added(self.rows[-1], measured.columns) | self._peaks()]
            self._judge(epoch, measured)
            logging.info(progress(self.rows[-1], training.epochs))
        if training.keep == "last" or self.best is None:
            self.best = {"epoch": epoch, "score": self.score, "network": self._weights()}
        self.finished = True
        self._snapshot()
        self._save()
        self.pulse.end()

    def _measure(self, *, samples: bool, cases: bool) -> Measured | None:
        """Validate; None: stopped in between. What is found of whole cases is kept beside a saved state."""
        if cases and self.validation.cases:
            self._save()
        return self.validation.measure(self.network, self.step, samples=samples, cases=cases, stop=self._stop)

    def _peaks(self) -> dict[str, float]:
        return {"peak_mib": peak_mib(), "peak_gpu_mib": peak_gpu_mib(self.fabric.device)}

    def _judge(self, epoch: int, measured: Measured) -> None:
        """Keep the epoch if it is the best so far, or if it cannot be compared.

        Without a score (NaN) the last epoch is kept, as without validation cases. Of equal scores the first
        is kept, since later training brought no gain; but at a score of 0, nothing was right yet, and the
        longer trained epoch is kept.
        """
        score = measured.scores.get(self.run.model.training.validation.best)
        self.score = math.nan if score is None else score
        if score is None:
            return
        best = math.nan if self.best is None else self.best["score"]
        if math.isnan(score):
            if self.best is None:
                logging.warning(
                    "the validation cases give no score, e.g. because they lack what is learnt (see "
                    "logs/index.log): the last epoch is kept, not the best one, and `patience` has no effect"
                )
            better = math.isnan(best)
        else:
            better = math.isnan(best) or score > best or score == best <= 0
        if better:
            self.best = {"epoch": epoch, "score": score, "network": self._weights()}

    def _watch(self, measured: Measured) -> float | None:
        """The new value, lower being better, of what patience and plateaus watch; None: no new one.

        An undefined one uses no patience.
        """
        validation = self.run.model.training.validation
        name = validation.best if validation.watch == "best" else validation.watch
        value = measured.scores.get(name)
        if value is None:
            return None
        if not math.isnan(value):
            better = math.isnan(self.lowest) or -value < self.lowest
            self.lowest, self.waited = (-value, 0) if better else (self.lowest, self.waited + 1)
        return -value if name == "val_loss" else 1 - value

    def _snapshot(self) -> None:
        """Keep the models required by `save_every` and `save_last`, and delete others."""
        training, folder, epoch = self.run.model.training, self.run.folder / "models", len(self.rows)
        if self.team.rank:
            return

        def wanted(number: int) -> bool:
            every = training.save_every is not None and number % training.save_every == 0
            return every or (training.save_last is not None and number > epoch - training.save_last)

        if wanted(epoch):
            with atomic_path(folder / f"epoch_{epoch:04d}.pt") as temporary:
                torch.save(self.model_file(self._weights(), epoch, self.score), temporary)
        for path in folder.glob("epoch_*.pt"):
            if not wanted(int(path.stem.removeprefix("epoch_"))):
                path.unlink()

    def _schedule(self, loss: float, watched: float | None) -> None:
        # With validation cases a plateau watches them, so its patience counts validations.
        known = loss if not self.run.validation or (watched is not None and math.isnan(watched)) else watched
        with warnings.catch_warnings():
            # An earlier job may have taken the epoch's steps.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            self.schedule.after_epoch(known)

    def _weights(self) -> dict[str, torch.Tensor]:
        return {k: v.detach().cpu().clone() for k, v in self.network.state_dict().items()}

    def _save(self) -> None:
        if self.team.rank or self._saved == self._place:
            return
        begun = time.monotonic()
        state = {
            "fingerprint": self.run.fingerprint,
            "gpus": self.team.size,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scheduler": self.schedule.main.state_dict() if self.schedule.main else None,
            "precision": self.fabric.strategy.precision.state_dict(),
            **{name: getattr(self, name) for name in STATE},
        }
        checkpoint.save(self.run.folder, state)
        self._saved = self._place
        self.validation.superseded(self.step, finished=self.finished)
        self._write_log()
        self._saved_at = time.monotonic()
        self.budget.spent_on(self._saved_at - begun)

    def _write_log(self) -> None:
        """Write the log for inspection; a resumed training takes its rows from the checkpoint."""
        if self.team.rank == 0 and self.rows:  # before the first validation there are none
            write_text(self.run.folder / "log.csv", log_text(self.rows))

    def _restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        optimiser, schedule = state["optimiser"], state["scheduler"]
        self.schedule.resume(state["step"] if self.schedule.by_step else len(state["rows"]), schedule)
        if (
            self.schedule.main and schedule is None
        ):  # the rates of this schedule, not those of another one that it goes on from
            optimiser = {**optimiser, "param_groups": self.optimiser.state_dict()["param_groups"]}
        self.optimiser.load_state_dict(optimiser)
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        for name in STATE:
            setattr(self, name, state[name])
        self._saved = self._place
        self._write_log()


def _empty_sums() -> dict[str, Any]:
    return {"values": {}, "seconds": 0.0, "waiting": 0.0}
