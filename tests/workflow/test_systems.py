"""Every system fulfils its contract with the workflow: ours, and one of another package."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from every_system import clips, installed, interactive, segmentation, signals, surgical
from warm import python


def check(experiment: dict[str, Any], folder: Path, path: str = "") -> None:
    done = subprocess.run(
        [python(), "-m", "check_one_system", json.dumps(experiment), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": path or os.environ.get("PYTHONPATH", "")},
    )
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.slow
@pytest.mark.parametrize("data", [segmentation, interactive, surgical, clips])
def test_our_systems(data: Callable[[Path], dict[str, Any]], tmp_path: Path) -> None:
    check(data(tmp_path), tmp_path)


@pytest.mark.slow
def test_a_system_of_another_package(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    check(signals(folder), folder, installed(tmp_path / "site"))
