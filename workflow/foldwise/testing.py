"""The test suite for every system, ours and those of other packages.

    from foldwise.testing import check_system

    def test_my_system(tmp_path):
        check_system(MySystem(), experiment, tmp_path)

The folder holds the data that the experiment names: at least four labelled cases of as many patients, and one
without a label. With very small models, the whole suite takes a minute.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence, Sized
from contextlib import chdir
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from foldwise.experiment.open import Opened, open_experiment
from foldwise.files import read_json, source_files, write_json
from foldwise.hdf5 import open_hdf5
from foldwise.index import Entry, Index
from foldwise.places import ROOT, SNAKEFILE
from foldwise.scores import scores_in, table_of
from foldwise.section import touches
from foldwise.settings import Model, dump, validate
from foldwise.sheet import Sheet
from foldwise.systems import system_of
from foldwise.systems.base import System
from foldwise.training.attempts import Attempts
from foldwise.training.budget import Budget
from foldwise.training.learner import Learner
from foldwise.training.loop import Run, Trainer
from foldwise.training.steps import Items, collate


def check_system(system: System[Any, Any], experiment: Mapping[str, Any], folder: Path) -> None:
    """Check that a system fulfils its contract with the workflow.

    Args:
        system: the system.
        experiment: settings of an experiment of two folds or more.
        folder: base folder of its paths; the results are written there, too.

    Raises:
        AssertionError: it does not; the message states what was expected.
    """
    with chdir(folder):
        check_settings(system, experiment)
        _snakemake(experiment, "prepared", "results/check/splits.json")
        opened = open_experiment({**experiment, "experiment": "check"}, main=False)
        check_names(system, opened)
        index = Index.read(Path(opened.paths.index))
        check_entries(system, opened, index)
        for name in opened.settings.models:
            check_learner(system, opened, name, index, Path("learners") / name)
        _snakemake(experiment)
        for name in opened.settings.models:
            check_predictions(system, opened, name, index)
        check_killed_stages(opened, experiment)
        check_replaced_sources(opened, experiment)


def check_settings(system: System[Any, Any], experiment: Mapping[str, Any]) -> None:
    """Settings survive JSON, and settings affect each kind of work that every experiment does."""
    settings = validate(system.settings, dict(experiment))
    again = validate(system.settings, json.loads(json.dumps(dump(settings))))
    assert again == settings, "settings that are written as JSON and read again must be equal"
    assert settings.system == system.name, f"`system: {system.name}` must name the system"
    assert system_of(system.name).settings is system.settings, f"{system.name} must be registered"
    for work in ("index", "train"):
        assert touches(system.settings, work), f"no setting affects {work!r}"
    assert system.rules.is_file(), f"{system.rules}: the file of its rules must be there"


def check_names(system: System[Any, Any], opened: Opened[Any, Any]) -> None:
    """Names follow from the settings alone, and dependencies are the same in the user's call and in jobs."""
    settings, sheet = opened.settings, opened.sheet
    first, second = (system.preparation(settings, sheet) for _ in range(2))
    assert first.caches == second.caches, "folders of prepared data must follow from the settings alone"
    empty = system.preparation(settings, Sheet((), ()))
    assert empty.caches == first.caches, "folders of prepared data must not depend on the cases"
    footprint = system.footprint
    named = footprint.disk_mib(footprint.typical, settings)
    assert {*named} == {*first.stages}, (
        "the footprint must name the disk space of each rule that prepares a case"
    )
    for name in settings.models:
        results = footprint.results_mib(footprint.typical, settings, name)
        assert {"predictions", "scores", "export"} <= {*results}, (
            "the footprint must name the disk space of results"
        )
    again = open_experiment({**dump(settings), "experiment": "check"}, main=True)
    for name in settings.models:
        assert again.depends.training(name, "0") == opened.depends.training(name, "0"), (
            "what a training depends on must be the same in the user's call and in jobs"
        )
    assert again.depends.index() == opened.depends.index(), "what the index depends on must be the same, too"


def check_entries(system: System[Any, Any], opened: Opened[Any, Any], index: Index) -> None:
    """The index holds the labelled cases, other entries the rest; each has a cache that records its name."""
    prepared = Path(opened.preparation.indexed).parent
    task, others = system.entries(
        opened.settings.data, prepared, Path(opened.preparation.caches), training=False
    )
    if others:
        assert task == index.task, "what is learnt must be the same for all cases"
    assert {e.case for e in index.entries} == {c.name for c in opened.training}, "the index misses cases"
    assert {e.case for e in others} == {c.name for c in opened.others}, "some of the other cases are missing"
    assert others, "the data must include a case without a label"
    for entry in [*index.entries, *others]:
        with open_hdf5(entry.cache) as file:
            assert file.attrs.get("case") == entry.case, (
                f"{entry.cache}: its attribute `case` must be the case's name"
            )
            assert file.attrs.get("content"), (
                f"{entry.cache}: its attribute `content` must be a hash of its arrays"
            )


