"""Real runs after edits: the results are those of a fresh run, and no job runs that need not."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from every_system import installed_here, signals
from experiments import command, planned, snakemake
from foldwise.command import Output
from foldwise.experiment.open import Opened, open_experiment
from foldwise.files import CaseError, read_json, read_pickle
from foldwise.hdf5 import open_hdf5
from foldwise.record import KEY
from foldwise.settings import dump
from foldwise.stages.choose import choose
from foldwise.stages.ensemble import ensemble
from foldwise.stages.export import export
from foldwise.stages.index import index
from foldwise.stages.metrics import metrics
from foldwise.stages.score import score
from foldwise.stages.test import predict_fold
from foldwise.stages.train import train
from foldwise.store import Store
from trainings import TIMINGS
from warm import python

TRAINING = {"epochs": 1, "steps_per_epoch": 1, "batch": 2, "validate_every": 1}
CASES = 7
# The jobs that an edit reruns, by their rules.
NOTHING = Counter[str]()
# Of two folds and an unlabelled case.
SCORES = Counter(score=3, metrics=3, export=3, choose=1, report=1)
MODELS = Counter(train=2, test=2, ensemble=1) + SCORES
FOLD = Counter(train=1, test=1, ensemble=1, score=2, metrics=2, export=2, choose=1, report=1)
FOLDS = Counter(index=1) + MODELS
# A value of the sheet that only the index takes.
ROW = Counter(check=1) + FOLDS
CASE = Counter(check=1, signal_cache=1) + FOLDS
UNLABELLED = Counter(check=1, signal_cache=1, ensemble=1, score=1, metrics=1, export=1, report=1)
ALL_CASES = Counter(check=1, signal_cache=CASES) + FOLDS


@pytest.fixture(scope="module")
def _package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The example system, for this process and those that it starts."""
    with installed_here(tmp_path_factory.mktemp("site")):
        yield


@dataclass
class World:
    """An experiment, and what is edited."""

    folder: Path
    experiment: dict[str, Any]

    @property
    def results(self) -> Path:
        """Folder of all results."""
        return self.folder / str(self.experiment.get("results", "results"))

    def path(self, pattern: str) -> Path:
        """The only file among the results that a pattern finds."""
        [path] = self.results.glob(pattern)
        return path

    def call(self) -> Counter[str]:
        """Run the workflow; rule → number of its jobs."""
        return finished(snakemake(self.folder, self.experiment))

    def killed(self, last: str) -> Counter[str]:
        """Run the workflow until a job of the rule `last` is finished, kill it, and count the jobs.

        A job that is running then goes on, as on a cluster; it is waited for.
        """
        process = subprocess.Popen(
            command(self.folder, self.experiment),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if last in finished(line):
                break
        process.kill()
        said += process.communicate()[0]
        snakemake(self.folder, self.experiment, "--unlock")
        return finished(said)

    def copied(self, folder: Path) -> World:
        """A copy with all times, for edits of its own."""
        subprocess.run(["cp", "-a", self.folder, folder], check=True)
        return World(folder, json.loads(json.dumps(self.experiment)))


def finished(text: str) -> Counter[str]:
    """Rule → number of its jobs that are finished, by Snakemake's text."""
    return Counter(re.findall(r"Finished jobid: \d+ \(Rule: (?!all\b)(\w+)\)", text))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, _package: None) -> World:
    """A finished run of six labelled cases and an unlabelled one."""
    folder = tmp_path_factory.mktemp("first")
    experiment = signals(folder, CASES)
    experiment["models"] = {"layer": {"training": TRAINING}}
    # Hours ago, so that later times are still in the past.
    for path in folder.glob("s*"):
        os.utime(path, (path.stat().st_mtime - 9000,) * 2)
    world = World(folder, experiment)
    assert world.call() == ALL_CASES
    assert wrong(world, tmp_path_factory.mktemp("fresh")) == []
    return world


def wrong(world: World, folder: Path) -> list[str]:
    """Files of a fresh run, worked out without Snakemake in another folder, that the results lack."""
    with chdir(world.folder):
        make_fresh({**world.experiment, "results": str(folder)})
    fresh, found = contents(folder), contents(world.results)
    apart = [path for path, value in fresh.items() if found.get(path) != value]
    # Predictions and exported files of other cases would be published, too.
    more = [
        path for path in found.keys() - fresh.keys() if Path(path).parent.name in ("predictions", "export")
    ]
    return apart + more


