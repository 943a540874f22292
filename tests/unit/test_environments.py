"""The locks, and the environment for `--sdm conda`, whose file Snakemake copies alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from foldwise.reference import conda_environment

ENVS = Path(__file__).parents[2] / "envs"
LOCKS = sorted(ENVS.glob("requirements*.txt"))


def locked(path: Path) -> dict[str, str]:
    """Name → version of what a lock pins."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE))


def test_conda_installs_what_is_locked() -> None:
    text = (ENVS / "foldwise.yaml").read_text(encoding="utf-8")
    assert text == conda_environment()
    *_, last = yaml.safe_load(text)["dependencies"]
    lock = (ENVS / "requirements.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    assert [line.split() for line in last["pip"]] == [line.split() for line in lock.splitlines()]
    for line in last["pip"]:
        assert Requirement(line.partition(" --hash")[0]).specifier
        assert " --hash=sha256:" in line


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_has_hashes_and_no_address(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "://" not in text
    entries = re.split(r"^(?=\S)", text.replace("\\\n", " "), flags=re.MULTILINE)
    assert all("--hash=sha256:" in entry for entry in entries if entry.strip())


def test_what_the_locks_differ_in() -> None:
    default, cuda12, cpu = (locked(ENVS / f"requirements{name}.txt") for name in ("", "-cuda12", "-cpu"))
    assert any(name.endswith("-cu12") for name in cuda12)
    assert not any(name.endswith("-cu12") for name in default)
    left_out = default.keys() - cpu.keys()
    assert {"torch", "torchvision", "triton"} <= left_out
    assert all(re.match(r"torch|triton|nvidia-|cuda-", name) for name in left_out)
    assert "nvidia-ml-py" in cpu
    assert {name: cpu[name] for name in cpu} == {name: default[name] for name in cpu}