def check_learner(
    system: System[Any, Any], opened: Opened[Any, Any], name: str, index: Index, folder: Path
) -> None:
    """Items, losses, validation, and a training that is stopped and continued."""
    fold = index.folds[0]
    pattern = opened.preparation.inputs(name)
    if pattern not in opened.preparation.made:
        return  # it learns from another model's features, which do not exist yet
    paths = {case: pattern.format(case=case) for case in (*fold.train, *fold.validation)}
    train, validation = ([paths[case] for case in part] for part in (fold.train, fold.validation))
    model = system.learner.fitted(opened.settings.models[name], train)
    training = model.training.model_copy(update={"epochs": 2, "steps_per_epoch": 2, "validate_every": 1})
    model = model.model_copy(update={"training": training})
    learner = system.learner(model, index.task)
    assert system.learner.fitted(model, train) == model, "fitting again must change nothing"
    _check_items(learner, train)
    more = training.model_copy(update={"epochs": 2 * training.epochs})
    longer = system.learner(model.model_copy(update={"training": more}), index.task)
    if not learner.counts_epochs:
        _check_same(learner.items(train, (3, 1)), longer.items(train, (3, 1)), "unless `counts_epochs`")
    _check_loss(learner, train)
    _check_validation(learner, validation or train[:1])
    # An empty validation share, and a single case.
    whole = _trained(learner, model, train[:1], [], folder / "one")
    assert whole, "a training of one case without validation must end with weights"
    several = [*(validation or train[:1]), *train]
    undisturbed = _trained(learner, model, train, several, folder / "whole")
    # The stops are within the epoch and within its validation, which each job must carry on.
    resumed = _trained(learner, model, train, several, folder / "parts", 1, 2, 3, 1)
    assert undisturbed.keys() == resumed.keys()
    for key, value in undisturbed.items():
        assert torch.equal(value, resumed[key]), f"{key}: a training that was stopped must end bit-equal"


def check_predictions(system: System[Any, Any], opened: Opened[Any, Any], name: str, index: Index) -> None:
    """Held-out and other cases are predicted, scored if they have a label, and exported."""
    results, settings = system.results, opened.settings
    folder = Path(opened.paths.fold.format(model=name, fold=0))
    predictions = {case: folder / "predictions" / f"{case}.h5" for case in index.folds[0].test}
    for case, path in predictions.items():
        assert path.is_file(), f"{case}: a held-out case must have a prediction"
    evaluate, scores = settings.evaluate, {}
    for case, path in predictions.items():
        results.write_scores(path, index[case], index.task, evaluate, scored := Path(f"{case}-scores.h5"))
        scores[case] = scores_in(scored)
    chosen = read_json(folder / "choice.json")["chosen"]
    assert results.choose({}, evaluate) in results.choices(evaluate), "without cases, choose the first choice"
    assert results.choose(scores, evaluate) in results.choices(evaluate), "choose one of `choices`"
    table = table_of(index.entries, scores, chosen, "0")
    assert set(table["case"]) == set(predictions), "every labelled case must be scored"
    written = pd.read_csv(folder / "metrics.csv")
    again = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    pd.testing.assert_frame_equal(written[list(again)], again, obj="scores of the same predictions")
    first = results.view.metrics[0].key
    classes = read_json(Path(opened.paths.experiment) / "summary.json")["models"][name]
    summarised = any(first in metrics for metrics in classes.values())
    assert summarised, f"the summary lacks the first metric, {first}"
    ensemble = Path(opened.paths.ensemble.format(model=name)) / "predictions"
    unlabelled = [case for case in opened.others if not case.labelled]
    for case in unlabelled:
        path = ensemble / f"{case.name}.h5"
        assert path.is_file(), f"{case.name}: a case without a label must be predicted"
        entry = _entry(system, opened, case.name)
        rows = list(results.score_case(path, entry, index.task, evaluate, chosen))
        assert rows == [], f"{case.name}: a case without a label must not be scored"


def check_killed_stages(opened: Opened[Any, Any], experiment: Mapping[str, Any]) -> None:
    """After a successful run nothing is left to do; only a lost file is computed again."""
    assert "Nothing to be done" in _snakemake(experiment, "--dry-run"), "a second run must find nothing to do"
    name = next(iter(opened.settings.models))
    metrics = Path(opened.paths.fold.format(model=name, fold=0)) / "metrics.csv"
    before = pd.read_csv(metrics)["case"]
    metrics.unlink()
    _snakemake(experiment, str(metrics))
    assert pd.read_csv(metrics)["case"].equals(before), "scores computed again must be of the same cases"


