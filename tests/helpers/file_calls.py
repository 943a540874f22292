"""File-system calls of a command and of all processes that it starts, by strace."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Also of processes that begin and of links between them, to know who calls.
TRACED = "trace=%file,clone,clone3,vfork,fork"


@dataclass(frozen=True)
class Call:
    """A call that names a file.

    Attributes:
        name: of the system call.
        path: as given.
        program: arguments of the process's last program, joined by spaces.
        ok: whether it succeeded.
        writes: whether a file is opened to be written.
    """

    name: str
    path: str
    program: str
    ok: bool
    writes: bool

    @property
    def inner(self) -> bool:
        """Whether it is about a file of the working folder, which is named relative to it by Foldwise."""
        return not self.path.startswith("/") and not self.path.startswith(".snakemake")


def available() -> bool:
    """Whether strace is installed, and may look into a process here."""
    return (
        shutil.which("strace") is not None
        and not subprocess.run(["strace", "-o", "/dev/null", "true"]).returncode
    )


def calls_of(
    command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None, *, delay_ms: float = 0
) -> list[Call]:
    """Run a command in a folder, and return its calls; its output is in the file `output` there.

    Args:
        command: program and arguments.
        folder: working folder.
        env: more of the environment.
        delay_ms: time by which each call is delayed.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    trace = folder.with_name(f"{folder.name}.trace")
    tracing = ["strace", "-f", "-qq", "--seccomp-bpf", "-s", "400", "-e", TRACED, "-o", str(trace)]
    if delay_ms:
        tracing += [f"--inject=%file:delay_enter={round(1000 * delay_ms)}"]
    with (folder / "output").open("w") as output:
        subprocess.run(
            [*tracing, *command],
            cwd=folder,
            env={**os.environ, **(env or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
            check=True,
        )
    return _parsed(trace.read_text(errors="replace"))


def _parsed(text: str) -> list[Call]:
    programs: dict[str, str] = {}
    began: dict[str, str] = {}
    calls = []
    for line in text.splitlines():
        pid, _, said = line.partition(" ")
        said = said.strip()
        if said.endswith("<unfinished ...>"):
            began[pid] = said.removesuffix("<unfinished ...>")
            continue
        if said.startswith("<..."):
            said = began.pop(pid, "") + re.sub(r"^<\.\.\. \w+ resumed>", "", said)
        if made := re.match(r"(clone3?|v?fork)\(.*= (\d+)", said):
            programs.setdefault(made[2], programs.get(pid, ""))
            continue
        # A path that is empty is a file that is open already.
        found = re.match(r'(\w+)\((?:AT_FDCWD, )?"((?:[^"\\]|\\.)+)"', said)
        if not found:
            continue
        ok = re.search(r"= -1 E\w+", said) is None
        if found[1] == "execve" and ok:
            arguments = re.findall(r'"((?:[^"\\]|\\.)*)"', said.partition("[")[2].rpartition("]")[0])
            programs[pid] = " ".join(arguments)
        writes = re.search(r"O_WRONLY|O_RDWR|O_CREAT", said) is not None
        calls.append(Call(found[1], found[2], programs.get(pid, ""), ok, writes))
    return calls
