"""Experiments that are only pretended: sources are texts, and a job writes a hash of what it is made from.

What a real workflow would plan and compute can then be worked out apart from it: an output is right if its
hash is that of a fresh run. Snakemake's part is played by its rule for times: a job runs if an output is
missing, an input is newer than an output, or a job before it runs. It keeps no records here at all.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import chdir, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import yaml

from foldwise.experiment.open import Opened, open_experiment
from foldwise.experiment.outputs import Made, all_outputs
from foldwise.experiment.stale import MARK, judge, settle
from foldwise.files import SNAKEMAKE, atomic_folder, atomic_path, short_hash, write_json, write_pickle
from foldwise.looks import looking_once
from foldwise.record import Recorder, recording
from foldwise.store import Memory

NETWORK = {"name": "BasicUNet"}
# Name of a system → its settings, the header of its sheet, and its rows.
SYSTEMS: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "segmentation": (
        {
            "data": {"labels": {"ball": 1}},
            "prepare": {"lung_mask": {}, "crop": {"to": "lungs"}},
            "models": {"a": {"network": NETWORK}, "b": {"network": NETWORK}},
        },
        "case,group,image,label,split",
        ["{0},{0},{0}.nii,{0}-label.nii,", "{0},{0},{0}.nii,,"],
    ),
    "interactive": (
        {"data": {"labels": {"ball": 1}}, "models": {"vmn": {}}},
        "case,group,image,label,split",
        ["{0},{0},{0}.nii,{0}-label.nii,", "{0},{0},{0}.nii,,"],
    ),
    "surgical": (
        {
            "data": {"phases": ["one", "two"], "tools": ["hook"]},
            "models": {"mtrc": {"kind": "mtrcnet"}, "tecno": {"kind": "temporal", "features": "mtrc"}},
        },
        "case,group,video,phases,tools,split",
        ["{0},{0},{0}-frames,{0}-phase.txt,{0}-tool.txt,", "{0},{0},{0}-frames,,,"],
    ),
    "clips": (
        {
            "data": {"classes": ["low", "high"]},
            "prepare": {"regions": {"method": "fan"}},
            "models": {"small": {}},
        },
        "case,group,video,label,box,split",
        ["{0},{0},{0}.mp4,low,0 0 9 9,", "{0},{0},{0}.mp4,,0 0 9 9,"],
    ),
}


@contextmanager
def unsynced() -> Iterator[None]:
    """Write without waiting for the disk: pretended files need not survive a power failure."""
    with mock.patch.object(os, "fsync"):
        yield


# Files that settings may name: a split, a pretrained model, a frozen network, new cases.
NAMED = ["folds.json", "weights.pt", "clip/model", "new/n0.nii", "new/n1.nii", "new/n0.mp4", "new/n1.mp4"]


class World:
    """A folder with sources, a sheet and settings, and what calls of the workflow made of them."""

    def __init__(self, folder: Path, system: str, parts: int | None = None) -> None:
        """Write sources and sheet of four cases, the last one without a label."""
        self.folder, self.system, self.parts = folder, system, parts
        self.settings, self.header, forms = json.loads(json.dumps(SYSTEMS[system]))
        self.settings |= {"system": system, "experiment": "x", "split": {"folds": 2, "validation": 0}}
        self.settings["data"]["sheet"] = "cases.csv"
        self.rows = {f"c{n}": forms[n == 3].format(f"c{n}").split(",") for n in range(4)}
        folder.mkdir(parents=True)
        for path in self.sources():
            self.write(path, f"first {path.name}", 1.4e9)

    @property
    def results(self) -> Path:
        """Folder of the results."""
        return self.folder / str(self.settings.get("results", "results"))

    def sources(self) -> list[Path]:
        """Files of all cases, two frames for a folder of frames; and those that settings may name."""
        cells = [
            cell
            for row in self.rows.values()
            for cell in row
            if cell.startswith("c") and not cell[1:].isdigit()
        ]
        named = [self.folder / cell for cell in dict.fromkeys(cells)]
        inner = {path: [path / "1.png", path / "2.png"] for path in named if path.name.endswith("-frames")}
        files = [file for path in named for file in inner.get(path, [path])]
        return files + [self.folder / name for name in NAMED]

    def write(self, path: Path, text: str, seconds: float | None = None) -> None:
        """Write a source in place, with a time of modification."""
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        if seconds is not None:
            os.utime(path, (seconds, seconds))

    def opened(self) -> Opened[Any, Any]:
        """The experiment as it is now."""
        lines = [self.header, *(",".join(row) for row in self.rows.values())]
        sheet = self.folder / self.settings["data"]["sheet"]
        if not sheet.exists() or sheet.read_text() != "\n".join(lines):
            sheet.write_text("\n".join(lines))
        config = yaml.safe_load(yaml.safe_dump(self.settings))
        if self.parts is not None:
            memory = Memory(self.results / "x" / "state" / "parts.json")
            memory.put(self.parts, "parts")
            memory.save()
        return open_experiment(config, main=False)

    def call(self, jobs: int | None = None) -> list[str]:
        """Plan and run as `snakemake` would; returns the outputs that were made.

        Args:
            jobs: the call is killed after so many jobs.
        """
        with chdir(self.folder):
            opened = self.opened()
            memory = Memory(Path(opened.paths.known))
            with looking_once():  # as the front door does
                settle(judge(opened, memory), Path(opened.paths.stale))
            memory.save()
            outputs = [made for level in all_outputs(opened) for made in level]
            planned, before = _planned(opened, outputs), _before(outputs)
            for made in planned[:jobs]:
                _make(opened, made, before[made.path])
            return [made.path for made in planned[:jobs]]

    def made_from(self, paths: set[str]) -> set[str]:
        """These outputs, and all that is made from them."""
        with chdir(self.folder):
            for made in (made for level in all_outputs(self.opened()) for made in level):
                if paths & {*made.after, *made.paths}:
                    paths = paths | {*made.paths}
        return paths

    def wrong(self) -> list[str]:
        """Outputs that are missing, or are not what a fresh run would make now."""
        with chdir(self.folder):
            opened = self.opened()
            right = _fresh(opened)
            markers = [m.path for level in all_outputs(opened) for m in level if m.depends is None]
            missing = [path for path in markers if not Path(path).exists()]
            return missing + [path for path, value in right.items() if _value(Path(path)) != value]


def _planned(opened: Opened[Any, Any], outputs: list[Made]) -> list[Made]:
    """What Snakemake would run, of everything that is to be made; a part's job leaves alone what is there."""
    planned: list[Made] = []
    running: set[str] = set()
    for made in outputs:
        # New cases are read, but are no inputs.
        sources = [] if made.rule == "predict_part" else _sources(opened, made)
        inputs = [*made.after, *map(str, sources)]
        there = [path for path in made.paths if Path(path).exists() and "/benchmarks/" not in path]
        missing = len(there) < sum("/benchmarks/" not in path for path in made.paths)
        oldest = 0.0 if missing else min(map(_time, there))
        newer = any(_time(path) > oldest for path in inputs if Path(path).exists())
        if missing or newer or oldest < MARK or any(path in running for path in made.after):
            planned.append(made)
            running.update(made.paths)
    return planned


