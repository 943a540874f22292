"""From a job's peak memory to its request.

A forecast is the expected peak: a base for the interpreter and its libraries, what a stage holds of its
cases, and for training the memory of a step, counted on the network's shapes. The request (`mem_mb`) is
larger: it adds a margin, Snakemake's own share, and for jobs that may get a GPU that of its driver.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from tabulate import tabulate

# Peak memory before a stage holds any data, in MiB: without torch, and with it.
BASE_MIB = 230
TORCH_MIB = 560
# Each process that reads training data, in addition to what it shares.
WORKER_MIB = 60
WORKERS = 4

# Bytes of a network's values that a slow GPU computes per second in a forward pass.
VALUES_PER_SECOND = 2e10

# A job requests a fifth more than the forecast, plus the Snakemake process that runs within it.
MARGIN = 1.2
SNAKEMAKE_MIB = 300
# A GPU job's share of main memory for the driver and its libraries.
CUDA_MIB = 3000
GPU_STAGES = ("features", "encode", "train", "test", "perturb", "ensemble", "predict")
ALIGNED = ("left", "right", "right", "right", "left", "right", "right")
SMALL_MIB = {"check": 600, "index": 200, "plan": 900, "metrics": 400, "report": 600}


@dataclass(frozen=True)
class Step:
    """What a network holds, in bytes unless stated otherwise; a training step has one batch.

    Attributes:
        weights: number of the network's values.
        kept: what a forward pass keeps for the backward one.
        largest: the largest kept tensor.
        forward: peak of a forward pass that keeps nothing, without the input.
    """

    weights: int
    kept: int
    largest: int
    forward: int


def forward_seconds(step: Step, batch: int) -> float:
    """Expected time of a forward pass of one item of a batch on a slow GPU, in s.

    Args:
        step: of the training, whose values take as long to compute as to keep.
        batch: items of the training's batch.
    """
    return step.kept / batch / VALUES_PER_SECOND


def processes_mib(gpus: int, own: float) -> float:
    """Peak of the processes of a training, however they share the batch; without the batch itself.

    Args:
        gpus: their number.
        own: what each process holds: libraries, weights, readers. MiB.
    """
    return own if gpus == 1 else gpus * max(own, CUDA_MIB)


def asked_mib(stage: str, peak: float, attempt: int = 1) -> int:
    """Memory that a job requests in MiB, rounded up to 100; each retry adds half as much again.

    Args:
        stage: name of the rule.
        peak: the forecast.
        attempt: number of the try, from 1.
    """
    least = CUDA_MIB if stage in GPU_STAGES else 0
    requested = max(MARGIN * peak, least) * (1 + 0.5 * (attempt - 1)) + SNAKEMAKE_MIB
    # The Slurm plugin's own job step needs about one GiB.
    return max(1000, 100 * ceil(requested / 100))


@dataclass(frozen=True)
class Row:
    """A stage in the table of the check.

    Attributes:
        stage: name of the rule.
        which: the case or the model that needs the most memory.
        peak: of its job; None: it has no memory of its own. MiB.
        minutes: the time that its job requests; None: it has no job of its own.
        left: disk space that all of its jobs leave. MiB.
        passing: what they need besides while they run. MiB.
    """

    stage: str
    which: str
    peak: float | None = None
    left: float = 0.0
    passing: float = 0.0
    minutes: int | None = None


def table(rows: Sequence[Row]) -> str:
    """The table that check prints: memory and time of each stage's largest job, disk space of all of them."""
    lines = [
        (
            row.stage,
            None if row.peak is None else round(row.peak),
            None if row.peak is None else asked_mib(row.stage, row.peak),
            row.minutes,
            row.which,
            _gib(row.left),
            _gib(row.passing) if row.passing else None,
        )
        for row in rows
    ]
    left, passing = sum(row.left for row in rows), sum(row.passing for row in rows)
    lines.append(("total", None, None, None, "", _gib(left), _gib(passing)))
    heads = ("stage", "peak (MiB)", "requests (MiB)", "(min)", "largest", "disk (GiB)", "while it runs (GiB)")
    return tabulate(lines, heads, tablefmt="plain", disable_numparse=True, colalign=ALIGNED)


def _gib(mib: float) -> str:
    return f"{mib / 1024:.2f}" if mib >= 5 else "<0.01"