def make_fresh(experiment: dict[str, Any]) -> None:
    """Call the functions of all stages one after another."""
    opened = open_experiment(experiment, main=False)
    settings, system, paths, prepared = opened.settings, opened.system, opened.paths, opened.preparation
    write_cache = importlib.import_module("example_signals.prepare").write_cache
    for case in opened.sheet.cases:
        path = Path(prepared.cached.format(case=case.name))
        write_cache(case.name, case.signal, case.label, settings.cache, path)
    caches, made = Path(prepared.caches), Path(paths.index)
    splits = made.with_name("splits.json")
    index(
        system=system,
        settings=settings.split,
        data=settings.data,
        prepared=caches,
        caches=caches,
        index=Output(made),
        splits=Output(splits),
    )
    [name] = settings.models
    places = [Path(paths.fold.format(model=name, fold=fold)) for fold in opened.folds]
    for fold, place in enumerate(places):
        train(
            system=system,
            settings=dump(settings.models[name]),
            prepared=system.kept(settings, name),
            index=made,
            fold=fold,
            seed=settings.seed,
            state=place / "training",
            model=Output(place / "model.pt"),
            log=Output(place / "log.csv"),
            provenance=Output(place / "provenance.json"),
            workers=0,
        )
        predict_fold(
            system=system,
            settings=settings.evaluate,
            index=made,
            fold=fold,
            model=place / "model.pt",
            state=Store(place / "testing"),
            predictions=Output(place / "predictions"),
            facts=Output(place / "predictions.json"),
        )
    place = Path(paths.ensemble.format(model=name))
    ensemble(
        system=system,
        settings=settings.evaluate,
        data=settings.data,
        models=[place / "model.pt" for place in places],
        prepared=caches,
        caches=caches,
        state=Store(place / "predicting"),
        predictions=Output(place / "predictions"),
        index=Output(place / "index.pkl"),
        facts=Output(place / "ensemble.json"),
    )
    held_out = [evaluate(opened, made, str(fold), place) for fold, place in enumerate(places)]
    evaluate(opened, place / "index.pkl", "ensemble", place, held_out)
    facts = Output(place.with_name("choice.json"))
    choose(system=system, settings=settings.evaluate, scores=held_out, facts=facts)


def evaluate(
    opened: Opened[Any, Any], cases: Path, fold: str, place: Path, choosing: list[Path] | None = None
) -> Path:
    """Score and export a fold or the ensemble; returns the folder of scores."""
    system, settings = opened.system, opened.settings
    folder, choice = place / "scores" / "predictions_0of1", place / "choice.json"
    score(
        system=system,
        settings=settings.evaluate,
        index=cases,
        predictions=place / "predictions",
        state=Store(place / "scoring"),
        scores=Output(folder),
    )
    metrics(
        system=system,
        settings=settings.evaluate,
        index=cases,
        fold=fold,
        choosing=choosing,
        scores=[folder],
        metrics=Output(place / "metrics.csv"),
        choice=Output(choice),
    )
    export(
        system=system,
        settings=settings.export,
        index=cases,
        predictions=place / "predictions",
        scores=[folder],
        choice=choice,
        folder=Output(place / "export"),
    )
    return folder


def contents(results: Path) -> dict[str, Any]:
    """Path of a file in the results → what it holds, without its record, times and versions."""
    found = {}
    for path in results.rglob("*"):
        name = str(path.relative_to(results))
        if path.suffix in READERS and not re.search(r"provenance|made_of|training|state/|benchmarks", name):
            found[name] = READERS[path.suffix](path)
    return found


def _hdf5(path: Path) -> Any:
    with open_hdf5(path) as file:
        attributes = {
            key: np.array(value).tolist()
            for key, value in file.attrs.items()
            if key not in (KEY, "fingerprint")
        }
        return attributes, {key: (item.shape, item[()].tobytes()) for key, item in file.items()}


def _csv(path: Path) -> Any:
    return pd.read_csv(path, dtype=str).drop(columns=[*TIMINGS, KEY], errors="ignore").to_csv()


def _json(path: Path) -> Any:
    return {key: value for key, value in read_json(path).items() if key not in (KEY, "provenance")}


def _pickle(path: Path) -> Any:
    return {key: value for key, value in read_pickle(path).items() if key != KEY}


def _model(path: Path) -> Any:
    state = torch.load(path, weights_only=True)
    return state["fold"], {key: (each.shape, each.tolist()) for key, each in state["network"].items()}


