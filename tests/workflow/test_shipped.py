"""Every experiment that a new user starts with: planned unchanged, and trained for two steps.

These are the shipped ones (`config.yaml`, `experiments/`), those written by importers, and each
system with only the required settings. Data are generated; the networks are the real ones. A dry run of
Snakemake on the unchanged experiment provides the jobs' command lines. Those up to the models of the first
fold are run, with two optimiser steps instead of all epochs, and with the changes in `Shipped.cut`.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import yaml

import stand_ins
from foldwise import importers
from foldwise.plan import merged
from foldwise.systems import own
from warm import python

ROOT = Path(__file__).parents[2]
# Rules in the order of their jobs.
RULES = (
    *("phantom", "lung_mask", "crop", "plan", "cache", "frames", "clip_cache", "roi", "encode"),
    *("check", "index", "train", "features"),
)
TWO_STEPS = {"epochs": 1, "steps_per_epoch": 2, "validation": {"samples": 2}}


class Part(NamedTuple):
    """Class of a part of a network, its number of weights if published, and whether it learns."""

    name: str
    weights: int | None = None
    learns: bool = True


class Source(NamedTuple):
    """A stand-in data set, its import as in README and docs, and weights to generate for it."""

    write: Callable[[Path], None]
    importer: str = ""
    weights: str = ""


@dataclass(frozen=True)
class Job:
    """A job of a dry run.

    Attributes:
        rule: its rule.
        wildcards: e.g. model and fold.
        module: module that its command runs.
        options: options of the command.
    """

    rule: str
    wildcards: Mapping[str, str]
    module: str
    options: list[str]

    @classmethod
    def read(cls, block: str) -> Job:
        """From its lines in a dry run's output."""
        rule = re.search(r"^(?:local)?rule (\w+):", block, re.MULTILINE)
        wildcards = re.search(r"^ +wildcards: (.+)$", block, re.MULTILINE)
        command = re.search(r"^Shell command: (.+)$", block, re.MULTILINE)
        assert rule
        assert command
        words = shlex.split(command[1])
        assert words[:2] == ["python", "-m"]
        named = dict(pair.split("=") for pair in wildcards[1].split(", ")) if wildcards else {}
        return cls(rule[1], named, words[2], list(takewhile(lambda word: ">" not in word, words[3:])))

    def cut(self, settings: Mapping[str, Any]) -> list[str]:
        """Its command with other settings."""
        options = list(self.options)
        if settings:
            (place,) = (n for n, word in enumerate(options) if word.startswith("--settings="))
            flag, _, given = options[place].partition("=")
            options[place] = f"{flag}={json.dumps(merged(json.loads(given), settings))}"
        return [self.module, *options]


@dataclass(frozen=True)
class Shipped:
    """An experiment.

    Attributes:
        source: a key of `SOURCES`.
        config: its file, in the checkout or in the folder of the data.
        networks: model → part of its network ("": the whole) → its properties.
        values: contents of the file, if neither the checkout nor an importer provides it.
        cut: rule, or model → smaller settings of its jobs here.
        rows: rows of the sheet to prepare, if not all.
        left: models that are only planned, since another experiment here has the same.
    """

    source: str
    config: Path
    networks: Mapping[str, Mapping[str, Part]]
    values: Mapping[str, Any] = field(default_factory=dict)
    cut: Mapping[str, Any] = field(default_factory=dict)
    rows: int | None = None
    left: frozenset[str] = frozenset()

    def smaller(self, job: Job) -> dict[str, Any]:
        """Settings of a job that differ here from the experiment."""
        cut = dict(self.cut.get(job.rule, {}))
        if job.rule == "train":
            of_model = self.cut.get(job.wildcards["model"], {})
            cut = merged(merged({"training": TWO_STEPS}, cut), of_model)
        return cut


SOURCES = {
    "phantoms": Source(stand_ins.copy_phantoms),
    "chests": Source(
        stand_ins.write_exports, "dicom exports/ --sheet data/lung.csv --structures 'GTV*=tumour'"
    ),
    "brats": Source(stand_ins.write_brats, "brats MICCAI_BraTS2020_TrainingData --sheet data/brats.csv"),
    "unet3d": Source(
        stand_ins.write_unet3d_config, "unet3d_config brats2020_config.json --sheet data/brats.csv"
    ),
    "hippocampus": Source(
        stand_ins.write_hippocampus, "decathlon Task04_Hippocampus --sheet data/hippocampus.csv"
    ),
    "nnunet": Source(stand_ins.write_nnunet, "decathlon Dataset003_Liver --sheet data/liver.csv"),
    "bids": Source(stand_ins.write_bids, "bids ds000001 --sheet data/hippocampi.csv"),
    "cholec80": Source(
        stand_ins.write_cholec80,
        "cholec80 cholec80 --sheet data/cholec80.csv --split paper --config data/cholec80_first.yaml",
        "resnet50",
    ),
    "cholect50": Source(stand_ins.write_cholect50, "cholect50 CholecT50 --sheet data/cholect50.csv"),
    "ultrasound": Source(
        stand_ins.write_ultrasound,
        "clip_lists videos/ --train train.txt --classes data/data_class_mapping.json"
        " --sentences data/data_classes.txt --group-regex '(pat[0-9]+)' --sheet data/ultrasound.csv",
        "clip medsam",
    ),
}