def check_replaced_sources(opened: Opened[Any, Any], experiment: Mapping[str, Any]) -> None:
    """Cases whose files are replaced by older ones are prepared again; others are not, nor touched ones."""
    first, second, third = opened.training[:3]
    _snakemake(experiment)
    for path in (*first.files, *second.files):
        for file in source_files(path):
            os.utime(file)
    assert "Nothing to be done" in _snakemake(experiment, "--dry-run"), "touched files must change nothing"
    # Exchanged, since no recording may be that of two patients.
    for one, other in zip(first.files, second.files, strict=True):
        for file, exchanged in zip(source_files(one), source_files(other), strict=False):
            contents = file.read_bytes(), exchanged.read_bytes()
            for path, content in zip((exchanged, file), contents, strict=True):
                path.write_bytes(content)
                os.utime(path, (1, 1))
    planned = _snakemake(experiment, "--dry-run")
    cache = opened.preparation.cached.format
    for case in (first, second):
        assert f"output: {cache(case=case.name)}" in planned, "a case with other files must be prepared again"
    assert f"output: {cache(case=third.name)}" not in planned, "other cases must not"


def _check_items(learner: Learner[Any], train: Sequence[str]) -> None:
    one, other = (learner.items(train, (3, 1)) for _ in range(2))
    sent = pickle.loads(pickle.dumps(one))  # as when sent to loader processes
    _check_same(one, other, "whenever it is made")
    _check_same(one, sent, "also in a loader process")


def _check_same(one: Items, other: Items, when: str, numbers: Sequence[int] = (0, 1, 7)) -> None:
    for number in numbers:
        item, same = one[number], other[number]
        equal = item.keys() == same.keys() and all(torch.equal(item[key], same[key]) for key in item)
        assert equal, f"an item is a pure function of (seed, n), {when}"


def _check_validation(learner: Learner[Any], caches: Sequence[str]) -> None:
    """Samples are the same every time, and cases contribute plain values that can be kept in a file."""
    one, other = (learner.validation_items(caches, (3, 1)) for _ in range(2))
    network = learner.network().eval()
    if not isinstance(one, Sized) or len(one):
        numbers = [0] if isinstance(one, Sized) and len(one) == 1 else [0, 1]
        _check_same(one, other, "also in validation", numbers)
        with torch.no_grad():
            values = [learner.validation_loss(network, collate([one[n] for n in numbers])) for _ in range(2)]
        equal = all(torch.equal(value, values[1][name]) for name, value in values[0].items())
        assert equal, "the loss of validation samples must not be random: no augmentation, no drop-out"
        columns = learner.validation_columns({k: v.double().numpy() for k, v in values[0].items()})
        assert {"score", "val_loss"} <= columns.keys(), "validation_columns must give `score` and `val_loss`"
    cases = [learner.validate_case(network, cache, number) for number, cache in enumerate(caches)]
    file = io.BytesIO()
    torch.save(cases, file)
    file.seek(0)
    kept = learner.validated(torch.load(file, weights_only=True))
    assert "score" in kept, "validated must return a `score`"
    again = learner.validated(cases)
    equal = all(again[name] == value or value != value for name, value in kept.items())
    assert equal, "what a validation case contributes must be plain values and tensors"


def _check_loss(learner: Learner[Any], train: Sequence[str]) -> None:
    items = learner.items(train, (0, 0))
    batch = collate([items[number] for number in range(learner.model.training.batch)])
    network = learner.network()
    losses = learner.loss(network, batch, torch.Generator().manual_seed(0))
    assert "loss" in losses, "loss must return `loss`"
    assert losses["loss"].ndim == 0, "`loss` must be a scalar"
    assert torch.isfinite(losses["loss"]), "`loss` must be finite for a new network"
    losses["loss"].backward()
    assert any(p.grad is not None for p in network.parameters()), "`loss` must have gradients"


class _StopsAfter(Budget):
    """A time limit that is reached after some steps."""

    def __init__(self, steps: int) -> None:
        super().__init__(None)
        self._left = steps

    def spent_on(self, seconds: float) -> None:
        self._left -= 1

    @property
    def reason(self) -> str | None:
        return "stopped" if self._left <= 0 else None


def _trained(
    learner: Learner[Any],
    model: Model,
    train: Sequence[str],
    validation: Sequence[str],
    folder: Path,
    *stops: int,
) -> dict[str, torch.Tensor]:
    """Weights of a training in jobs that stop after some steps, and a last job that finishes it."""
    run = Run(model, train, validation, (0, 0), "check", folder)
    for number, steps in enumerate([*stops, 10**6], start=1):
        attempts = Attempts(folder / "attempts.jsonl", number)
        trainer = Trainer(run, learner, attempts, _StopsAfter(steps))
        trainer.fit()
    assert trainer.best is not None
    return dict(trainer.best["network"])


def _entry(system: System[Any, Any], opened: Opened[Any, Any], case: str) -> Entry:
    prepared, caches = Path(opened.preparation.indexed).parent, Path(opened.preparation.caches)
    _, entries = system.entries(opened.settings.data, prepared, caches, training=False)
    return next(entry for entry in entries if entry.case == case)


def _snakemake(experiment: Mapping[str, Any], *targets: str) -> str:
    config = Path("check.json")
    write_json(config, {**experiment, "experiment": "check"})
    done = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), *targets),
            *("--profile", str(ROOT / "profiles" / "local"), "--cores", "1", "--configfile", str(config)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout
