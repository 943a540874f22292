"""From the peak memory of a job to what it asks for.

A forecast is the peak to be expected: a base for the interpreter and its libraries, what a stage holds of its
cases, and for training what a step keeps, counted on the network's shapes. What a job asks for (`mem_mb`) is
more: a margin, Snakemake's own share, and on jobs that may get a GPU that of its driver.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from tabulate import tabulate

# Peak memory before a stage holds any data, in MiB: without torch, and with it.
BASE_MIB = 230
TORCH_MIB = 560
# Each process that reads training data, beside what it shares.
WORKER_MIB = 60
WORKERS = 4

# A job asks for a fifth more than the forecast, and for the Snakemake that runs within it.
MARGIN = 1.2
SNAKEMAKE_MIB = 300
# A GPU job's share of main memory for the driver and its libraries.
CUDA_MIB = 3000
GPU_STAGES = ("features", "clip_features", "train", "test", "ensemble", "predict")
SMALL_MIB = {"check": 600, "index": 200, "plan": 900, "export": 900, "report": 600}


@dataclass(frozen=True)
class Step:
    """What a network holds, in bytes unless said otherwise; a training step is of one batch.

    Attributes:
        weights: numbers in the network.
        kept: what a forward pass keeps for the backward one.
        largest: the largest tensor that is kept.
        forward: the most that a forward pass holds at once which keeps nothing, input left out.
    """

    weights: int
    kept: int
    largest: int
    forward: int


def processes_mib(gpus: int, own: float) -> float:
    """Peak of the processes of a training, whatever their shares of the batch; without the batch.

    Args:
        gpus: their number.
        own: what each holds: libraries, weights, readers. MiB.
    """
    return own if gpus == 1 else gpus * max(own, CUDA_MIB)


def asked_mib(stage: str, peak: float, attempt: int = 1) -> int:
    """Memory that a job asks for in MiB, rounded up to 100; a retry asks for half as much again.

    Args:
        stage: name of the rule.
        peak: the forecast.
        attempt: number of the try, from 1.
    """
    least = CUDA_MIB if stage in GPU_STAGES else 0
    made = max(MARGIN * peak, least) * (1 + 0.5 * (attempt - 1)) + SNAKEMAKE_MIB
    # The Slurm plugin's own job step needs about one GiB.
    return max(1000, 100 * ceil(made / 100))


def table(peaks: Sequence[tuple[str, int, str]], disk_mib: float, cases: int) -> str:
    """What check prints.

    Args:
        peaks: stage, peak in MiB, and the case or model that it is of.
        disk_mib: disk of all cases.
        cases: their number.
    """
    rows = [(stage, peak, asked_mib(stage, peak), which) for stage, peak, which in peaks]
    made = tabulate(rows, ("stage", "peak (MiB)", "job asks (MiB)", "largest case"), tablefmt="plain")
    return f"{made}\ndisk: about {disk_mib / 1024:.2f} GiB for {cases} cases"
