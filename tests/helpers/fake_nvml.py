"""A stand-in for NVIDIA's `pynvml`, and where it lies: `install` puts a copy of this file under that name.

The GPUs are those of a file beside it, which is read anew in every call: a list of
{"uuid", "name", "mib", "used", "rate"}, and perhaps "minor", the number of its device file (by default one
that does not exist), and "cuda", the newest one that the driver supports. One with "parts", a list of the
same, is divided (MIG); a part has no "rate". {"broken": true} is a GPU that does not answer.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NVML_DEVICE_MIG_DISABLE = 0
Install = Callable[..., None]


class NVMLError(Exception):
    """As NVIDIA's."""


class NVMLError_LibraryNotFound(NVMLError):  # noqa: N801, N818
    """There is no driver."""


class NVMLError_DriverNotLoaded(NVMLError):  # noqa: N801, N818
    """There is one, but it does not run."""


def install(folder: Path, gpus: Sequence[Any]) -> Path:
    """Put the stand-in with these GPUs into a folder for PYTHONPATH; also to change the GPUs."""
    folder.mkdir(exist_ok=True)
    shutil.copy(__file__, folder / "pynvml.py")
    (folder / "new.json").write_text(json.dumps(list(gpus)), encoding="utf-8")
    (folder / "new.json").replace(folder / "gpus.json")
    return folder


@contextmanager
def fake_machine(folder: Path, monkeypatch: Any) -> Iterator[Install]:
    """A function that puts GPUs into the machine of this process and of those that it starts."""
    from foldwise.gpus import VISIBLE, nvml

    def put(*gpus: Any) -> None:
        install(folder, gpus)
        nvml.cache_clear()
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *sys.path]))

    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.delenv(VISIBLE, raising=False)
    yield put
    nvml.cache_clear()
    sys.modules.pop("pynvml", None)


def gpu(**more: Any) -> dict[str, Any]:
    """A GPU with a name that no other test, nor a job on this machine, uses."""
    return {"uuid": f"GPU-{uuid.uuid4()}", "name": "Fake", "mib": 16384, "used": 0, "rate": 0, **more}


def _gpus() -> list[dict[str, Any]]:
    return list(json.loads(Path(__file__).with_name("gpus.json").read_text(encoding="utf-8")))


def _of(handle: Sequence[int]) -> dict[str, Any]:
    number, *place = handle
    whole = _gpus()[number]
    found: dict[str, Any] = whole["parts"][place[0]] if place else whole
    if "broken" in found:
        raise NVMLError("GPU is lost")
    return found


def nvmlInit() -> None:  # noqa: N802
    if not _gpus():
        raise NVMLError_LibraryNotFound("NVML Shared Library Not Found")
    if _gpus() == ["mismatch"]:
        raise NVMLError("Driver/library version mismatch")


def nvmlSystemGetDriverVersion() -> str:  # noqa: N802
    return "999.1"


def nvmlSystemGetCudaDriverVersion() -> int:  # noqa: N802
    return int(_gpus()[0].get("cuda", 13020))


def nvmlDeviceGetMinorNumber(handle: Any) -> int:  # noqa: N802
    return int(_of(handle).get("minor", 9999))


def nvmlDeviceGetCount() -> int:  # noqa: N802
    return len(_gpus())


def nvmlDeviceGetHandleByIndex(index: int) -> Any:  # noqa: N802
    _of([index])
    return (index,)


def nvmlDeviceGetMigMode(device: Any) -> list[int]:  # noqa: N802
    if "parts" not in _of(device):
        raise NVMLError("Not Supported")
    return [1, 1]


def nvmlDeviceGetMaxMigDeviceCount(device: Any) -> int:  # noqa: N802
    return 7


def nvmlDeviceGetMigDeviceHandleByIndex(device: Any, index: int) -> Any:  # noqa: N802
    if index >= len(_of(device)["parts"]):
        raise NVMLError("Not Found")
    return (*device, index)


def nvmlDeviceGetUUID(handle: Any) -> str:  # noqa: N802
    return str(_of(handle)["uuid"])


def nvmlDeviceGetName(handle: Any) -> str:  # noqa: N802
    return str(_of(handle)["name"])


def nvmlDeviceGetMemoryInfo(handle: Any, version: Any = None) -> Any:  # noqa: N802
    found = _of(handle)
    return SimpleNamespace(total=found["mib"] * 2**20, used=found["used"] * 2**20)


def nvmlDeviceGetUtilizationRates(handle: Any) -> Any:  # noqa: N802
    found = _of(handle)
    if "rate" not in found:
        raise NVMLError("Not Supported")
    return SimpleNamespace(gpu=found["rate"], memory=0)
