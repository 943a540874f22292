"""The GPUs of this machine: which there are, and taking free ones. No torch, since every call counts them."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

VISIBLE = "CUDA_VISIBLE_DEVICES"
# Device files of GPUs, without their number; and that of all GPUs in Windows' subsystem for Linux.
DEVICES, WINDOWS = Path("/dev/nvidia"), Path("/dev/dxg")
# Between two looks at GPUs that are all taken, and at a turn, which lasts milliseconds. s.
WAIT_S, TURN_S = 1.0, 0.01
_waited = 0.0


@dataclass(frozen=True)
class Gpu:
    """A GPU, or one part of a divided one (MIG).

    Attributes:
        uuid: its name for the driver, the same for all users and after every start of the machine.
        number: number of the GPU, as nvidia-smi counts.
        name: its model.
        mib: its memory, in MiB.
        handle: what NVML calls it.
    """

    uuid: str
    number: int
    name: str = field(compare=False)
    mib: float = field(compare=False)
    handle: Any = field(compare=False, repr=False)


@cache
def nvml() -> Any:
    """NVIDIA's library of the driver, which starts no CUDA; None without a driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return None
    except pynvml.NVMLError as error:
        logging.warning("no GPU is used, since NVIDIA's driver does not work: %s", error)
        return None
    return pynvml


def every_gpu() -> list[Gpu]:
    """All GPUs in the order of nvidia-smi; instead of a divided one, its parts."""
    library = nvml()
    if library is None:
        return []
    found = []
    for number in range(library.nvmlDeviceGetCount()):
        with suppress(library.NVMLError):  # broken, or another user's
            for handle in _parts(library, library.nvmlDeviceGetHandleByIndex(number)):
                name, uuid = library.nvmlDeviceGetName(handle), library.nvmlDeviceGetUUID(handle)
                mib = library.nvmlDeviceGetMemoryInfo(handle).total / 2**20
                found.append(Gpu(uuid, number, name, mib, handle))
    return found


def _parts(library: Any, whole: Any) -> list[Any]:
    """The parts of a divided GPU, of which a process can use no more than one; else the GPU itself."""
    try:
        divided, _ = library.nvmlDeviceGetMigMode(whole)
    except library.NVMLError:  # a model that cannot be divided
        divided = library.NVML_DEVICE_MIG_DISABLE
    if divided == library.NVML_DEVICE_MIG_DISABLE:
        return [whole]
    parts = []
    for place in range(library.nvmlDeviceGetMaxMigDeviceCount(whole)):
        with suppress(library.NVMLError):  # an empty place
            parts.append(library.nvmlDeviceGetMigDeviceHandleByIndex(whole, place))
    return parts


def usable_gpus() -> list[Gpu]:
    """The GPUs that this process may use.

    CUDA_VISIBLE_DEVICES names them, if it is set, by numbers of nvidia-smi or by UUIDs or their beginnings;
    as for CUDA, a wrong name ends the list, and a repeated one empties it. Else they are all with at least
    half the memory of the largest one: a smaller one is for a display.
    """
    found, given = every_gpu(), os.environ.get(VISIBLE)
    if given is None:
        most = max((gpu.mib for gpu in found), default=0)
        return [gpu for gpu in found if 2 * gpu.mib >= most]
    named: list[Gpu] = []
    for word in given.split(","):
        gpu = _named(word.strip(), found)
        if gpu is None:
            break
        if gpu in named:
            return []
        named.append(gpu)
    return named


def _named(word: str, found: Sequence[Gpu]) -> Gpu | None:
    if word.isdecimal():
        return next((gpu for gpu in found if gpu.number == int(word)), None)
    meant = [gpu for gpu in found if word.startswith(("GPU-", "MIG-")) and gpu.uuid.startswith(word)]
    return meant[0] if len(meant) == 1 else None


def held() -> list[str]:
    """Names of the GPUs that this process holds; each is a device that it may open.

    What the driver lists, or Slurm grants, is not enough: a cluster may declare GPUs that are none, and a
    container may hide them. They are those of `usable_gpus` with a device file, or, where the driver does not
    answer, all device files, unless CUDA_VISIBLE_DEVICES excludes every GPU.
    """
    if nvml() is None:
        first = os.environ.get(VISIBLE, "0").split(",")[0].strip()
        allowed = first.isdecimal() or first.startswith(("GPU-", "MIG-"))
        files = sorted(DEVICES.parent.glob(f"{DEVICES.name}[0-9]*")) if allowed else []
        return [str(path) for path in files if _opens(path)]
    return [gpu.name for gpu in usable_gpus() if _is_device(gpu)]


