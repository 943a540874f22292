"""The choice of engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foldwise.files import CaseError
from foldwise.systems.interactive.engines import Scan
from foldwise.systems.interactive.engines.choice import ENGINES, Options, channel_of, open_engine, openers


def scan(channels: int = 1) -> Scan:
    return Scan(np.arange(8 * channels).reshape(channels, 2, 2, 2), np.eye(4))


def test_what_is_missing_is_named() -> None:
    with pytest.raises(CaseError, match="engine 'nnunet': unknown; use one of classical, memory, automatic"):
        open_engine("nnunet", scan(), Options())
    for name, missing in (
        ("memory", "--model"),
        ("automatic", "--automatic"),
        ("nninteractive", "--server"),
        ("sam2", "--weights"),
    ):
        with pytest.raises(CaseError, match=f"engine {name}: give {missing}$"):
            open_engine(name, scan(), Options())


def test_engines_that_can_be_opened() -> None:
    assert list(openers(Options())) == ["classical"]
    every = Options(model=Path("m.pt"), automatic="s.pt", server="http://127.0.0.1:9", weights=Path("w"))
    assert list(openers(every)) == list(ENGINES)
    assert list(openers(Options(automatic="a {scan} {mask}"))) == ["classical", "automatic"]
    assert openers(Options(automatic="a {scan} {mask}"))["automatic"](scan()).name == "automatic"

    def own(opened: Scan) -> object:
        return opened

    found = openers(Options(), memory=own)  # type: ignore[arg-type]
    assert list(found) == ["classical", "memory"]
    assert found["memory"] is own


def test_the_channel() -> None:
    assert np.array_equal(channel_of(scan(), Options(), "sam2"), scan().image[0])
    assert np.array_equal(channel_of(scan(3), Options(channel=2), "sam2"), scan(3).image[2])
    for channel in (-1, 3):
        with pytest.raises(CaseError, match=f"--channel {channel}: the scan has channels 0 to 2"):
            channel_of(scan(3), Options(channel=channel), "sam2")
