"""Resample a signal and write its cache."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import numpy as np

from example_signals.settings import Cache
from foldwise.command import Output, run, stage
from foldwise.files import CaseError, atomic_path, naming
from foldwise.hdf5 import create_hdf5


def write_cache(case: str, signal: Path, label: str, settings: Cache, path: Path) -> None:
    """Write `signal` (length,) float32, and the attributes case, label and content (a hash of both)."""
    try:
        values = np.load(signal, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CaseError(f"{signal}: not readable as .npy ({error})") from error
    places = np.linspace(0, len(values) - 1, settings.length)
    array = np.interp(places, np.arange(len(values)), values).astype(np.float32)
    with atomic_path(path) as temporary, create_hdf5(temporary) as file:
        file["signal"] = array
        content = hashlib.sha256(array.tobytes() + label.encode()).hexdigest()
        file.attrs.update({"case": case, "label": label, "content": content})


@stage
def signal_cache(
    *,
    case: Annotated[str, "the case's name"],
    signal: Annotated[Path, "the signal (.npy)"],
    label: Annotated[str, "its class; empty for none"] = "",
    settings: Cache,
    cache: Annotated[Output, "HDF5 file to write"],
) -> None:
    """Write a case's cache."""
    with naming(case):
        write_cache(case, signal, label, settings, cache)


if __name__ == "__main__":
    run(signal_cache.main)