READERS: dict[str, Callable[[Path], Any]] = {
    **{".h5": _hdf5, ".csv": _csv, ".json": _json, ".pkl": _pickle, ".pt": _model}
}

# Edits. Some run jobs, which need not run again.


def replaced(case: str, later: float, world: World) -> None:
    """Another signal of the same size, in place; `later` than it was. s."""
    path = world.folder / f"{case}.npy"
    before = path.stat()
    np.save(path, -np.load(path))
    assert path.stat().st_size == before.st_size
    os.utime(path, (before.st_mtime + later, before.st_mtime + later))


def renamed_over(case: str, later: float, world: World) -> None:
    """Another signal with a file of its own, under the same name."""
    path = world.folder / f"{case}.npy"
    np.save(path.with_name("beside.npy"), np.load(path)[::-1])
    os.utime(path.with_name("beside.npy"), (path.stat().st_mtime + later,) * 2)
    path.with_name("beside.npy").replace(path)


def rewritten(case: str, later: float, world: World) -> None:
    """The same signal, written again."""
    path = world.folder / f"{case}.npy"
    seconds = path.stat().st_mtime + later
    path.write_bytes(path.read_bytes())
    os.utime(path, (seconds, seconds))


def row(old: str, new: str, world: World) -> None:
    """A row of the sheet."""
    sheet = world.folder / "signals.csv"
    text = sheet.read_text()
    assert f"{old}\n" in text
    sheet.write_text(text.replace(f"{old}\n", f"{new}\n"))


def noise(value: float, world: World) -> None:
    """A setting of the training."""
    world.experiment["models"]["layer"]["noise"] = value


def length(value: int, world: World) -> None:
    """A setting of all caches."""
    world.experiment["cache"] = {"length": value}


def forgotten(world: World) -> None:
    """All that Snakemake remembers."""
    shutil.rmtree(world.folder / ".snakemake")


def moved(name: str, world: World) -> None:
    """The results get another name."""
    world.results.rename(world.folder / name)
    world.experiment["results"] = name


def copied(name: str, world: World) -> None:
    """The results are copied, all with the present time."""
    shutil.copytree(world.results, world.folder / name, copy_function=shutil.copy)
    world.experiment["results"] = name


def deleted(pattern: str, world: World) -> None:
    """An output."""
    path = world.path(pattern)
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def swapped(pattern: str, other: str, world: World) -> None:
    """An output is replaced by another one of its kind."""
    shutil.copyfile(world.path(other), world.path(pattern))


def killed(last: str, world: World) -> Counter[str]:
    """A call after its first finished job of a rule."""
    return world.killed(last)


def killed_and_forgotten(world: World) -> Counter[str]:
    """A call after its first finished cache, with all that Snakemake remembers of it."""
    done = world.killed("signal_cache")
    forgotten(world)
    # The one that was running is complete, too, since the call did not wait for it.
    there = len(list(world.results.glob("data/signals/cache-*/s?.h5"))) - CASES
    assert there >= done["signal_cache"]
    return done | Counter(signal_cache=there)


@dataclass
class Step:
    """Edits, and the jobs that the next call must run, less those that the edits ran."""

    edits: list[Callable[[World], Counter[str] | None]]
    jobs: Counter[str]