BASIC_UNET = "monai.networks.nets.basic_unet.BasicUNet"
DYN_UNET = "monai.networks.nets.dynunet.DynUNet"
# As published, 25,557,032 with the last layer of 1,000 classes.
RESNET50 = {"trunk": Part("torchvision.models.resnet.ResNet", 25_557_032 - 2_049_000)}
# As published, 31,505,325 with 400 classes; here with two.
R2PLUS1D = {"": Part("torchvision.models.video.resnet.VideoResNet", 31_505_325 - 398 * 513)}
INTERACTIVE = {
    "hint": Part("foldwise.networks.hints.HintNetwork"),
    "memory": Part("foldwise.networks.memory.MemoryNetwork"),
}
# Ten frames of 224² and a batch of eight would take minutes per step.
WINDOW = {"window": 2, "training": {"batch": 1}}
# Its schedule has three steps, with at least one epoch each.
THREE_EPOCHS = {**WINDOW, "training": {"batch": 1, "epochs": 3, "steps_per_epoch": 1}}
SURGICAL_FIRST = {
    **dict.fromkeys(("tool", "phase", "mtrcnet_cl"), RESNET50),
    "tecno": {
        "trunk": RESNET50["trunk"]._replace(learns=False),
        "head": Part("foldwise.networks.tecno.TeCNO"),
    },
}
SURGICAL_CUT = {"tool": WINDOW, "phase": WINDOW, "mtrcnet": WINDOW, "mtrcnet_cl": THREE_EPOCHS}
# Validation with overlapping windows and their mirror images would take 64 times as long.
PLANNED = {"train": {"inference": {"overlap": 0, "mirror": False}}}
# A step on 128³ would take minutes and 11 GiB. Halved five times, this leaves two voxels, the minimum.
HEADS = {"cache": {"shape": [64, 32, 32]}, "train": {"patch": [64, 32, 32]}}


