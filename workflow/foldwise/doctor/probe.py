"""A process that imports what may be broken: `python -m foldwise.doctor.probe torch system:clips …`.

Each name gives two lines of JSON, before and after it, so that a crash or a hang shows where it was.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# A first import from a slow network disk takes minutes.
TIMEOUT_S = 300
# What is not tried if the other one is broken.
NEEDS = {"torchvision": "torch", "monai": "torch"}


def probed(names: Sequence[str], timeout_s: float = TIMEOUT_S) -> dict[str, dict[str, Any]]:
    """Name -> its facts, or `error`, why it cannot be imported; in processes of their own.

    Args:
        names: modules, or `system:<name>` for systems.
        timeout_s: for each process. Seconds.
    """
    found: dict[str, dict[str, Any]] = {}

    def untried(name: str) -> bool:
        return name not in found and "error" not in found.get(NEEDS.get(name, ""), {})

    while left := list(filter(untried, names)):
        text, end = _run(left, timeout_s)
        begun = left[0]
        for line in text.splitlines():
            if not line.startswith('{"probe"'):
                continue  # what a package prints
            row = json.loads(line)
            begun = row["probe"]
            if "facts" in row:
                found[begun] = row["facts"]
        # Where the process ended within an import, that one is broken, and the next process tries the others.
        found.setdefault(begun, {"error": end})
    return found


def _run(names: Sequence[str], timeout_s: float) -> tuple[str, str]:
    """Standard output of the process, and how it ended, in words."""
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    call = [sys.executable, "-P", "-m", "foldwise.doctor.probe", *names]
    try:
        done = subprocess.run(
            call,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired as late:
        said = late.stdout or b""
        text = said if isinstance(said, str) else said.decode(errors="replace")
        return text, f"its import did not end within {timeout_s:.0f} s"
    ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    last = done.stderr.strip().splitlines()[-1:] or [""]
    return done.stdout, f"its import ended Python with {ended} {last[0]}".strip()


def _torch() -> dict[str, Any]:
    import torch

    facts: dict[str, Any] = {"count": torch.cuda.device_count() if torch.cuda.is_available() else 0}
    try:
        for number in range(facts["count"]):
            torch.ones(1, device=f"cuda:{number}").add_(1).item()
        if not facts["count"]:
            torch.cuda.init()
    except Exception as error:
        facts["cuda"] = str(error).strip().splitlines()[0]
    return facts


def _facts(name: str) -> dict[str, Any]:
    kind, _, system = name.rpartition(":")
    if kind:
        from foldwise.systems import origin, system_of

        system_of(system)
        return {"origin": origin(system)}
    special: dict[str, Callable[[], dict[str, Any]]] = {"torch": _torch}
    if name in special:
        return special[name]()
    importlib.import_module(name)
    return {}


def main() -> None:
    """Import what the command line names."""
    for name in sys.argv[1:]:
        print(json.dumps({"probe": name}), flush=True)
        try:
            facts = _facts(name)
        except BaseException as error:  # a broken package raises anything
            text = str(error).strip().splitlines() or [""]
            facts = {"error": f"{type(error).__name__}: {text[0]}"}
        print(json.dumps({"probe": name, "facts": facts}), flush=True)


if __name__ == "__main__":
    main()
