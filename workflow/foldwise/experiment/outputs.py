"""Every output of an experiment: which rule makes it, what it depends on, and which outputs it is made from.

The rules in workflow/rules say the same to Snakemake, which tests/workflow/test_outputs.py compares. It is
needed here too, since outputs are judged before Snakemake builds its DAG, and by `status` without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foldwise.experiment.depends import Depends
from foldwise.experiment.open import Opened

# Formats that hold a record; folders do, too.
CARRIERS = (".h5", ".json", ".pkl", ".yaml")


def holds_record(path: str) -> bool:
    """Whether an output, or a pattern of outputs, is a folder or has a format that holds a record."""
    return Path(path).suffix in ("", *CARRIERS)


@dataclass(frozen=True)
class Made:
    """An output, with others of the same job.

    Attributes:
        rule: the rule that makes it.
        path: an output that holds a record.
        depends: the rule's `params.depends`; None for a marker, which is judged by `after` alone.
        after: other outputs that it is made from.
        also: other outputs of the same job; Snakemake's benchmarks are outputs, too.
    """

    rule: str
    path: str
    depends: str | None
    after: Sequence[str] = ()
    also: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """All outputs."""
        return (self.path, *self.also)

    @property
    def with_record(self) -> list[str]:
        """Outputs that hold a record."""
        return [self.path, *filter(holds_record, self.also)]


def all_outputs(opened: Opened[Any, Any], depends: Depends | None = None) -> list[list[Made]]:
    """All outputs of an experiment, in levels: each is made from those of earlier levels alone.

    Args:
        opened: the experiment.
        depends: what depends on its settings, if not as `opened` says.
    """
    depends = depends or opened.depends
    levels = [*_prepared(opened, depends)]
    if opened.settings.part is None:
        levels += _learned(opened, depends)
    return [level for level in levels if level]


def _prepared(opened: Opened[Any, Any], depends: Depends) -> Iterator[list[Made]]:
    """Outputs for single cases, the plan, and the markers of parts."""
    preparation, parts = opened.preparation, opened.parts
    before: list[str] = []
    for name, stage in preparation.stages.items():
        if preparation.plan and name == list(preparation.stages)[-1]:
            if opened.settings.part is None:
                ready = parts.ready(opened.training, preparation.indexed)
                yield [Made("plan", preparation.plan, depends.plan(), ready)]
            before.append(preparation.plan)
        level = []
        for case in opened.sheet.cases:
            given, after = depends.case(name, case.name), [path.format(case=case.name) for path in before]
            for first, *others in _with_record(stage.outputs):
                others.append(f"{preparation.data}/benchmarks/{name}/{{case}}.tsv")
                also = tuple(path.format(case=case.name) for path in others)
                level.append(Made(name, first.format(case=case.name), given, after, also))
        yield level
        before += stage.outputs
    if parts.count is not None:
        markers: dict[str, list[str]] = {}
        for case in opened.sheet.cases:
            for pattern in (preparation.indexed, *preparation.made):
                [marker] = parts.ready([case], pattern)
                markers.setdefault(marker, []).append(pattern.format(case=case.name))
        yield [Made("prepare_part", marker, None, after) for marker, after in markers.items()]


def _with_record(patterns: Sequence[str]) -> list[list[str]]:
    """Patterns that hold a record, each with the following ones that do not."""
    groups: list[list[str]] = []
    for pattern in patterns:
        if groups and not holds_record(pattern):
            groups[-1].append(pattern)
        else:
            groups.append([pattern])
    return groups


def _learned(opened: Opened[Any, Any], depends: Depends) -> Iterator[list[Made]]:
    """Outputs of the experiment as a whole, and of its models."""
    paths, preparation = opened.paths, opened.preparation
    folder, models, ready = paths.experiment, list(opened.settings.models), opened.parts.ready
    yield [Made("check", f"{folder}/check.json", depends.check())]
    training = ready(opened.training, preparation.indexed)
    yield [Made("index", paths.made_index, depends.index(), training, (f"{folder}/splits.json",))]
    if paths.updated:
        after = [paths.made_index, *ready(opened.training, preparation.noticed or preparation.cached)]
        yield [
            Made(
                "update_labels",
                paths.index,
                depends.of((), "index"),
                after,
                (f"{folder}/splits-updated.json",),
            )
        ]
    yield from _folds(opened, depends)

    def each(name: str, model: str) -> list[str]:
        return [f"{paths.fold}/{name}".format(model=model, fold=fold) for fold in opened.folds]

    level = []
    for model in models:
        after = [paths.index, *each("predictions", model)]
        level.append(Made("choose", f"{folder}/{model}/choice.json", depends.of([model], "choose"), after))
        for fold in map(str, opened.folds):
            place = paths.fold.format(model=model, fold=fold)
            after = [paths.index, f"{place}/predictions", f"{place}/test.json"]
            level.append(Made("export", f"{place}/export", depends.of([model, fold], "export"), after))
    yield level
    others = ready(opened.others, preparation.indexed)
    level = []
    for model in models:
        trained = [*each("model.pt", model), f"{folder}/{model}/choice.json"]
        if others:
            place = paths.ensemble.format(model=model)
            after = [*trained, *others, *ready(opened.others, preparation.ensemble_inputs(model))]
            took = f"{folder}/benchmarks/ensemble/{model}.tsv"
            also = (f"{place}/predictions", f"{place}/export", f"{place}/metrics.csv", took)
            level.append(Made("ensemble", f"{place}/ensemble.json", depends.ensemble(model), after, also))
        if opened.settings.predict is not None:
            parts = opened.settings.predict.parts
            for part in map(str, range(parts)):
                path = f"{paths.predicted}/part{part}of{parts}.json".format(model=model)
                given = depends.of([model, part, str(parts)], "export", new=opened.new_cases)
                level.append(Made("predict_part", path, given, trained))
    yield level
    after = [f"{folder}/check.json", f"{folder}/splits.json"]
    after += ready(opened.sheet.cases, preparation.noticed) if preparation.noticed else []
    for model in models:
        after += [*each("log.csv", model), *each("metrics.csv", model)]
        after += [f"{paths.ensemble.format(model=model)}/metrics.csv"] if others else []
    shown = (f"{folder}/report.html", f"{folder}/summary.csv")
    yield [Made("report", f"{folder}/summary.json", depends.report(), after, shown)]


def _folds(opened: Opened[Any, Any], depends: Depends) -> Iterator[list[Made]]:
    """Outputs of single folds: models that learn from other models' features come after those."""
    paths, preparation = opened.paths, opened.preparation
    plan = [preparation.plan] if preparation.plan else []
    caches = opened.parts.ready(opened.training, preparation.cached)
    banked = {name: preparation.inputs(name) not in preparation.made for name in opened.settings.models}
    for later in (False, True):
        trained, tested = [], []
        for model, fold in ((m, str(f)) for m in banked for f in opened.folds if banked[m] is later):
            place = paths.fold.format(model=model, fold=fold)
            after = [paths.index, *opened.trained_on(model, fold)]
            took = f"{paths.experiment}/benchmarks/{{}}/{model}_fold{fold}.tsv"
            also = (f"{place}/model.pt", f"{place}/log.csv", took.format("train"))
            given = depends.training(model, fold)
            trained.append(Made("train", f"{place}/provenance.json", given, [*after, *plan], also))
            also = (f"{place}/predictions", f"{place}/metrics.csv", took.format("test"))
            given = depends.of([model, fold], "predict", "choose", "score")
            tested.append(Made("test", f"{place}/test.json", given, [*after, f"{place}/model.pt"], also))
        yield trained
        yield tested
        level = []
        for model, bank in ((m, preparation.bank(m)) for m in banked if not later):
            for fold in map(str, opened.folds if bank else ()):
                after = [paths.made_index, f"{paths.fold}/model.pt".format(model=model, fold=fold), *caches]
                given = depends.of([model, fold], "features")
                took = f"{paths.experiment}/benchmarks/features/{model}_fold{fold}.tsv"
                level.append(Made("features", str(bank).format(fold=fold), given, after, (took,)))
        yield level