def _is_device(gpu: Gpu) -> bool:
    library = nvml()
    try:
        number = library.nvmlDeviceGetMinorNumber(library.nvmlDeviceGetHandleByIndex(gpu.number))
    except library.NVMLError:
        number = gpu.number
    return _opens(DEVICES.with_name(f"{DEVICES.name}{number}")) or _opens(WINDOWS)


def _opens(path: Path) -> bool:
    """Whether this process may use a device. Permissions do not tell: Slurm may forbid it, by cgroups."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def jobs_at_once() -> int:
    """How many jobs that use a GPU may run at a time: as many as there are GPUs; without any, one."""
    return max(1, len(usable_gpus()))


@contextmanager
def taken(wanted: int) -> Iterator[list[Gpu]]:
    """Hold free GPUs for the duration of the block, and let CUDA see no others.

    While too few are free, it waits. Everyone's jobs on this machine respect each other's; those with the
    most free memory come first, since other programs use GPUs, too.

    Args:
        wanted: number of GPUs; fewer are held if there are not as many.

    Yields:
        The GPUs; none without a GPU, or if CUDA_VISIBLE_DEVICES names none: then nothing is changed.
    """
    global _waited
    usable, begun = usable_gpus(), time.monotonic()
    wanted, before = min(wanted, len(usable)), os.environ.get(VISIBLE)
    if not wanted:
        yield []
        return
    with ExitStack() as held:
        said = False
        while not (mine := _take(usable, wanted, held)):
            if not said:
                names = ", ".join(_text(gpu) for gpu in usable)
                logging.info("waiting for %d free GPU(s): other jobs hold those of %s", wanted, names)
                said = True
            time.sleep(WAIT_S)
        _waited += time.monotonic() - begun
        logging.info("on GPU %s", ", ".join(_text(gpu) for gpu in mine))
        if before is None and (small := [gpu for gpu in every_gpu() if gpu not in usable]):
            names = ", ".join(_text(gpu) for gpu in small)
            logging.info("with too little memory, unless named in %s: GPU %s", VISIBLE, names)
        with _visible(",".join(gpu.uuid for gpu in mine)):
            yield mine


def hidden() -> AbstractContextManager[None]:
    """Let CUDA see no GPU for the duration of the block."""
    return _visible("")


@contextmanager
def _visible(names: str) -> Iterator[None]:
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = names
    try:
        yield
    finally:
        os.environ.pop(VISIBLE)
        if before is not None:
            os.environ[VISIBLE] = before


def waited_s() -> float:
    """How long this process has waited for GPUs, in seconds."""
    return _waited


def _take(usable: Sequence[Gpu], wanted: int, held: ExitStack) -> list[Gpu]:
    """Lock as many GPUs as wanted, until `held` is closed; or none, if too few are free."""
    # One job at a time looks, or two jobs that want two GPUs each could hold one each.
    while (turn := _locked("turn")) is None:
        time.sleep(TURN_S)
    with turn, ExitStack() as stack:
        mine: list[Gpu] = []
        for gpu in sorted(usable, key=_used_gib):
            if len(mine) < wanted and (lock := _locked(gpu.uuid)):
                stack.enter_context(lock)
                mine.append(gpu)
        if len(mine) < wanted:
            return []
        held.push(stack.pop_all())
    return sorted(mine, key=usable.index)


def _locked(name: str) -> socket.socket | None:
    """A lock among all processes of this machine, which the kernel frees with its process; None: it is held.

    It is an abstract name of Linux and no file: one in /tmp may be removed while it is held, and is not
    opened for every user (fs.protected_regular).
    """
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        lock.bind(f"\0foldwise GPU {name}")
    except OSError as error:
        lock.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return lock


def _used_gib(gpu: Gpu) -> int:
    """Memory in use in whole GiB; a display or an idle program uses less than half of one."""
    library = nvml()
    try:
        return round(library.nvmlDeviceGetMemoryInfo(gpu.handle).used / 2**30)
    except library.NVMLError:
        return 0


def _text(gpu: Gpu) -> str:
    return f"{gpu.number} ({gpu.name}, {gpu.uuid})"


def driver() -> str | None:
    """Version of NVIDIA's driver; None without one."""
    library = nvml()
    return None if library is None else str(library.nvmlSystemGetDriverVersion())
