"""Train one model on one fold; killed, stopped or out of time, the same command goes on where it was.

Exit codes: 0 finished; 75 saved before the time limit or on SIGTERM, run again; 1 failed.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from foldwise.cache import open_case
from foldwise.command import parser, run
from foldwise.files import atomic_path, short_hash, write_json, write_text
from foldwise.index import Index
from foldwise.provenance import provenance
from foldwise.settings import Model, dump, parse
from foldwise.systems import load
from foldwise.training.attempts import Attempts
from foldwise.training.budget import UNFINISHED, Budget
from foldwise.training.loop import Run, Trainer, log_text


def main() -> int:
    """Read the command line."""
    made = parser(__doc__, Model)
    made.add_argument("--system", default="segmentation", help="family")
    made.add_argument("--index", required=True, type=Path, help="label-path index")
    made.add_argument("--fold", required=True, type=int, help="fold, from 0")
    made.add_argument("--seed", type=int, default=0, help="seed of the experiment")
    made.add_argument("--state", required=True, type=Path, help="folder of checkpoints and history")
    made.add_argument("--model", required=True, type=Path, help="best weights to write (.pt)")
    made.add_argument("--log", required=True, type=Path, help="one row per epoch to write (.csv)")
    made.add_argument("--provenance", required=True, type=Path, help="provenance to write (.json)")
    made.add_argument("--budget-min", type=float, help="time limit of this job, in minutes")
    made.add_argument("--workers", type=int, default=2, help="processes that read data; speed only")
    made.add_argument("--checkpoint-min", type=float, default=10, help="minutes between checkpoints")
    made.add_argument("--attempt", type=int, default=1, help="number of the try, from 1")
    args = made.parse_args()

    budget = Budget(args.budget_min)
    args.state.mkdir(parents=True, exist_ok=True)
    # Snakemake deletes a rule's log before every attempt; this one holds them all.
    logging.getLogger().addHandler(logging.FileHandler(args.state / "train.log", encoding="utf-8"))
    settings = parse(Model, args.settings)
    index = Index.read(args.index)
    fold = index.folds[args.fold]
    caches = {case: index[case].cache for case in fold.train + fold.validation}
    contents = {}
    for case, path in caches.items():
        with open_case(path) as file:
            contents[case] = str(file.attrs["content"])
            channels = file["image"].shape[0]
    attempts = Attempts(args.state / "attempts.jsonl", args.attempt)
    plan = Run(
        model=settings,
        train=[caches[case] for case in fold.train],
        validation=[caches[case] for case in fold.validation],
        seed=(args.seed, args.fold),
        fingerprint=short_hash(
            [
                dump(settings),
                args.seed,
                args.fold,
                index.classes,
                fold.train,
                fold.validation,
                contents,
            ],
            32,
        ),
        folder=args.state,
        workers=args.workers,
        checkpoint_min=args.checkpoint_min,
    )
    trainer = Trainer(plan, load(args.system, settings, index.classes, channels), attempts, budget)
    if not trainer.fit():
        return UNFINISHED
    assert trainer.best is not None
    with atomic_path(args.model) as temporary:
        torch.save(
            {
                "network": trainer.best["network"],
                "settings": dump(settings),
                "system": args.system,
                "classes": index.classes,
                "channels": channels,
                "epoch": trainer.best["epoch"],
                "score": trainer.best["score"],
                "fingerprint": plan.fingerprint,
            },
            temporary,
        )
    write_text(args.log, log_text(trainer.rows))
    write_json(
        args.provenance,
        provenance(
            settings=dump(settings),
            inputs=[args.index],
            seed=args.seed,
            fold=args.fold,
            best_epoch=trainer.best["epoch"],
            epochs=len(trainer.rows),
            attempts=attempts.rows(),
        ),
    )
    logging.info("best epoch %d, score %.4f", trainer.best["epoch"], trainer.best["score"])
    return 0


if __name__ == "__main__":
    run(main)
