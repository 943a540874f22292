"""The lung mask on a folder of CTs: Dice against given masks, lungs filled by a script, time and memory.

    python benchmarks/lung_mask.py --data FOLDER [--fill] [--large] [--against CHECKOUT]

FOLDER contains one folder per case with image.nii.gz and, where known, lung.nii.gz and tumour.nii.gz.
`--fill` fills one lung or both with fluid, from behind or from below, and lists the share of what was filled,
of both lungs and of the tumour that lies in the region; without lung.nii.gz the mask found in the scan itself
counts as the lungs. `--large` measures a generated chest of 512×512×300 voxels in a process of its own, and
with `--against` the same with the code of another checkout, in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import numpy as np

from foldwise.files import CaseError
from foldwise.volumes.geometry import resample
from foldwise.volumes.lung_judgement import judge
from foldwise.volumes.lungs import Lungs, find_lungs, missed_share
from foldwise.volumes.phantom import fill_lungs, make_phantom
from foldwise.volumes.volume import Volume, read_volume, write_volume

LARGE = (512, 512, 300)
TURNS = 3
# Shares of the left and the right lung to be filled, and where the fluid begins.
FILLINGS: tuple[tuple[tuple[float, float], Literal["behind", "below"]], ...] = (
    ((1, 0), "behind"),
    ((0, 1), "behind"),
    ((0.9, 0), "behind"),
    ((0, 0.9), "below"),
    ((1 / 3, 1 / 3), "behind"),
    ((1 / 3, 1 / 3), "below"),
    ((1 / 2, 1 / 2), "behind"),
)
MEASURE = """
import json, resource, sys, time
from pathlib import Path
from foldwise.volumes.lungs import find_lungs
from foldwise.volumes.volume import read_volume
image = read_volume(Path(sys.argv[1]))
def peak():  # the maximum that getrusage gives includes that of the process that started this one
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024)
loaded = peak()
before = resource.getrusage(resource.RUSAGE_SELF)
begun = time.perf_counter()
lungs = find_lungs(image)
after = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "s": round(time.perf_counter() - begun, 1),
    "CPU s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
    "peak MiB": peak(), "before MiB": loaded,
    **{step: round(value, 1) for step, value in lungs.seconds.items()},
}))
"""


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def row(folder: Path) -> str:
    ct = read_volume(folder / "image.nii.gz")
    begun = time.process_time()
    try:
        lungs = find_lungs(ct)
    except CaseError as error:
        return f"| {folder.name} | {error} |"
    seconds = time.process_time() - begun
    voxel_litres = abs(np.linalg.det(ct.affine[:3, :3])) / 1e6
    judged = judge(lungs.seen)
    cells = [folder.name, _agreement(folder, lungs), *_missed(folder, lungs)]
    cells += [f"{lungs.mask.sum() * voxel_litres:.2f}", f"{lungs.region.mean():.2f}", f"{seconds:.1f}"]
    return "| " + " | ".join([*cells, judged.verdict, "; ".join(judged.remarks)]) + " |"


def _agreement(folder: Path, lungs: Lungs) -> str:
    path = folder / "lung.nii.gz"
    return f"{dice(lungs.mask, read_volume(path).data > 0):.4f}" if path.exists() else ""


def _missed(folder: Path, lungs: Lungs) -> list[str]:
    for name in ("tumour", "tumour_box"):
        path = folder / f"{name}.nii.gz"
        if path.exists():
            label = read_volume(path).data
            mark = "" if name == "tumour" else " (box)"
            return [f"{missed_share(label, part):.2%}{mark}" for part in (lungs.mask, lungs.region)]
    return ["", ""]


def filled_rows(folder: Path) -> list[str]:
    """A row for each filling of a case's lungs."""
    ct = read_volume(folder / "image.nii.gz")
    given = folder / "lung.nii.gz"
    try:
        lung = read_volume(given).data > 0 if given.exists() else find_lungs(ct).mask
    except CaseError as error:
        return [f"| {folder.name} | {error} |"]
    whole = Volume(lung.astype(np.uint8), ct.affine)
    tumours = [folder / f"{name}.nii.gz" for name in ("tumour", "tumour_box")]
    tumour = next((read_volume(path).oriented().data > 0 for path in tumours if path.exists()), None)
    rows = []
    for shares, start in FILLINGS:
        name = f"{folder.name} | {shares[0]:.2f}, {shares[1]:.2f} {start}"
        ill, filled = fill_lungs(ct, whole, shares, start)
        if not filled.any():
            continue
        try:
            found = find_lungs(ill)
        except CaseError as error:
            rows.append(f"| {name} | {error} |")
            continue
        parts = [filled, whole.oriented().data > 0, *([] if tumour is None else [tumour])]
        shares_in = [f"{found.region[part].mean():.3f}" for part in parts]
        cells = [name, *shares_in, *[""] * (3 - len(parts)), f"{found.region.mean():.2f}"]
        rows.append("| " + " | ".join([*cells, "; ".join(judge(found.seen).remarks)]) + " |")
    return rows


def large(checkouts: list[Path]) -> None:
    """Measure a chest of 512×512×300 voxels with the code of each checkout, in turns."""
    phantom = make_phantom("p01", (1.5, 1.5, 2.0)).image.oriented()
    factor = np.array(phantom.data.shape) / LARGE
    data = resample(phantom.data.astype(np.float32), LARGE)
    random = np.random.default_rng(0)
    for z in range(LARGE[2]):
        data[:, :, z] += random.normal(0, 25, LARGE[:2])
    image = Volume(np.rint(data).astype(np.int16), phantom.affine @ np.diag([*factor, 1]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.nii"
        write_volume(image, path)
        del data, image, phantom
        for _ in range(TURNS):
            for checkout in checkouts:
                environment = {**os.environ, "PYTHONPATH": str(checkout / "workflow")}
                command = [sys.executable, "-c", MEASURE, str(path)]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                print(checkout, json.loads(done.stdout), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of case folders")
    parser.add_argument("--fill", action="store_true", help="also with lungs that are filled")
    parser.add_argument("--large", action="store_true", help="also a generated chest of 512×512×300")
    parser.add_argument("--against", type=Path, help="another checkout to measure beside this one")
    args = parser.parse_args()
    folders = sorted(path.parent for path in args.data.glob("*/image.nii.gz")) if args.data else []
    if folders:
        print(
            "| case | Dice | missed by mask | missed by region | litres | region share | CPU s | verdict | |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
    for folder in folders:
        print(row(folder), flush=True)
    if args.fill:
        print("| case | filled | of it inside | of the lungs | of the tumour | region share | |")
        print("|---|---|---|---|---|---|---|")
        for folder in folders:
            print("\n".join(filled_rows(folder)), flush=True)
    if args.large:
        large([Path(__file__).resolve().parents[1], *([args.against.resolve()] if args.against else [])])


if __name__ == "__main__":
    main()
