"""Dice and seconds of interactive engines in sessions with a simulated person.

  python benchmarks/interactive_engines.py folder [--rounds 5] [--kinds box] [--labels 5] [--json out.json]
  python benchmarks/interactive_engines.py --large

`folder` contains image.nii.gz and label.nii.gz; all labels count as one object, or those of `--labels`. The
first marks are made where the object is largest. After that, the truth decides what is marked, but never
where: the next slice is the most doubtful one by the engine's quality. `--large` times a round on a generated
scan of 512×512×400 voxels and prints the process's peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from foldwise.systems.interactive.engines import CERTAIN, Request, Scan
from foldwise.systems.interactive.engines.classical import Classical
from foldwise.systems.interactive.engines.spreading import spread
from foldwise.systems.interactive.hints import followed
from foldwise.systems.interactive.kinds import Kind
from foldwise.systems.interactive.marks import Marks, of_slice, on_plane, settled
from foldwise.systems.interactive.user import draw_hints

HINTS: tuple[Kind, ...] = ("extreme", "box", "points", "scribble")


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("folders", type=Path, nargs="*")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--kinds", nargs="+", default=list(HINTS))
    arguments.add_argument("--labels", type=int, nargs="+")
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--large", action="store_true")
    args = arguments.parse_args()
    if args.large:
        time_large()
    rows = []
    for folder in args.folders:
        scan, truth = read(folder, args.labels)
        for kind in args.kinds:
            rounds = session(scan, truth, kind, args.rounds)
            rows.append({"case": folder.name, "kind": kind, "rounds": rounds})
            shown = " ".join(f"{one['place']}:{one['dice']:.3f}({one['seconds']:.1f}s)" for one in rounds)
            print(f"{folder.name} {kind} {shown}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows))


def read(folder: Path, labels: list[int] | None) -> tuple[Scan, np.ndarray]:
    """A scan and its object (x, y, z) bool."""
    image, label = nib.load(folder / "image.nii.gz"), np.asarray(nib.load(folder / "label.nii.gz").dataobj)
    truth = label > 0 if labels is None else np.isin(label, labels)
    return Scan(np.asarray(image.dataobj)[None], image.affine), truth


def session(scan: Scan, truth: np.ndarray, kind: Kind, rounds: int) -> list[dict[str, float]]:
    """Slice, Dice and seconds of each round."""
    edges = np.round(scan.spacing, 3)
    axis = int(edges.argmax()) if edges.max() > 1.01 * edges.min() else 2
    engine, random = Classical(scan), np.random.default_rng(0)
    labels, found = np.zeros(scan.shape, np.uint8), []
    said: tuple[Marks, ...] = ()
    place = int(truth.sum(tuple(one for one in range(3) if one != axis)).argmax())
    for _ in range(rounds):
        true, seen = np.take(truth, place, axis), np.take(labels, place, axis) > 0
        marks = of_slice(draw_hints(true, seen, kind, random), axis, place)
        said = (*said, marks)
        begun = time.perf_counter()
        answer = engine.segment(Request(labels, {1: said}, {1: (marks,)}, axis))
        fixed = settled(said, scan.shape)
        labels = spread(scan, answer.masks[1] > CERTAIN // 2, fixed).astype(np.uint8)
        seconds = time.perf_counter() - begun
        dice = 2 * (truth & (labels > 0)).sum() / (truth.sum() + labels.sum())
        found.append({"place": place, "dice": float(dice), "seconds": seconds})
        place = doubtful(labels, answer.quality[1], said, axis)
    return found


def doubtful(labels: np.ndarray, quality: np.ndarray, said: tuple[Marks, ...], axis: int) -> int:
    """The slice with the largest expected error: on a mask's slices and the first beyond its ends."""
    area = labels.sum(tuple(one for one in range(3) if one != axis)).astype(float)
    if not area.any():
        return len(area) // 2
    share, filled = area / area.max(), np.flatnonzero(area)
    doubt = np.where(area > 0, (1 - np.nan_to_num(quality)) * share, 0)
    inner = np.arange(filled[0], filled[-1])
    gaps = inner[area[inner] == 0]
    doubt[gaps] = np.interp(gaps, filled, share[filled])
    for end, beyond in ((filled[0], filled[0] - 1), (filled[-1], filled[-1] + 1)):
        if 0 <= beyond < len(area):
            doubt[beyond] = share[end] ** 2
    for marks in said:
        for place in marks.planes():
            plane = np.take(labels, place, axis) > 0
            doubt[place] = 0 if followed(on_plane(said, axis, place), plane) >= 0.5 else 1e-6
    return int(doubt.argmax())


def time_large() -> None:
    shape, spacing = (512, 512, 400), np.array([0.7, 0.7, 1.0])
    grids = np.ogrid[tuple(slice(count) for count in shape)]
    centre = np.array(shape) / 2
    radius = sum(
        ((grid - middle) * edge) ** 2 for grid, middle, edge in zip(grids, centre, spacing, strict=True)
    )
    truth = radius < 80**2
    random = np.random.default_rng(0)
    image = (truth * np.int16(60) + random.integers(-30, 30, shape, np.int16)).astype(np.int16)
    scan = Scan(image[None], np.diag([*spacing, 1]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rounds = session(scan, truth, "extreme", 3)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"512×512×400: {rounds}; peak {peak:.0f} MiB, {before:.0f} MiB before")


if __name__ == "__main__":
    main()