def _sources(opened: Opened[Any, Any], made: Made) -> list[Path]:
    """Files from outside that a job reads."""
    if made.rule == "check":
        return [opened.settings.data.sheet, *(path for case in opened.sheet.cases for path in case.files)]
    if made.rule == "index" and opened.settings.split.file:
        return [opened.settings.split.file]
    if made.rule == "predict_part":
        return [Path(file) for _, files, _ in opened.new_cases for paths in files.values() for file in paths]
    if made.depends is None:
        return []
    of = json.loads(made.depends).get("of", [])
    if made.rule == "train":
        return [*map(Path, opened.weights(of[0]))]
    if made.rule == "encode":
        preparation: Any = opened.preparation
        encoded = Path(made.path).parent.name.removeprefix("features-")
        return [*map(Path, opened.weights(preparation.encoder(encoded)))]
    stage = opened.preparation.stages.get(made.rule)
    if stage is None:
        return []
    case = opened.cases[of[0]]
    return [path for path in map(Path, _texts(stage.given(case))) if path in case.files]


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _source_value(path: Path) -> Any:
    return [[f.name, f.read_text()] for f in sorted(path.iterdir())] if path.is_dir() else path.read_text()


def _result(
    opened: Opened[Any, Any], made: Made, sources: Iterable[Path], before: Iterable[str | None]
) -> str:
    given = None if made.depends is None else json.loads(made.depends)
    # The index names the caches; where the results lie does not matter.
    named = (
        Path(opened.preparation.cached).relative_to(opened.settings.results) if made.rule == "index" else ""
    )
    values = [_source_value(path) for path in sources]
    return short_hash([made.rule, given, str(named), values, list(before)], 16)


