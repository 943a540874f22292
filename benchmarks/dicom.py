"""Reading a DICOM series beside SimpleITK's reader, and two dry runs of an experiment with many series.

    python benchmarks/dicom.py --folder EMPTY [--series 1000] [--slices 300]

EMPTY is a folder for generated files, which are deleted afterwards: 400 slices of 512×512 (210 MB), then an
experiment with `--series` series of `--slices` tiny slices (1 KB each). Which DICOM files a call opens is
counted by strace with a tenth of the series, since strace slows it down.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset

from foldwise.volumes.volume import Volume, read_header, read_volume, write_volume

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from dicom_files import Grid, write_series

ROOT = Path(__file__).parents[1]
LARGE = Grid(shape=(512, 512, 400))
# In place of the digits by which the patients of an experiment differ.
MARK = "100000"


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


def write_experiment(folder: Path, series: int, slices: int) -> None:
    """Scans of as many patients, which differ in their identifiers and a column of voxels."""

    def edit(z: int, one: Dataset) -> None:
        one.PatientID, one.StudyInstanceUID, one.SeriesInstanceUID = MARK, f"1.2.{MARK}", f"1.2.{MARK}.1"
        one.FrameOfReferenceUID, one.SOPInstanceUID = f"1.2.{MARK}.2", f"1.2.{MARK}.3.{z + 1}"
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID

    first = folder / "first"
    write_series(first, Grid(shape=(2, 2, slices)), edit=edit)
    contents = {path.name: path.read_bytes() for path in first.iterdir()}
    affine = read_header(first).affine
    shutil.rmtree(first)
    rows = ["case,group,image,label"]
    for number in range(series):
        name = str(int(MARK) + number)
        (folder / name).mkdir()
        for file, content in contents.items():
            changed = content.replace(MARK.encode(), name.encode())
            # The last pixel differs, too.
            (folder / name / file).write_bytes(changed[:-2] + number.to_bytes(2, "little"))
        label = np.zeros((2, 2, slices), np.uint8)
        label[0, 0, number % slices] = 1
        write_volume(Volume(label, affine), folder / f"{name}.nii")
        rows.append(f"{name},{name},{name},{name}.nii")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    model = {"network": {"name": "UNet", "channels": [4, 8], "strides": [2]}, "patch": [16, 16, 16]}
    settings = {
        "experiment": "many",
        "results": "results",
        "data": {"sheet": "cases.csv", "labels": {"tumour": 1}},
        "prepare": {"crop": {"to": "none"}},
        "models": {"unet": model},
    }
    (folder / "experiment.yaml").write_text(json.dumps(settings))


def dry_run(folder: Path, *before: str) -> tuple[float, float]:
    """CPU seconds and seconds of a dry run in the folder."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "-n", "--quiet"]
    command += ["all", "--profile", str(ROOT / "profiles" / "local"), "--configfile", "experiment.yaml"]
    used, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([*before, *command], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    now, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - begun
    return now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime, seconds


def opens(folder: Path) -> int:
    """How many times a dry run opens a DICOM file."""
    trace = folder / "trace.txt"
    dry_run(folder, "strace", "-f", "--seccomp-bpf", "-e", "trace=open,openat", "-o", str(trace))
    return len(re.findall(r"/IM\d+\", O_RDONLY", trace.read_text(errors="replace")))


def many_series(folder: Path, series: int, slices: int) -> None:
    """Print what the first and the second dry run cost."""
    write_experiment(folder / "many", series, slices)
    print(f"dry runs with {series} series × {slices} slices\n\n| call | CPU s | s |\n|---|---|---|")
    for call in ("first", "second"):
        cpu, seconds = dry_run(folder / "many")
        print(f"| {call} | {cpu:.1f} | {seconds:.1f} |", flush=True)
    shutil.rmtree(folder / "many")
    if shutil.which("strace"):
        write_experiment(folder / "few", series // 10, slices)
        counts = [opens(folder / "few") for _ in range(2)]
        print(f"opens of {series // 10 * slices} files: first {counts[0]}, second {counts[1]}")
        shutil.rmtree(folder / "few")


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
    shutil.rmtree(large)
    many_series(args.folder, args.series, args.slices)


if __name__ == "__main__":
    main()
