"""What PyTorch was built for, and what NVIDIA's driver offers. Neither torch nor CUDA is started."""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from foldwise.gpus import driver, held, nvml
from foldwise.places import ROOT

# CUDA's major version -> the oldest driver for Linux that runs programs built for it.
OLDEST = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
# The lock files: without CUDA, and by its major version.
LOCKS = {None: "requirements-cpu.txt", 12: "requirements-cuda12.txt", 13: "requirements.txt"}


@dataclass(frozen=True)
class Build:
    """How the installed PyTorch was built.

    Attributes:
        version: of PyTorch.
        cuda: version of CUDA, e.g. "13.0"; None: built for the CPU alone, or for another maker's GPUs.
    """

    version: str
    cuda: str | None

    @property
    def text(self) -> str:
        """In words."""
        return f"PyTorch {self.version}, built for {f'CUDA {self.cuda}' if self.cuda else 'the CPU alone'}"


def torch_build() -> Build | None:
    """How PyTorch was built, from a file of its package; None: it is not installed, or damaged."""
    try:
        spec = find_spec("torch")
        if spec is None or spec.origin is None:
            return None
        found = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
        return Build(str(found["__version__"]), found["cuda"])
    except Exception:  # whatever the remains of a package raise
        return None


def offered() -> tuple[int, int] | None:
    """The newest CUDA, as (major, minor), that the driver supports; None: it is not known."""
    library = nvml()
    if library is None:
        return None
    try:
        version = int(library.nvmlSystemGetCudaDriverVersion())
    except library.NVMLError:
        return None
    return version // 1000, version % 1000 // 10


def driver_text() -> str:
    """The driver in words."""
    version, newest = driver(), offered()
    if version is None:
        return "NVIDIA's driver does not answer"
    return f"driver {version}" + (f", for CUDA up to {newest[0]}.{newest[1]}" if newest else "")


def advice(build: Build | None) -> str | None:
    """What to do so that this build can use the GPUs that are here; None: nothing speaks against it.

    A build runs with every driver for the same major version of CUDA or a newer one.
    """
    newest = offered()
    lock = (
        ROOT
        / "envs"
        / LOCKS[max((key for key in LOCKS if key and newest and key <= newest[0]), default=None)]
    )
    if build is None:
        return f"install the packages in {lock}"
    if driver() is None:
        return (
            "call nvidia-smi on this machine: it shows why the driver does not answer. A container needs its "
            "option for GPUs (apptainer: --nv); after an update of the driver, restart the machine"
        )
    if build.cuda is None:
        return f"install PyTorch with CUDA, as in {lock}"
    major = int(build.cuda.split(".")[0])
    if newest is not None and newest[0] < major:
        least = f"driver {OLDEST[major]} or newer" if major in OLDEST else "a newer driver"
        return f"install the packages in {lock}, or {least}"
    return None


def idle_gpus() -> str | None:
    """Why GPUs that this process holds cannot be used, and what to do, as far as is known without CUDA."""
    names = held()
    if not names:
        return None
    build = torch_build()
    todo = advice(build)
    if todo is None:
        return None
    return f"{', '.join(names)}: {build.text if build else 'no PyTorch'}; {driver_text()}. What helps: {todo}"