EXPERIMENTS = ROOT / "experiments"
SHIPPED = {
    "demo": Shipped(
        "phantoms",
        ROOT / "config.yaml",
        {"unet": {"": Part("monai.networks.nets.unet.UNet")}},
        # Of four patients, the fewest for two folds and validation; all thirteen scans take half a minute.
        rows=5,
    ),
    "lung": Shipped(
        "chests",
        EXPERIMENTS / "lung.yaml",
        {"unet": {"": Part(BASIC_UNET)}},
        # Validation covers the whole scan: 7 million voxels at 1.25 mm.
        cut={"cache": {"spacing": [5, 5, 5]}, "train": {"patch": [32, 32, 32], "inference": {"overlap": 0}}},
    ),
    "dicom": Shipped(
        "chests",
        Path("data/lung.yaml"),
        {"unet": {"": Part(DYN_UNET)}},
        cut=PLANNED | {"unet": {"patch": [32, 32, 32], "training": {"batch": 1}}},
    ),
    "brats": Shipped("brats", EXPERIMENTS / "brats.yaml", {"unet": {"": Part(DYN_UNET)}}, cut=HEADS),
    "brats importer": Shipped("brats", Path("data/brats.yaml"), {"unet": {"": Part(DYN_UNET)}}, cut=PLANNED),
    "unet3d_config": Shipped("unet3d", Path("data/brats.yaml"), {"DynUNet": {"": Part(DYN_UNET)}}, cut=HEADS),
    "interactive": Shipped("hippocampus", EXPERIMENTS / "interactive.yaml", {"vmn": INTERACTIVE}),
    "decathlon": Shipped(
        "hippocampus", Path("data/hippocampus.yaml"), {"unet": {"": Part(DYN_UNET)}}, cut=PLANNED
    ),
    "nnU-Net raw": Shipped("nnunet", Path("data/liver.yaml"), {"unet": {"": Part(DYN_UNET)}}, cut=PLANNED),
    "BIDS": Shipped("bids", Path("data/hippocampi.yaml"), {"unet": {"": Part(DYN_UNET)}}, cut=PLANNED),
    "cholec80": Shipped(
        "cholec80",
        EXPERIMENTS / "cholec80.yaml",
        {**SURGICAL_FIRST, "mtrcnet": RESNET50},
        cut=SURGICAL_CUT,
    ),
    "cholec80 importer": Shipped(
        "cholec80",
        Path("data/cholec80_first.yaml"),
        SURGICAL_FIRST,
        cut=SURGICAL_CUT,
        left=frozenset(("tool", "mtrcnet_cl")),
    ),
    "cholect50": Shipped(
        "cholect50",
        Path("data/cholect50.yaml"),
        SURGICAL_FIRST,
        cut=SURGICAL_CUT,
        left=frozenset(("phase", "tecno")),
    ),
    "ultrasound": Shipped(
        "ultrasound",
        EXPERIMENTS / "ultrasound.yaml",
        {
            "evl": {"": Part("foldwise.networks.evl.EVL")},
            "zero_shot": {"": Part("foldwise.networks.clip.ZeroShotCLIP")},
            "r2plus1d": R2PLUS1D,
        },
        # Frozen or not, each clip takes hundreds of GFLOP; the weights are also small (stand_in_weights).
        cut={
            "encode": {"clip": {"temporal_views": 1}, "features": {"views": 2}},
            "evl": {"clip": {"temporal_views": 1}, "features": {"views": 2}, "training": {"batch": 2}},
            "zero_shot": {"training": {"batch": 1}},
            "r2plus1d": {"clip": {"frames": 8, "size": 64}, "training": {"batch": 1}},
        },
    ),
    "clip_lists": Shipped(
        "ultrasound",
        Path("data/ultrasound.yaml"),
        {"r2plus1d": R2PLUS1D},
        cut={"r2plus1d": {"clip": {"size": 64}, "training": {"batch": 1}}},
    ),
    "default segmentation": Shipped(
        "hippocampus",
        Path("data/segmentation.yaml"),
        {"unet": {"": Part(BASIC_UNET)}},
        {"data": {"sheet": "data/hippocampus.csv", "labels": {"anterior": 1, "posterior": 2}}},
        # The scans fill a tenth of 96³.
        cut={"train": {"patch": [48, 48, 48]}},
    ),
    "default surgical": Shipped(
        "cholec80",
        Path("data/surgical.yaml"),
        {"mtrcnet": RESNET50},
        {"system": "surgical", "data": {"sheet": "data/cholec80.csv"}},
        cut=SURGICAL_CUT,
    ),
    "default interactive": Shipped(
        "hippocampus",
        Path("data/interactive.yaml"),
        {"vmn": INTERACTIVE},
        {
            "system": "interactive",
            "data": {"sheet": "data/hippocampus.csv", "labels": {"anterior": 1, "posterior": 2}},
        },
        # 512² would take 12 GiB.
        cut={"train": {"size": 32, "validation_rounds": 1}},
    ),
    "default clips": Shipped(
        "ultrasound",
        Path("data/clips.yaml"),
        {"r2plus1d": R2PLUS1D},
        {"system": "clips", "data": {"sheet": "data/ultrasound.csv", "classes": ["high", "low"]}},
        cut={"r2plus1d": {"clip": {"size": 64}, "training": {"batch": 1}}},
    ),
}


class Desk:
    """The place of all runs: a folder for each data set, generated and imported once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def source(self, name: str) -> Path:
        """The folder with a data set; experiments are called from there."""
        folder, source = self.folder / name, SOURCES[name]
        if not folder.exists():
            folder.mkdir()
            source.write(folder)
            if source.importer:
                module, *arguments = shlex.split(source.importer)
                self.run([f"foldwise.importers.{module}", *arguments], folder)
            if source.weights:
                self.run(["stand_in_weights", *source.weights.split()], folder)
        return folder

    def run(self, command: list[str], folder: Path) -> str:
        begun = time.monotonic()
        done = subprocess.run(
            [python(), "-m", *command],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        # Shown by -s: what each command costs.
        print(f"{time.monotonic() - begun:6.1f} s  {shlex.join(command)[:90]}")
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-5000:]}"
        return done.stdout

    def facts(self, model: Path, folder: Path) -> Any:
        """Facts about the network in a trained model's file."""
        lines = self.run(["model_facts", str(model), "0"], folder).splitlines()
        return json.loads(next(line for line in lines if line.startswith("{")))

    def jobs(self, folder: Path, config: Path) -> list[Job]:
        """The jobs that Snakemake would run."""
        text = self.run(
            [
                *("snakemake", "--dry-run", "--printshellcmds", "--cores", "1"),
                *("--snakefile", str(ROOT / "Snakefile"), "--profile", str(ROOT / "profiles" / "local")),
                *("--configfile", str(config)),
            ],
            folder,
        )
        return [
            Job.read(block) for block in re.split(r"\n\n(?=\[)", text) if "Shell command: python" in block
        ]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    made = Desk(tmp_path_factory.mktemp("shipped"))
    yield made
    # Models and checkpoints of ResNet-50 are half a gigabyte each.
    shutil.rmtree(made.folder)