def _fresh(opened: Opened[Any, Any]) -> dict[str, str]:
    """The values of all outputs, worked out from the sources, the sheet and the settings alone."""
    values: dict[str, str] = {}
    outputs = [made for level in all_outputs(opened) for made in level]
    before = _before(outputs)
    for made in (made for made in outputs if made.depends is not None):
        value = _result(opened, made, _sources(opened, made), map(values.get, before[made.path]))
        values |= {path: value for path in made.paths if "/benchmarks/" not in path}
    return values


def _before(outputs: Iterable[Made]) -> dict[str, list[str]]:
    """Output → what it is made from; instead of a part's marker, the prepared files that it stands for."""
    marking = {made.path: made.after for made in outputs if made.depends is None}
    # The marker of features is made from that of the caches, too.
    files = {path: [one for one in after if one not in marking] for path, after in marking.items()}
    return {
        made.path: list(chain.from_iterable(files.get(path, [path]) for path in made.after))
        for made in outputs
    }


def _make(opened: Opened[Any, Any], made: Made, before: Iterable[str]) -> None:
    """Run a job: what is declared as its output is deleted first, as Snakemake does."""
    for path in map(Path, made.paths):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    sources = _sources(opened, made)
    value = _result(opened, made, sources, (_value(Path(path)) for path in before))
    depends = None if made.depends is None else json.loads(made.depends)
    recorder = Recorder(made.rule, depends, opened.settings.results, list(map(Path, made.paths)))
    with recording(recorder):
        # A part's marker says nothing: jobs record the prepared files that they read.
        recorder.read(*sources, *map(Path, before))
        for path in map(Path, (*made.also, made.path)):
            if "/benchmarks/" not in str(path):
                _write(path, value)


def _write(path: Path, value: str) -> None:
    if not path.suffix:
        with atomic_folder(path) as folder:
            (folder / "value").write_text(value)
        (path / SNAKEMAKE).touch()
    elif path.suffix == ".h5":
        with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
            file.attrs["value"] = value
    elif path.suffix == ".json":
        write_json(path, {"value": value})
    elif path.suffix == ".pkl":
        write_pickle(path, {"value": value})
    else:
        with atomic_path(path) as temporary:
            temporary.write_text(value)


def _value(path: Path) -> str | None:
    if not path.exists():
        return None
    if path.is_dir():
        return (path / "value").read_text()
    if path.suffix == ".h5":
        with h5py.File(path, "r") as file:
            return str(file.attrs["value"])
    if path.suffix == ".json":
        return str(json.loads(path.read_text())["value"])
    if path.suffix == ".pkl":
        return str(pickle.loads(path.read_bytes())["value"])
    return path.read_text()


def _time(path: str | Path) -> float:
    """As Snakemake takes it."""
    stamp = Path(path) / SNAKEMAKE
    return stamp.stat().st_mtime if stamp.exists() else Path(path).stat().st_mtime
