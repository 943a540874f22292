"""Reading DICOM series beside SimpleITK's reader: CPU seconds, peak memory, and seconds for many headers.

    python benchmarks/dicom.py --folder EMPTY [--series 1000] [--slices 300]

EMPTY is a folder for generated files: 400 slices of 512×512 (210 MB), then `--series` folders of `--slices`
tiny slices (links to the same 1 KB each), which are deleted afterwards.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from foldwise.volumes.volume import read_header, read_volume

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from dicom_files import Grid, write_series

LARGE = Grid(shape=(512, 512, 400))


def by_itk(folder: Path) -> np.ndarray:
    """All slices with the type, slope and spacing of the first."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return sitk.GetArrayFromImage(reader.Execute())


def by_foldwise(folder: Path) -> np.ndarray:
    return read_volume(folder).data


READERS = {"ImageSeriesReader": by_itk, "Foldwise": by_foldwise, "Foldwise, headers only": read_header}


def measure(name: str, folder: Path, results: multiprocessing.Queue[tuple[float, float, float]]) -> None:
    """CPU seconds, seconds, and peak memory above that before the call (MiB)."""
    before, cpu, begun = peak(), time.process_time(), time.perf_counter()
    READERS[name](folder)
    results.put((time.process_time() - cpu, time.perf_counter() - begun, peak() - before))


def peak() -> float:
    """Of this process alone: `ru_maxrss` starts with that of the parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def in_process(target: Callable[..., None], *args: object) -> tuple[float, float, float]:
    """A process of its own, so that its peak is its own."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=target, args=(*args, results))
    process.start()
    found: tuple[float, float, float] = results.get()
    process.join()
    return found


def many_headers(folder: Path, series: int, slices: int) -> str:
    """Headers of many tiny series, one after the other; the series are hard links to one."""
    write_series(folder / "0", Grid(shape=(2, 2, slices)))
    for i in range(1, series):
        shutil.copytree(folder / "0", folder / str(i), copy_function=os.link)
    cpu, begun = time.process_time(), time.perf_counter()
    for i in range(series):
        read_header(folder / str(i))
    cpu, seconds = time.process_time() - cpu, time.perf_counter() - begun
    shutil.rmtree(folder)
    each = 1e3 * cpu / series / slices
    return (
        f"headers of {series} series × {slices} slices: {cpu:.1f} CPU s, {seconds:.1f} s, {each:.2f} ms each"
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--slices", type=int, default=300)
    args = parser.parse_args()
    large = args.folder / "large"
    if not large.exists():
        stored = np.random.default_rng(0).integers(-1024, 3000, LARGE.shape[:2], np.int16)
        write_series(large, LARGE, stored=np.broadcast_to(stored[..., None], LARGE.shape))
    print(f"{os.cpu_count()} CPUs; {' × '.join(map(str, LARGE.shape))}")
    print("| reader | CPU s | s | peak MiB |\n|---|---|---|---|")
    for name in READERS:
        cpu, seconds, memory = min(in_process(measure, name, large) for _ in range(3))
        print(f"| {name} | {cpu:.2f} | {seconds:.2f} | {memory:.0f} |")
    print(many_headers(args.folder / "many", args.series, args.slices))
    shutil.rmtree(large)


if __name__ == "__main__":
    main()
