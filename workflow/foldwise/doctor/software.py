"""Python, the packages, and the systems."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from foldwise.cuda import LOCKS, offered, torch_build
from foldwise.doctor.finding import Finding
from foldwise.places import ROOT

# What jobs cannot do without, in the order in which they need each other.
MODULES = (
    "numpy",
    "h5py",
    "pandas",
    "SimpleITK",
    "nibabel",
    "av",
    "snakemake.cli",
    "torch",
    "torchvision",
    "monai",
)
OURS = ("segmentation", "clips", "surgical", "interactive")
# CUDA's major version in the lock file that is installed without a choice.
STANDARD = 13
# Names listed in a line of the table.
SHOWN = 6


def python() -> Iterator[Finding]:
    """The interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    old = sys.version_info < (3, 11)
    todo = "use Python 3.11 or newer" if old else ""
    yield Finding("Python", "error" if old else "ok", f"{version}, {sys.executable}", todo)


def lock_file() -> Path:
    """The lock file for the PyTorch that is installed, or else for the driver."""
    build, newest = torch_build(), offered()
    if build is not None:
        major = int(build.cuda.split(".")[0]) if build.cuda else None
    else:
        major = newest[0] if newest else STANDARD
    return ROOT / "envs" / LOCKS.get(major, LOCKS[STANDARD])


def packages() -> Iterator[Finding]:
    """The installed packages, against the lock and the oldest versions that are allowed."""
    lock = lock_file()
    todo = f"pip install -r {lock}"
    try:
        from packaging.requirements import Requirement
        from packaging.version import Version
    except ImportError:
        yield Finding("packages", "error", "none is installed in this Python", todo)
        return
    installed = _installed()
    wrong, other, locked = [], [], 0
    for text in _needed():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        here = installed.get(_plain(wanted.name))
        if here is None:
            wrong.append(f"{wanted.name} is missing")
        elif not wanted.specifier.contains(Version(here).public, prereleases=True):
            wrong.append(f"{wanted.name} {here} is not {wanted.specifier}")
    for text in re.findall(
        r"^([A-Za-z0-9][^\\\n]*==[^\\\n]*)", lock.read_text(encoding="utf-8"), re.MULTILINE
    ):
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        version = str(wanted.specifier).removeprefix("==")
        here = installed.get(_plain(wanted.name))
        if here is None:
            other.append(f"{wanted.name} is missing")
        elif Version(here).public != Version(version).public:
            other.append(f"{wanted.name} {here}, not {version}")
        else:
            locked += 1
    if wrong:
        yield Finding("packages", "error", _some(wrong), todo)
    if other:
        remark = f"{todo}, for the versions that were tested; or leave them, if all works"
        yield Finding("packages", "warning", f"other than in {lock.name}: {_some(other)}", remark)
    if not wrong and not other:
        yield Finding("packages", "ok", f"{locked} as in {lock.name}")


def imports(found: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """What cannot be imported, of what the probe tried."""
    broken = {name: found[name]["error"] for name in MODULES if "error" in found.get(name, {})}
    for name, why in broken.items():
        yield Finding(f"import {name}", "error", why, f"pip install --force-reinstall -r {lock_file()}")
    if not broken:
        yield Finding("imports", "ok", ", ".join(name.split(".")[0] for name in MODULES))


def system_names() -> list[str]:
    """Names of the systems, ours and those of other packages, as the probe takes them."""
    points = metadata.entry_points(group="foldwise.systems")
    return [f"system:{name}" for name in dict.fromkeys([*OURS, *(point.name for point in points)])]


def systems(found: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """The systems, with the packages that provide them."""
    good = []
    for key, facts in found.items():
        kind, _, name = key.partition(":")
        if kind != "system":
            continue
        if "error" in facts:
            todo = "update or remove the package that provides it; experiments with other systems still run"
            if name in OURS:
                todo = "see the packages above"
            yield Finding(f"system {name}", "error", facts["error"], todo)
        else:
            good.append(name if facts["origin"] == "foldwise" else f"{name} ({facts['origin']})")
    if good:
        yield Finding("systems", "ok", ", ".join(good))


def _needed() -> list[str]:
    """What the package demands: in a checkout, from its pyproject.toml."""
    project = ROOT / "pyproject.toml"
    if project.is_file():
        found = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
        return [str(one) for one in found]
    return metadata.requires("foldwise") or []


def _installed() -> dict[str, str]:
    found: dict[str, str] = {}
    for one in metadata.distributions():
        # A half-removed package has no name; of two, Python imports the first.
        if name := one.metadata["Name"]:
            found.setdefault(_plain(name), one.version)
    return found


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _some(texts: list[str]) -> str:
    more = f", and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more
