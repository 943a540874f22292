"""Train one model on one fold; killed, stopped or out of time, the same command goes on where it was.

Exit codes: 0 finished; 75 saved before the time limit or on SIGTERM, run again; 1 failed.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from foldwise.command import run, system_parser, written
from foldwise.evaluate import marks
from foldwise.files import atomic_path, file_hash, short_hash, write_json, write_text
from foldwise.hdf5 import content_of
from foldwise.index import Index
from foldwise.plan import merged, read_plan, with_plan
from foldwise.provenance import provenance
from foldwise.settings import dump, parse_values
from foldwise.systems import fitted, load, part
from foldwise.training import checkpoint
from foldwise.training.attempts import Attempts
from foldwise.training.budget import UNFINISHED, Budget
from foldwise.training.claim import claim
from foldwise.training.loop import Run, Trainer, log_text
from foldwise.training.parallel import gathered, is_helper
from foldwise.training.pretrained import refuse_not_finite
from foldwise.training.scratch import node_scratch, staged

# Settings that change what is kept beside the model, and not the model: no reason to train again.
SIDE_EFFECTS = {"examples", "save_every", "save_last"}


def main() -> int:
    """Read the command line."""
    made = system_parser(__doc__, "Model")
    made.add_argument("--name", default="model", help="the model's name in the plan")
    made.add_argument("--plan", type=Path, help="plan.yaml, for what the settings leave open")
    made.add_argument("--prepared", default="{}", help="sections kept in the model's file for new cases")
    made.add_argument("--index", required=True, type=Path, help="label-path index")
    made.add_argument("--features", type=Path, help="folder of <case>.h5 to use instead of the caches")
    made.add_argument("--fold", required=True, type=int, help="fold, from 0")
    made.add_argument("--seed", type=int, default=0, help="seed of the experiment")
    made.add_argument("--state", required=True, type=Path, help="folder of checkpoints and history")
    made.add_argument("--model", required=True, type=written, help="best weights to write (.pt)")
    made.add_argument("--log", required=True, type=written, help="one row per epoch to write (.csv)")
    made.add_argument("--provenance", required=True, type=written, help="provenance to write (.json)")
    made.add_argument("--budget-min", type=float, help="time limit of this job, in minutes")
    made.add_argument("--workers", type=int, default=2, help="processes that read data; speed only")
    made.add_argument("--checkpoint-min", type=float, default=10, help="minutes between checkpoints")
    made.add_argument("--attempt", type=int, default=1, help="number of the try, from 1")
    made.add_argument("--stage-caches", type=int, default=0, help="1: read copies on the node's own disk")
    args = made.parse_args()

    budget = Budget(args.budget_min)
    args.state.mkdir(parents=True, exist_ok=True)
    if is_helper():
        logging.getLogger().setLevel(logging.WARNING)
    else:
        # Snakemake deletes a rule's log before every attempt; this one holds them all.
        logging.getLogger().addHandler(logging.FileHandler(args.state / "train.log", encoding="utf-8"))
    index = Index.read(args.index)
    fold = index.fold(args.fold)
    caches = index.caches(fold.train + fold.validation, args.features)
    contents = {case: content_of(path) for case, path in caches.items()}
    train = [caches[case] for case in fold.train]
    kind = part(args.system, "settings").Model
    settings = fitted(args.system, with_plan(kind, args.settings, args.plan, "models", args.name), train)
    pretrained = file_hash(settings.pretrained.file) if settings.pretrained else None
    fingerprint = short_hash(
        [
            settings.model_dump(mode="json", exclude={"training": SIDE_EFFECTS}),
            args.seed,
            args.fold,
            index.task,
            fold.train,
            fold.validation,
            contents,
            pretrained,
        ],
        32,
    )
    attempts = Attempts(args.state / "attempts.jsonl", args.attempt, fingerprint)
    plan = Run(
        model=settings,
        train=train,
        validation=[caches[case] for case in fold.validation],
        seed=(args.seed, args.fold),
        fingerprint=fingerprint,
        folder=args.state,
        facts={
            "settings": dump(settings),
            "system": args.system,
            "task": index.task,
            "prepared": _prepared(args.prepared, args.plan),
            "fingerprint": fingerprint,
            "fold": args.fold,
            "learnt": sorted({m for case in caches for m in marks(index[case], contents[case]).values()}),
        },
        workers=args.workers,
        checkpoint_min=args.checkpoint_min,
    )
    system = load(args.system, settings, index.task)

    def give_up() -> bool:
        return budget.reason is not None

    with ExitStack() as stack:
        # One process holds the claim for all that it starts, and alone writes anything.
        if not is_helper() and not stack.enter_context(claim(args.state, give_up)):
            return UNFINISHED
        if not is_helper():
            checkpoint.set_aside(args.state, fingerprint, settings.training.gpus)
        if args.stage_caches:
            local = stack.enter_context(staged(list(caches.values()), node_scratch(), give_up))
            train, validation = ([local[path] for path in paths] for paths in (plan.train, plan.validation))
            plan = replace(plan, train=train, validation=validation)
        team = stack.enter_context(gathered(settings.training))
        trainer = Trainer(plan, system, attempts, budget, team)
        if trainer.step == 0 and team.rank == 0:
            system.examples(train, plan.seed, settings.training.examples, args.state / "examples")
        finished = trainer.fit()
        if team.rank:
            return 0
        if not finished:
            return UNFINISHED
    best = trainer.best
    assert best is not None
    # The last step's weights may be NaN though its loss, which came before, was not.
    refuse_not_finite(best["network"], args.model)
    with atomic_path(args.model) as temporary:
        torch.save(trainer.model_file(best["network"], best["epoch"], best["score"]), temporary)
    write_text(args.log, log_text(trainer.rows))
    write_json(
        args.provenance,
        provenance(
            settings=dump(settings),
            inputs=[args.index, *([settings.pretrained.file] if settings.pretrained else [])],
            seed=args.seed,
            fold=args.fold,
            best_epoch=best["epoch"],
            epochs=len(trainer.rows),
            pretrained=trainer.pretrained,
            attempts=attempts.rows(),
        ),
    )
    logging.info("best epoch %d, score %.4f", best["epoch"], best["score"])
    return 0


def _prepared(given: str, plan: Path | None) -> dict[str, Any]:
    """The sections that say how new cases are prepared, completed by the plan."""
    sections: dict[str, Any] = parse_values(given)
    if plan is not None:
        planned = dump(read_plan(plan))
        sections = {name: merged(planned.get(name, {}), values) for name, values in sections.items()}
    return sections


if __name__ == "__main__":
    run(main)