CHAINS: dict[str, list[Step]] = {
    "sources": [
        Step([partial(replaced, "s0", -1000)], CASE),
        Step([partial(replaced, "s1", 0)], CASE),
        Step([forgotten, partial(rewritten, "s0", 1000), partial(rewritten, "s6", -1000)], NOTHING),
        Step([partial(renamed_over, "s6", 1000)], UNLABELLED),
        Step([forgotten, partial(renamed_over, "s2", -1000)], CASE),
    ],
    "sheet and settings": [
        Step([partial(row, "s0,s0,s0.npy,slow", "s0,s0,s0.npy,fast")], CASE),
        Step([partial(row, "s2,s2,s2.npy,slow", "s2,s4,s2.npy,slow")], ROW),
        Step([partial(noise, 0.5)], MODELS),
        Step([partial(noise, 0.1), forgotten], MODELS),
        Step([partial(length, 32)], ALL_CASES),
        Step([partial(length, 64)], ROW),
        Step([partial(row, "s0,s0,s0.npy,fast", "s0,s1,s0.npy,slow"), forgotten], CASE),
    ],
    "results": [
        Step([partial(moved, "renamed")], NOTHING),
        Step([partial(replaced, "s3", -1000)], CASE),
        Step([partial(copied, "copied")], NOTHING),
        Step([partial(deleted, "waves/layer/fold1/export")], Counter(export=1)),
        Step([partial(copied, "again"), forgotten, partial(rewritten, "s1", 1000)], NOTHING),
        Step([partial(swapped, "waves/layer/fold1/model.pt", "waves/layer/fold0/model.pt")], FOLD),
        Step(
            [partial(swapped, "waves/layer/fold0/metrics.csv", "waves/layer/fold1/metrics.csv"), forgotten],
            Counter(metrics=1, export=1, report=1),
        ),
        Step([partial(deleted, "waves/report.html"), partial(moved, "last")], Counter(report=1)),
    ],
    "killed calls": [
        Step([partial(replaced, "s5", -1000), partial(killed, "check")], CASE),
        Step([partial(noise, 0.5), partial(killed, "train")], MODELS),
        Step([partial(length, 32), killed_and_forgotten], ALL_CASES),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS)
def test_after_edits_the_results_are_those_of_a_fresh_run(chain: str, first: World, tmp_path: Path) -> None:
    world = first.copied(tmp_path / "run")
    problems = []
    for number, step in enumerate(CHAINS[chain]):
        done = Counter[str]()
        for edit in step.edits:
            done += edit(world) or NOTHING
        ran = world.call()
        if ran != step.jobs - done:
            problems.append(f"step {number}: ran {dict(ran)}; expected {dict(step.jobs)} but {dict(done)}")
        problems += [f"step {number}: {path}" for path in wrong(world, tmp_path / f"fresh{number}")]
        if left := planned(world.folder, world.experiment):
            problems.append(f"step {number}: {left} are still to do")
    assert problems == []


def test_a_source_is_replaced_after_its_cache_was_deleted(first: World, tmp_path: Path) -> None:
    world = first.copied(tmp_path / "run")
    deleted("data/signals/cache-*/s0.h5", world)
    replaced("s0", -1000, world)
    assert planned(world.folder, world.experiment) == CASE


def test_without_snakemakes_records_settings_are_compared(first: World, tmp_path: Path) -> None:
    world = first.copied(tmp_path / "run")
    forgotten(world)
    assert planned(world.folder, world.experiment) == NOTHING
    for changed in ({"optimiser": {"name": "SGD", "lr": 0.1}}, {"training": {**TRAINING, "epochs": 2}}):
        model = {**world.experiment["models"]["layer"], **changed}
        assert planned(world.folder, {**world.experiment, "models": {"layer": model}}) == MODELS


def test_an_index_that_was_copied_alone_is_refused(first: World, tmp_path: Path) -> None:
    alone, place = tmp_path / "index.pkl", first.results / "waves" / "layer" / "fold0"
    shutil.copyfile(first.path("waves/index.pkl"), alone)
    where = tmp_path.parent / "data" / "signals"
    with chdir(first.folder):
        opened = open_experiment(first.experiment, main=False)
    with pytest.raises(
        CaseError, match=rf"case s\d: its cache is not at {where}/cache-.*was the index copied"
    ):
        predict_fold(
            system=opened.system,
            settings=opened.settings.evaluate,
            index=alone,
            fold=0,
            model=place / "model.pt",
            state=Store(tmp_path / "state"),
            predictions=Output(tmp_path / "predictions"),
            facts=Output(tmp_path / "predictions.json"),
        )


def test_status_lists_what_is_stale_and_why(first: World, tmp_path: Path) -> None:
    world = first.copied(tmp_path / "run")
    assert "stale" not in status(world)
    replaced("s4", -1000, world)
    noise(0.5, world)
    [cache] = (path.relative_to(world.folder) for path in world.results.glob("data/signals/cache-*/s4.h5"))
    said = status(world)
    assert f"stale (signal_cache): {cache}: s4.npy has changed\n" in said
    assert "stale (index): results/waves/index.pkl: made from stale outputs\n" in said
    train = "stale (train): results/waves/layer/fold0/provenance.json and 1 more: model.noise: 0.1 → 0.5\n"
    assert train in said
    # It changes nothing: the next call finds the same.
    assert planned(world.folder, world.experiment) == CASE


def status(world: World) -> str:
    command(world.folder, world.experiment)
    words = [python(), "-m", "foldwise", "status", "experiment.yaml"]
    return subprocess.run(words, cwd=world.folder, check=True, capture_output=True, encoding="utf-8").stdout
