"""A `python` whose commands are forks of one process, which has done the imports that take ten seconds.

`python -m module …`, here and in the jobs of a Snakemake started by it, has its own arguments, folder,
environment, parent and open files, as in a process of its own.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HELPERS = ROOT / "tests" / "helpers"


@cache
def python(package: Path = ROOT / "workflow") -> str:
    """The interpreter; its process starts with the first call, and ends with this one.

    Args:
        package: the folder to import `foldwise` from.
    """
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    interpreter, address = folder / "python", str(folder / "socket")
    client = Path(__file__).with_name("warm_client.py")
    words = [sys.executable, "-IS", str(client), address, sys.executable]
    interpreter.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    interpreter.chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, __file__, address, str(interpreter)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (package, HELPERS)))},
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    # In the reverse order.
    atexit.register(shutil.rmtree, folder)
    atexit.register(server.wait)
    atexit.register(server.terminate)
    return str(interpreter)


def _serve(address: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen(64)
        print("ready", flush=True)
        while True:
            link, _ = door.accept()
            if not os.fork():
                door.close()
                _answer(link)
            link.close()


def _answer(link: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, streams, _, _ = socket.recv_fds(link, 8, 3)
    with link.makefile("rb") as file:
        arguments, folder, environment, parent = json.loads(file.read(int.from_bytes(head, "big")))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    forked, real = os.getppid(), os.getppid
    os.getppid = lambda: parent if real() == forked else 1
    # Another program in this process would not answer.
    os.execv = lambda path, words: sys.exit(subprocess.call([path, *words[1:]]))
    more = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in sys.path]
    # The first was this file's folder; `-m` puts the present one there.
    sys.path[:1] = [str(Path.cwd()), *filter(None, more)]
    importlib.invalidate_caches()
    # A test may bring its own, but torch has imported NVIDIA's.
    sys.modules.pop("pynvml", None)
    if arguments[0] in ("snakemake", "foldwise.stages.check"):
        _start_counter()
    link.sendall(os.getpid().to_bytes(8, "big"))
    threading.Thread(target=_end_with, args=(link,), daemon=True).start()
    code = _command(arguments)
    link.sendall(bytes([code & 255]))
    # Tidying so many modules away takes seconds.
    os._exit(code & 255)


def _end_with(link: socket.socket) -> None:
    """Let a signal that kills the client kill this process, too."""
    link.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


def _command(arguments: list[str]) -> int:
    sys.argv = arguments
    code: Any = 0
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    # As an interpreter ends: pools and other threads, then what is registered.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


def _start_counter() -> None:
    """Fork the process that tries models, too, while there are no threads that could hold a lock."""
    from foldwise.experiment import trial

    spawn, fork = trial.get_context, multiprocessing.get_context("fork")
    trial.get_context = lambda method: fork  # type: ignore[assignment]
    trial._counter().submit(int).result()
    trial.get_context = spawn


def _warm_up() -> None:
    import highdicom  # noqa: F401
    import lightning_fabric  # noqa: F401
    import monai.losses
    import monai.networks.nets  # noqa: F401
    import snakemake.cli  # noqa: F401
    import torch
    import torchvision.models  # noqa: F401
    import transformers  # noqa: F401

    import foldwise.experiment.trial
    import foldwise.processes
    import foldwise.report.page
    import foldwise.training.job
    import foldwise.volumes.prepare

    foldwise.processes.end_with_parent()
    torch.set_num_threads(1)
    # A fork copies what the garbage collector touches.
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    _warm_up()
    # What is started from here is as quick.
    sys.executable = sys.argv[2]
    _serve(sys.argv[1])
