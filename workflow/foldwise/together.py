"""Many requests of a stage in one process, so that interpreter, libraries and weights are loaded once.

Each request is what a single job would get: its outputs, their records and its log are those of that job. A
request that fails is named and leaves the others' outputs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foldwise.errors import OF_DISK, explained
from foldwise.files import CaseError, read_json, write_json

TOGETHER = "--together="
STARTED, FAILED, REFUSED = "started", "failed", "refused"


class Refused(str):
    """Why a case failed, if that is its input, so that another try would end alike."""


# The reason to note for each kind of failure.
REASONS: dict[str, type[str]] = {FAILED: str, REFUSED: Refused}


@dataclass(frozen=True)
class Request:
    """A request to a stage.

    Attributes:
        case: name of the case.
        words: of its command line.
        log: file for what it prints.
        inputs: files and folders that the outputs are made from.
        outputs: files that it writes.
    """

    case: str
    words: Sequence[str]
    log: str
    inputs: Sequence[str]
    outputs: Sequence[str]

    @property
    def is_needed(self) -> bool:
        """Whether an output is missing, or older than an input, as for Snakemake."""
        outputs = [Path(path) for path in self.outputs]
        if not all(path.exists() for path in outputs):
            return True
        newest = max((Path(path).stat().st_mtime_ns for path in self.inputs), default=0)
        return min(path.stat().st_mtime_ns for path in outputs) < newest


def answer(stage: str, requests: Sequence[Request], processes: int, threads: int) -> dict[str, str]:
    """Answer requests to a stage by a few processes, each of which answers many.

    Args:
        stage: name of the stage.
        requests: those that are needed.
        processes: how many there are at once.
        threads: of each process.

    Returns:
        Case → why it failed; `Refused` if another try would end alike.
    """
    shares = [list(requests[number::processes]) for number in range(min(processes, len(requests)))]
    with ThreadPoolExecutor(max(1, len(shares))) as pool:
        found = pool.map(lambda share: _answer(stage, share, threads), shares)
    return {case: why for failed in found for case, why in failed.items()}


def _answer(stage: str, requests: list[Request], threads: int) -> dict[str, str]:
    failed: dict[str, str] = {}
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory(prefix="foldwise-") as scratch:
        listed = Path(scratch) / "requests.json"
        told = listed.with_suffix(".told")
        while requests:
            write_json(listed, [asdict(request) for request in requests])
            told.write_text("", encoding="utf-8")
            done = subprocess.run([*command_of(stage), f"{TOGETHER}{listed}"], env=environment)
            lines = [line.split(" ", 2) for line in told.read_text(encoding="utf-8").splitlines()]
            failed |= {case: REASONS[what](why) for what, case, why in lines if what in REASONS}
            if not done.returncode:
                break
            started = [case for what, case, _ in lines if what == STARTED]
            if not started:
                raise CaseError(f"{stage}: ended with code {done.returncode} before its first case")
            # It was killed, e.g. since memory ran out; the cases after this one can still be prepared.
            failed[started[-1]] = f"{stage} ended with code {done.returncode}"
            requests = requests[len(started) :]
    return failed


def command_of(stage: str) -> list[str]:
    """The command of a stage."""
    return [sys.executable, "-m", f"foldwise.stages.{stage}"]


def run_all(listed: Path, run: Callable[[Sequence[str]], Any]) -> None:
    """Answer all requests in a file in this process, or those until the process that asked ends.

    Args:
        listed: JSON file with requests; which ones were started and which failed is noted beside it.
        run: answers the words of a request.
    """
    with listed.with_suffix(".told").open("a", encoding="utf-8") as told:

        def tell(what: str, case: str, why: str) -> None:
            print(what, case, " ".join(why.split()), file=told, flush=True)

        asking = os.getppid()
        for each in read_json(listed):
            if os.getppid() != asking:
                return  # it was killed, and another job may be answering the same requests
            tell(STARTED, each["case"], "-")
            with _logged(Path(each["log"])):
                if failure := _failure(run, each["words"]):
                    what, why = failure
                    tell(what, each["case"], why)


def _failure(run: Callable[[Sequence[str]], Any], words: Sequence[str]) -> tuple[str, str] | None:
    """Answer a request; returns how and why it failed, or nothing."""
    try:
        run(words)
    except (CaseError, OSError) as error:
        why = str(error) if isinstance(error, CaseError) else explained(error)
        print(f"error: {why}", file=sys.stderr)
        by_disk = getattr(error.__cause__, "errno", None) in OF_DISK
        return REFUSED if isinstance(error, CaseError) and not by_disk else FAILED, why
    except Exception as error:
        traceback.print_exc()
        return FAILED, f"{type(error).__name__}: {error}"
    return None


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Write what the block prints, and what libraries print, to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [os.dup(number) for number in (1, 2)]
    try:
        with path.open("w", encoding="utf-8") as log:
            for number in (1, 2):
                os.dup2(log.fileno(), number)
            yield
            sys.stdout.flush()
            sys.stderr.flush()
    finally:
        for number, own in enumerate(kept, start=1):
            os.dup2(own, number)
            os.close(own)
