"""Engines in sessions with a simulated person, as in the test stage; and the cost of a round on a large scan.

  python benchmarks/interactive.py sessions folder[:label,label] … [--model m.pt] [--rounds 5] [--csv out.csv]
  python benchmarks/interactive.py large

A folder contains image.nii.gz and label.nii.gz; all labels are one object, or those named. Without a model
the engine is `classical`. Each kind of hints is a session of several rounds, and `segfm3d` is one by the
rules of the CVPR 2025 challenge. `over` marks a session that says that nothing is left to do; `broken`
counts marked voxels that the mask contradicts. `large` times rounds on a generated scan of 512 × 512 × 400
voxels.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from foldwise.files import write_json
from foldwise.systems.interactive.engines import Engine, Scan
from foldwise.systems.interactive.engines.classical import Classical
from foldwise.systems.interactive.engines.trained import opener
from foldwise.systems.interactive.kinds import KINDS, PROTOCOLS
from foldwise.systems.interactive.marks import Marks
from foldwise.systems.interactive.model import read_trained
from foldwise.systems.interactive.rounds import Round, simulate
from foldwise.systems.interactive.scans import digest, read_scan, thickest
from foldwise.systems.interactive.segfm3d import outcomes, scores
from foldwise.systems.interactive.segfm3d_rounds import simulate_protocol
from foldwise.systems.interactive.session import advance
from foldwise.systems.interactive.state import State
from foldwise.volumes.volume import read_volume


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = arguments.add_subparsers(required=True)
    sessions = commands.add_parser("sessions")
    sessions.add_argument("folders", nargs="+")
    sessions.add_argument("--model", type=Path)
    sessions.add_argument("--rounds", type=int, default=5)
    sessions.add_argument("--kinds", nargs="+", default=[*KINDS, *PROTOCOLS])
    sessions.add_argument("--csv", type=Path)
    sessions.set_defaults(run=play_all)
    large = commands.add_parser("large")
    large.set_defaults(run=lambda args: time_large())
    args = arguments.parse_args()
    args.run(args)


def play_all(args: argparse.Namespace) -> None:
    rows = []
    for given in args.folders:
        folder, _, labels = given.partition(":")
        scan = read_scan([Path(folder, "image.nii.gz")])
        label = read_volume(Path(folder, "label.nii.gz")).data
        truth = np.isin(label, [int(value) for value in labels.split(",")]) if labels else label > 0
        case = Path(folder).name + (f" {labels}" if labels else "")
        with tempfile.TemporaryDirectory() as scratch:
            engine = engine_of(args.model, Path(folder, "image.nii.gz"), Path(scratch))(scan)
            for kind in args.kinds:
                random = np.random.default_rng(list(f"{case} {kind}".encode()))
                for row in play(engine, scan, truth.astype(np.uint8), kind, args.rounds, random):
                    rows.append({"case": case, "engine": engine.name, "hints": kind, **row})
                    print(json.dumps(rows[-1]), flush=True)
    table = pd.DataFrame(rows)
    if args.csv:
        table.to_csv(args.csv, index=False)
    print(table.pivot_table(index="hints", columns="round", values="dice").round(3).to_string())


def engine_of(model: Path | None, image: Path, folder: Path):  # type: ignore[no-untyped-def]
    if model is None:
        return Classical
    write_json(folder / "session.json", {"scan": [digest(image)]})
    return opener(read_trained(model), [image], folder)


def play(
    engine: Engine, scan: Scan, truth: np.ndarray, kind: str, most: int, random: np.random.Generator
) -> Iterator[dict[str, float | bool]]:
    """A row for each round of a session."""
    axis = thickest(scan)
    if kind in PROTOCOLS:
        rounds = list(simulate_protocol(engine, scan, truth, ["object"], axis=2, random=random))
        found = outcomes(
            [scores(truth, each.state.labels, scan.spacing, [1]) for each in rounds],
            [each.seconds for each in rounds],
        )[1]
        areas = {"nsd": found.nsd, "dice_auc": found.dice_auc, "nsd_auc": found.nsd_auc}
        for each in rounds:
            yield {**facts(each, truth), **(areas if each is rounds[-1] else {})}
        return
    for each in simulate(
        engine,
        scan,
        truth,
        ["object"],
        axis=axis,
        kind=kind,  # type: ignore[arg-type]
        choice="predicted",
        rounds=most,
        random=random,
    ):
        yield facts(each, truth)


def facts(round_: Round, truth: np.ndarray) -> dict[str, float | bool]:
    found, slices = round_.state.labels > 0, np.moveaxis(truth, round_.state.axis, 0)
    shown = np.moveaxis(found, round_.state.axis, 0)[round_.place]
    here = slices[round_.place] > 0
    return {
        "round": round_.number,
        "slice": round_.place,
        "dice": round(2 * (found & (truth > 0)).sum() / (found.sum() + truth.sum()), 4),
        "hinted_slice": round(2 * (shown & here).sum() / max(1, shown.sum() + here.sum()), 4),
        "seconds": round(round_.seconds, 2),
        "broken": round_.broken,
        "over": round_.over,
    }


def time_large() -> None:
    shape, spacing = (512, 512, 400), np.array([0.7, 0.7, 1.0])
    grids = np.ogrid[tuple(slice(count) for count in shape)]
    middle = np.array(shape) / 2
    away = sum(
        ((grid - centre) * edge) ** 2 for grid, centre, edge in zip(grids, middle, spacing, strict=True)
    )
    truth = away < 80**2
    random = np.random.default_rng(0)
    noise = random.integers(-30, 30, shape, np.int16)
    scan = Scan((truth * np.int16(60) + noise)[None], np.diag([*spacing, 1]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    engine, state = Classical(scan), State.empty(shape, 2)
    centre = (middle - 0.5).astype(int)
    click = {1: (Marks(2, boxes=np.array([[[142, 142, 200], [370, 370, 200]]]), inside=centre[None]),)}
    for number, new in enumerate((click, {1: (Marks(2, outside=np.array([[60, 60, 200]])),)}), start=1):
        begun = time.perf_counter()
        state = advance(engine, scan, state, new, ["object"])
        seconds = time.perf_counter() - begun
        found = state.labels > 0
        dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
        print(f"round {number}: {seconds:.1f} s, Dice {dice:.3f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak {peak:.0f} MiB, {before:.0f} MiB before")


if __name__ == "__main__":
    main()
