"""How busy a job's GPUs were: a thread samples them while the job runs; without a GPU there is none."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from foldwise.experiment.settings import Device
from foldwise.gpus import Gpu, hidden, nvml, taken, usable_gpus

# Between two samples. s.
INTERVAL_S = 5.0
# The last line of a GPU job's log, which the report reads.
LINE = re.compile(r"GPU: (?:busy (\d+) %, )?at most (\d+) MiB, (\d+) samples")
# In the environment of everything that a GPU job starts: the GPUs are taken, and watched.
# Its value is the setting `device`.
WITHIN = "FOLDWISE_WITHIN_GPU_JOB"


class Sampler:
    """Samples GPUs in a thread: the share of time in which they computed, and the memory that is in use."""

    def __init__(self, gpus: Sequence[Gpu]) -> None:
        """Watch these GPUs from `start` to `stop`."""
        self._gpus, self._library = gpus, nvml()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._samples, self._peak = 0, 0.0
        self._known, self._sum = 0, 0.0

    def start(self) -> None:
        """Begin to sample."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more samples."""
        self._ended.set()
        self._thread.join()

    @property
    def facts(self) -> dict[str, Any] | None:
        """What was seen so far; None before the first sample.

        Returns:
            `busy`, the share of the time in which the GPUs computed (0 to 1, the mean; None if a GPU does not
            tell); `peak_mib`, the most memory in use on one GPU, by all programs; `samples`, their number.
        """
        if not self._samples:
            return None
        busy = round(self._sum / self._known, 4) if self._known else None
        return {"busy": busy, "peak_mib": round(self._peak), "samples": self._samples}

    def sample(self) -> None:
        """Look once."""
        rates = [rate for gpu in self._gpus if (rate := self._ask(self._rate, gpu)) is not None]
        used = [mib for gpu in self._gpus if (mib := self._ask(self._used, gpu)) is not None]
        if rates:
            self._sum, self._known = self._sum + sum(rates) / len(rates), self._known + 1
        if used:
            self._peak, self._samples = max(self._peak, *used), self._samples + 1

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL_S):
            self.sample()

    def _ask(self, question: Any, gpu: Gpu) -> float | None:
        try:
            return float(question(gpu.handle))
        except self._library.NVMLError:  # part of a divided GPU tells no rate; or the GPU was lost
            return None

    def _rate(self, handle: Any) -> float:
        return float(self._library.nvmlDeviceGetUtilizationRates(handle).gpu) / 100

    def _used(self, handle: Any) -> float:
        return float(self._library.nvmlDeviceGetMemoryInfo(handle).used) / 2**20


_current: Sampler | None = None


@contextmanager
def gpu_job(gpus: int, *, take: bool, device: Device = "auto") -> Iterator[None]:
    """Run the block as a job that uses GPUs, watch these, and log at the end how busy they were.

    Within another such job, e.g. in a further process of a training, nothing is done.

    Args:
        gpus: number of GPUs.
        take: take free ones of this machine, which other jobs use, too; otherwise the first ones that the
            process sees are its own, as in a job of Slurm.
        device: the setting, for foldwise.device.chosen_device; with `cpu`, the block sees no GPU.
    """
    if not gpus or WITHIN in os.environ:
        yield
        return
    os.environ[WITHIN] = device
    try:
        if device == "cpu":
            with hidden():
                yield
        elif take:
            with taken(gpus) as mine, _watched(mine):
                yield
        else:
            with _watched(usable_gpus()[:gpus]):
                yield
    finally:
        os.environ.pop(WITHIN)


@contextmanager
def _watched(gpus: Sequence[Gpu]) -> Iterator[None]:
    global _current
    if not gpus:
        yield
        return
    _current = sampler = Sampler(gpus)
    sampler.start()
    try:
        yield
    finally:
        sampler.stop()
        _current = None
        if facts := sampler.facts:
            busy = "" if facts["busy"] is None else f"busy {100 * facts['busy']:.0f} %, "
            logging.info("GPU: %sat most %d MiB, %d samples", busy, facts["peak_mib"], facts["samples"])


def sampled() -> dict[str, Any] | None:
    """What the running job's GPUs did so far, see `Sampler.facts`; None without a GPU."""
    return _current.facts if _current else None


def read_from(log: str) -> list[dict[str, Any]]:
    """The facts in the text of a job's log."""
    return [
        {"busy": int(busy) / 100 if busy else None, "peak_mib": int(mib), "samples": int(samples)}
        for busy, mib, samples in LINE.findall(log)
    ]


def joined(parts: Iterable[dict[str, Any] | None]) -> dict[str, Any] | None:
    """The facts of several jobs as those of one; None if there are none."""
    known = [part for part in parts if part]
    if not known:
        return None
    rated = [part for part in known if part["busy"] is not None]
    count = sum(part["samples"] for part in rated)
    busy = round(sum(part["busy"] * part["samples"] for part in rated) / count, 4) if count else None
    samples = sum(part["samples"] for part in known)
    return {"busy": busy, "peak_mib": max(part["peak_mib"] for part in known), "samples": samples}
