"""Tensors of a TorchScript archive, read without executing anything in it.

`torch.jit.load` compiles and may run the archive's code. Its numbers are in two places that can be read
alone: data.pkl, a pickle of the modules' attributes, and data/<n>, the raw bytes of each storage.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from foldwise.files import CaseError
from foldwise.training.pretrained import refuse_not_finite

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")


def read_torchscript(path: Path) -> dict[str, torch.Tensor]:
    """Parameters, buffers and other tensors of an archive, by name.

    Raises:
        CaseError: no archive, a damaged one, one with anything but modules, tensors and plain values, or
            numbers that are not finite. Nothing is executed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (found,) = (n for n in archive.namelist() if n.partition("/")[2] == "data.pkl")
            with archive.open(found) as file:
                root = _Reader(file, archive, found.removesuffix("data.pkl")).load()
        weights: dict[str, torch.Tensor] = {}
        _collect(root, "", weights)
    except Exception as error:  # foreign files raise any type
        raise CaseError(
            f"{path}: not readable as a TorchScript archive ({error}); nothing in it was executed"
        ) from error
    refuse_not_finite(weights, path)
    return weights


class _Module:
    """A module of the archive: its attributes, without its class."""

    attributes: Any = None

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


class _Reader(pickle.Unpickler):
    """Knows only modules without code, tensors, and lists of plain values."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self.archive, self.folder = archive, folder
        self.storages: dict[str, torch.Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return _Module
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle" and name in LISTS:
            return list
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")

    def persistent_load(self, pid: Any) -> torch.Tensor:
        _, dtype, key, _, count = pid
        if key not in self.storages:
            data = bytearray(self.archive.read(f"{self.folder}data/{key}"))
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        if self.storages[key].dtype != dtype or len(self.storages[key]) != count:
            raise pickle.UnpicklingError(f"data/{key} does not have {count} numbers of {dtype}")
        return self.storages[key]


def _tensor(storage: torch.Tensor, offset: int, shape: Any, strides: Any, *_: Any) -> torch.Tensor:
    """A tensor in a storage; `as_strided` refuses one that exceeds it."""
    if math.prod(shape) == 0:
        return torch.empty(shape, dtype=storage.dtype)
    return storage.as_strided(shape, strides, offset).clone()


def _collect(module: Any, prefix: str, weights: dict[str, torch.Tensor]) -> None:
    if not isinstance(module, _Module) or not isinstance(module.attributes, dict):
        raise pickle.UnpicklingError(f"{prefix or 'the root'} is not a module")
    for name, value in module.attributes.items():
        if isinstance(value, torch.Tensor):
            weights[f"{prefix}{name}"] = value
        elif isinstance(value, _Module):
            _collect(value, f"{prefix}{name}.", weights)