def test_nothing_is_left_out() -> None:
    """A new experiment, importer or system must be added above."""
    ours = {shipped.config for shipped in SHIPPED.values() if shipped.config.is_absolute()}
    assert ours == {ROOT / "config.yaml", *EXPERIMENTS.glob("*.yaml")}
    found = {module.name for module in pkgutil.iter_modules(importers.__path__)}
    commands = {
        name for name in found if hasattr(importlib.import_module(f"foldwise.importers.{name}"), "main")
    }
    assert commands == {source.importer.split()[0] for source in SOURCES.values() if source.importer}
    # Experiments from importers are run, not only written.
    written = {
        shipped.source for shipped in SHIPPED.values() if not (shipped.config.is_absolute() or shipped.values)
    }
    assert written == SOURCES.keys() - {"phantoms"}
    defaults = [
        shipped.values.get("system", "segmentation") for shipped in SHIPPED.values() if shipped.values
    ]
    assert sorted(defaults) == sorted(own())


def test_the_demo_is_what_runs_where_nothing_is_named(desk: Desk) -> None:
    text = desk.run(["snakemake", "--dry-run", "--forceall", "--cores", "1"], ROOT)
    assert re.search(r"^phantom +13$", text, re.MULTILINE)


def test_what_one_importer_leaves_out_another_trains(desk: Desk) -> None:
    """Both importers of operations start with the same models; each of them is trained once."""
    both = [SHIPPED["cholec80 importer"], SHIPPED["cholect50"]]
    files = [desk.source(shipped.source) / shipped.config for shipped in both]
    first, second = (yaml.safe_load(path.read_text(encoding="utf-8"))["models"] for path in files)
    assert first == second
    assert not both[0].left & both[1].left
    assert {name for name in SHIPPED if SHIPPED[name].left} == {"cholec80 importer", "cholect50"}


@pytest.mark.parametrize("name", SHIPPED)
def test_an_experiment_is_planned_and_trained_for_two_steps(name: str, desk: Desk) -> None:
    shipped = SHIPPED[name]
    folder = desk.source(shipped.source)
    config = folder / shipped.config
    if shipped.values:
        config.write_text(yaml.safe_dump({"experiment": "default", **shipped.values}), encoding="utf-8")
    values = yaml.safe_load(config.read_text(encoding="utf-8"))
    # An importer's experiment may have the same name as the shipped one on the same data.
    out = folder / "results" / values["experiment"]
    shutil.rmtree(out, ignore_errors=True)
    jobs = desk.jobs(folder, config)
    planned = sorted((job.wildcards["model"], job.wildcards["fold"]) for job in jobs if job.rule == "train")
    folds = range(values.get("split", {}).get("folds", 5))
    assert planned == sorted((model, str(fold)) for model in shipped.networks for fold in folds)

    if shipped.rows:
        sheet = folder / values["data"]["sheet"]
        rows = sheet.read_text(encoding="utf-8").splitlines(keepends=True)
        sheet.write_text("".join(rows[: 1 + shipped.rows]), encoding="utf-8")
        jobs = desk.jobs(folder, config)
    for job in in_order(jobs):
        if job.wildcards.get("model") not in shipped.left:
            desk.run(job.cut(shipped.smaller(job)), folder)
    for model in shipped.networks.keys() - shipped.left:
        fold = out / model / "fold0"
        log = pd.read_csv(fold / "log.csv")
        assert log["step"].tolist() == ([1, 2, 3] if len(log) == 3 else [2])
        assert np.isfinite(log["loss"]).all()
        facts = desk.facts(fold / "model.pt", folder)
        assert facts["finite"]
        for place, part in shipped.networks[model].items():
            found = facts["parts"][place]
            assert found["class"] == part.name
            assert part.weights in (None, found["weights"])
            assert found["changed"] == (found["tensors"] if part.learns else 0)


def in_order(jobs: list[Job]) -> list[Job]:
    """The jobs up to the first fold's models; a model that uses another one's features comes last."""
    wanted = [job for job in jobs if job.rule in RULES and job.wildcards.get("fold", "0") == "0"]
    return sorted(wanted, key=lambda job: ("--features=" in " ".join(job.options), RULES.index(job.rule)))
