"""Experiments of many tiny scans, whose outputs are pretended: planning does not depend on them."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path
from typing import Any

import yaml

from foldwise.experiment.outputs import all_outputs
from pretended import World, unsynced

EDGE = 16
HEADER = f"""\
NRRD0004
# {{note}}
type: uchar
dimension: 3
sizes: {EDGE} {EDGE} {EDGE}
space: right-anterior-superior
space directions: (1,0,0) (0,1,0) (0,0,1)
space origin: (0,0,0)
encoding: raw

"""
MODEL: dict[str, Any] = {"network": {"name": "BasicUNet"}, "patch": [32, 32, 32]}


class Scans(World):
    """Scans with labels in the folder `data`, five folds, one model; the experiment is `experiment.yaml`."""

    def __init__(self, folder: Path, cases: int, parts: int | None = None) -> None:
        """Write the scans, which differ in their headers, since two patients cannot have the same."""
        super().__init__(folder, "segmentation", parts)
        for path in self.sources():
            path.unlink(missing_ok=True)
        names = [f"c{number}" for number in range(cases)]
        self.header = "case,group,image,label"
        self.rows = {name: [name, name, f"data/{name}.nrrd", f"data/{name}-label.nrrd"] for name in names}
        del self.settings["prepare"]
        self.settings |= {"split": {"folds": 5}, "models": {"unet": MODEL}}
        (folder / "data").mkdir()
        for name in (cell for row in self.rows.values() for cell in row[2:]):
            # Text, too, as all sources of pretended experiments.
            values = bytes([1]) * EDGE if name.endswith("-label.nrrd") else bytes(range(EDGE))
            (folder / name).write_bytes(HEADER.format(note=name).encode() + values * EDGE**2)
        (folder / "experiment.yaml").write_text(yaml.safe_dump(self.settings))
        with chdir(folder):
            self.opened()

    def make(self) -> None:
        """Pretend that everything was made, with Snakemake's benchmarks."""
        with unsynced():
            self.call()
        with chdir(self.folder):
            paths = [path for level in all_outputs(self.opened()) for made in level for path in made.paths]
            for path in (Path(path) for path in paths if "/benchmarks/" in path):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
