"""Python commands in forks of one process that has already done ten seconds of imports.

A command behaves as in a separate process; only the imports are saved.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Done:
    """A command that has ended: its exit code, its output, its CPU seconds, and its peak in MiB."""

    code: int
    text: str
    seconds: float
    mib: int


class Warm:
    """The process; `close` ends it."""

    def __init__(self) -> None:
        paths = [str(ROOT / "workflow"), str(ROOT / "tests" / "helpers")]
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
        )

    def run(self, arguments: Sequence[str], folder: Path) -> Done:
        """Run `python -m module …`, where `arguments` follow -m, in a folder."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with tempfile.NamedTemporaryFile("r", encoding="utf-8") as log:
            print(json.dumps([list(arguments), str(folder), log.name]), file=process.stdin, flush=True)
            code, seconds, mib = json.loads(process.stdout.readline())
            return Done(code, log.read(), seconds, mib)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _serve() -> None:
    for line in sys.stdin:
        arguments, folder, log = json.loads(line)
        child = os.fork()
        if not child:
            os._exit(_command(arguments, folder, log))
        _, status, usage = os.wait4(child, 0)
        answer = [os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss // 1024]
        print(json.dumps(answer), flush=True)


def _command(arguments: list[str], folder: str, log: str) -> int:
    os.chdir(folder)
    file = os.open(log, os.O_WRONLY)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = arguments
    code: Any = 0
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


def _warm_up() -> None:
    import highdicom  # noqa: F401
    import monai.losses
    import monai.networks.nets  # noqa: F401
    import snakemake.cli  # noqa: F401
    import torch
    import torchvision.models  # noqa: F401
    import transformers  # noqa: F401

    import foldwise.experiment.trial

    torch.set_num_threads(1)
    # A fork copies what the garbage collector touches.
    gc.collect()
    gc.freeze()
    # The process that counts networks for the forecast is also forked, not started anew.
    fork = multiprocessing.get_context("fork")
    foldwise.experiment.trial.get_context = lambda method: fork  # type: ignore[assignment]


if __name__ == "__main__":
    _warm_up()
    _serve()
    # Nothing is left to clean up, and unloading so many modules takes seconds.
    os._exit(0)
