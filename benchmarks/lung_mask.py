"""The lung mask on a folder of CTs: Dice against given masks, tumour missed, time of each step, peak memory.

    python benchmarks/lung_mask.py --data FOLDER [--large]

FOLDER contains one folder per case with image.nii.gz and, where known, lung.nii.gz and tumour.nii.gz.
`--large` increases each step's work: the first case is resampled to 512×512×300 and measured in a separate
process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from pathlib import Path

import numpy as np

from foldwise.files import CaseError
from foldwise.volumes.geometry import resample
from foldwise.volumes.lungs import Lungs, find_lungs, missed_share
from foldwise.volumes.volume import Volume, read_volume

LARGE = (512, 512, 300)


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def row(folder: Path) -> str:
    ct = read_volume(folder / "image.nii.gz")
    begun = time.perf_counter()
    try:
        lungs = find_lungs(ct)
    except CaseError as error:
        return f"| {folder.name} | {error} |"
    seconds = time.perf_counter() - begun
    voxel_litres = abs(np.linalg.det(ct.affine[:3, :3])) / 1e6
    cells = [folder.name, _agreement(folder, lungs), *_missed(folder, lungs)]
    cells += [f"{lungs.mask.sum() * voxel_litres:.2f}", f"{lungs.region.mean():.2f}", f"{seconds:.1f}"]
    return "| " + " | ".join(cells) + " |"


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


def large(folder: Path) -> None:
    """Measure one CT of 512×512×300; run in a separate process to measure its peak memory."""
    ct = read_volume(folder / "image.nii.gz")
    factor = np.array(ct.data.shape) / LARGE
    data = resample(ct.data.astype(np.float32), LARGE)
    random = np.random.default_rng(0)
    for z in range(LARGE[2]):
        data[:, :, z] += random.normal(0, 25, LARGE[:2])
    image = Volume(np.rint(data).astype(np.int16), ct.affine @ np.diag([*factor, 1]))
    del data
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    begun = time.perf_counter()
    lungs = find_lungs(image)
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    steps = ", ".join(f"{step} {value:.1f} s" for step, value in lungs.seconds.items())
    print(
        f"{folder.name} at {LARGE}: {seconds:.1f} s ({steps}); peak {peak:.0f} MiB (before: {before:.0f} MiB)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of case folders")
    parser.add_argument("--large", action="store_true", help="also the first case at 512×512×300")
    args = parser.parse_args()
    folders = sorted(path.parent for path in args.data.glob("*/image.nii.gz"))
    print("| case | Dice | missed by mask | missed by region | litres | region share | s |")
    print("|---|---|---|---|---|---|---|")
    for folder in folders:
        print(row(folder), flush=True)
    if args.large:
        process = multiprocessing.get_context("spawn").Process(target=large, args=(folders[0],))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
