"""Duration of a round, and a model's results on other kinds of scans.

  python benchmarks/interactive.py time --model model.pt --shape 256 256 100 --sizes 64 128 256
  python benchmarks/interactive.py cases --model model.pt folder/with/image-and-label ...

`time` propagates through a generated volume of a given shape. `cases` simulates sessions as in the test
stage, on folders that contain image.nii.gz and label.nii.gz (all labels as one object), and prints Dice after
each round.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from foldwise.index import Entry
from foldwise.systems.interactive.hints import Hints
from foldwise.systems.interactive.kinds import CHOICES, KINDS
from foldwise.systems.interactive.model import Trained, propagator_of, read_stack, read_trained
from foldwise.systems.interactive.rounds import simulate
from foldwise.systems.interactive.session import Propagator, State, memory_bytes
from foldwise.volumes.prepare import prepare_scan
from foldwise.volumes.slices import AXES
from foldwise.volumes.volume import read_volume


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = arguments.add_subparsers(required=True)
    timed = commands.add_parser("time")
    timed.add_argument("--model", required=True, type=Path)
    timed.add_argument("--shape", type=int, nargs=3, default=[256, 256, 100], help="rows, columns, slices")
    timed.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256], help="edges of the input")
    timed.set_defaults(run=lambda args: time_rounds(read_trained(args.model), args.shape, args.sizes))
    cases = commands.add_parser("cases")
    cases.add_argument("--model", required=True, type=Path)
    cases.add_argument("--rounds", type=int, default=3)
    cases.add_argument("--size", type=int, help="edge of the input; default: the model's")
    cases.add_argument("folders", type=Path, nargs="+")
    cases.set_defaults(run=lambda args: score_cases(args))
    args = arguments.parse_args()
    args.run(args)


def time_rounds(trained: Trained, shape: list[int], sizes: list[int]) -> None:
    rows, columns, slices = shape
    image = torch.rand(slices, trained.state["task"]["channels"], rows, columns)
    settings, names = trained.settings, trained.targets.names
    hints = dict.fromkeys(range(len(names)), Hints(inside=np.array([[rows // 2, columns // 2]])))
    for size in sizes:
        capacity = settings.memory.capacity
        propagator = Propagator(trained.network, image, (1, 1), objects=names, size=size, capacity=capacity)
        begun = time.perf_counter()
        propagator.round(State.empty(len(names), propagator.shape), slices // 2, hints)
        seconds = time.perf_counter() - begun
        held = memory_bytes(capacity, len(names), size, settings.trunk.keys, settings.trunk.values)
        print(f"input {size}: {seconds:.1f} s per round of {slices} slices {rows} × {columns}, "
              f"memory up to {held / 2**20:.1f} MiB, {torch.get_num_threads()} threads")  # fmt: skip


def score_cases(args: argparse.Namespace) -> None:
    trained = read_trained(args.model)
    size = args.size or trained.settings.size
    trained = dataclasses.replace(trained, settings=trained.settings.model_copy(update={"size": size}))
    print("case,hints,choice," + ",".join(f"round{n + 1}" for n in range(args.rounds)))
    for folder in args.folders:
        with tempfile.TemporaryDirectory() as scratch:
            entry = Entry("case", "case", {"images": (str(folder / "image.nii.gz"),)}, "", {}, 0)
            cache = prepare_scan(entry, trained.state, Path(scratch))
            stack = read_stack(cache, trained.settings)
        truth = np.moveaxis(
            read_volume(folder / "label.nii.gz").oriented().data > 0, AXES.index(stack.axis), 0
        )
        propagator = propagator_of(trained.network, stack, trained.settings, trained.targets)
        for kind in KINDS:
            for choice in CHOICES:
                random = np.random.default_rng(0)
                dice = [
                    2 * (found & truth).sum() / (found.sum() + truth.sum())
                    for round_ in simulate(
                        propagator, truth.astype(np.uint8), kind, choice, args.rounds, random
                    )
                    for found in [round_.state.objects() > 0]
                ]
                print(f"{folder.name},{kind},{choice}," + ",".join(f"{d:.3f}" for d in dice), flush=True)


if __name__ == "__main__":
    main()
