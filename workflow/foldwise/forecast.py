"""From the peak memory of a job to what it asks for.

A forecast is the peak to be expected: a base for the interpreter and its libraries, what a stage holds of its
cases, and for training what a step keeps, counted on the network's shapes. What a job asks for (`mem_mb`) is
more: a margin, Snakemake's own share, and on jobs that may get a GPU that of its driver.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from math import ceil
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from foldwise.files import CaseError, read_json, short_hash, write_json
from foldwise.processes import end_with_parent

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


def remembered(
    system: str,
    model: Any,
    task: dict[str, Any],
    asked: Any,
    memory: Path,
    *,
    trying: bool = False,
    whole: bool = True,
) -> Step:
    """Count what a step of a model holds, or recall it.

    This needs torch, so another process does it: the user's own Snakemake, which runs for days on a login
    node, shall not hold it.

    Args:
        system: its name.
        model: its settings.
        task: what is learnt.
        asked: what of these the count depends on, as plain values.
        memory: JSON file that remembers counts; it may be missing.
        trying: also try everything else that a training makes of the settings. This is recalled only if all
            of them, the files that they name, the libraries and this code are the same.
        whole: false before a plan is made, when nothing can be counted (see `try_model`).

    Raises:
        CaseError: everything for which a training would refuse the settings; the other process ended early.
    """
    key = short_hash([sorted(Step.__annotations__), asked], 16)
    tried = None
    if trying:
        given = model.model_dump(mode="json")
        tried = short_hash([_versions(), system, given, task, whole, _files(given)], 16)
    known = read_json(memory) if memory.exists() else {}
    if (whole and key not in known) or (tried and tried not in known):
        step = _elsewhere(_try_model if tried else _counted, system, model, task, whole)
        known |= ({key: asdict(step)} if whole else {}) | ({tried: True} if tried else {})
        write_json(memory, known)
    return Step(**known[key]) if whole else Step(0, 0, 0, 0)


def try_regions(weights: Path, memory: Path) -> None:
    """Read MedSAM's weights as its stage does, or recall that it went well.

    Raises:
        CaseError: they are not MedSAM's.
    """
    key = short_hash([_versions(), _files(str(weights))], 16)
    known = read_json(memory) if memory.exists() else {}
    if key not in known:
        _elsewhere(_try_regions, weights)
        write_json(memory, {**known, key: True})


def _elsewhere(work: Callable[..., Any], *given: Any) -> Any:
    """What a function gives in the process that may import torch.

    Raises:
        CaseError: as the function; or the process was killed.
    """
    try:
        return _counter().submit(work, *given).result()
    except BrokenProcessPool as error:
        _counter.cache_clear()
        raise CaseError(
            "the process that tries networks was killed, most likely because memory ran out: it takes about "
            "1 GiB on the machine on which Snakemake is called"
        ) from error


@cache
def _versions() -> list[str]:
    """Of the libraries, and of Foldwise's own code."""
    code = sorted(Path(__file__).parent.rglob("*.py"))
    libraries = [version(name) for name in ("torch", "torchvision", "monai", "transformers")]
    return [*libraries, short_hash([path.read_text(encoding="utf-8") for path in code])]


def _files(given: Any) -> list[Any]:
    """Name, size and time of change of every file that settings name, and of those in folders."""
    if isinstance(given, dict | list):
        return [
            found for one in (given.values() if isinstance(given, dict) else given) for found in _files(one)
        ]
    if not isinstance(given, str) or not given:
        return []
    path = Path(given)
    try:
        stats = [(one, one.stat()) for one in (sorted(path.iterdir()) if path.is_dir() else [path])]
    except (OSError, ValueError):  # no name of a file
        return []
    return [[str(one), stat.st_size, stat.st_mtime_ns] for one, stat in stats]


def forget_counter() -> None:
    """End the process that counts, if there is one, and free its memory."""
    if _counter.cache_info().currsize:
        _counter().shutdown()
        _counter.cache_clear()


@cache
def _counter() -> ProcessPoolExecutor:
    # Without its parent it would wait for work for ever.
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=end_with_parent)


def _counted(system: str, model: Any, task: dict[str, Any], whole: bool) -> Step:
    from foldwise.systems import load
    from foldwise.training.memory import count_step

    return count_step(load(system, model, task))


def _try_model(*arguments: Any) -> Step:
    from foldwise.training.trial import try_model

    return try_model(*arguments)


def _try_regions(weights: Path) -> None:
    from foldwise.networks.medsam import load_medsam

    load_medsam(weights)


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
    lines = ["stage        peak (MiB)  job asks (MiB)  largest case"]
    lines += [f"{stage:12} {peak:10}  {asked_mib(stage, peak):14}  {which}" for stage, peak, which in peaks]
    return "\n".join([*lines, f"disk: about {disk_mib / 1024:.2f} GiB for {cases} cases"])
