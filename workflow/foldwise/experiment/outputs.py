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
from foldwise.experiment.paths import ENSEMBLE

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
    preparation = opened.preparation
    before: list[str] = []
    for name, stage in preparation.stages.items():
        if preparation.plan and name == list(preparation.stages)[-1]:
            if opened.settings.part is None:
                yield [*_markers(opened, [preparation.indexed])]
                ready = opened.parts.ready(opened.training, preparation.indexed)
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
    encoded = [path for path in preparation.made if Path(path).parent.name in preparation.encodings]
    caches = [path for path in preparation.made if path not in encoded]
    yield [*_markers(opened, caches if preparation.plan else [preparation.indexed, *caches])]
    yield [*_markers(opened, encoded)]


def _markers(opened: Opened[Any, Any], patterns: Sequence[str]) -> Iterator[Made]:
    """Markers of the parts of these files, if there are parts."""
    parts, took = opened.parts, f"{opened.preparation.data}/benchmarks/prepare_part"
    markers: dict[str, list[str]] = {}
    for case in opened.sheet.cases if parts.count is not None else ():
        for pattern in patterns:
            [marker] = parts.ready([case], pattern)
            markers.setdefault(marker, []).append(pattern.format(case=case.name))
    for path in map(Path, markers):
        folder, name = path.parent.name, path.stem
        after = [*markers[str(path)], *parts.before(folder, name)]
        yield Made("prepare_part", str(path), None, after, (f"{took}/{folder}_{name}.tsv",))


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
    folder, ready = paths.experiment, opened.parts.ready
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

    results = [_Results(opened, depends, model) for model in opened.settings.models]
    for each in results:
        yield from each.levels()
    after = [f"{folder}/check.json", f"{folder}/splits.json"]
    after += ready(opened.sheet.cases, preparation.noticed) if preparation.noticed else []
    after += [path for each in results for path in (*each.of_folds("log.csv"), *each.shown)]
    shown = (f"{folder}/report.html", f"{folder}/summary.csv")
    yield [Made("report", f"{folder}/summary.json", depends.report(), after, shown)]


class _Results:
    """Outputs of a model after its training."""

    def __init__(self, opened: Opened[Any, Any], depends: Depends, model: str) -> None:
        self._opened, self._depends, self._model, self._paths = opened, depends, model, opened.paths

    def of_folds(self, name: str) -> list[str]:
        """A file of each fold."""
        return [self._in(f"fold{fold}", name) for fold in self._opened.folds]

    @property
    def shown(self) -> list[str]:
        """Scores and choices of all folds and of the ensemble, and further tests."""
        scored = [self._in(p, name) for p in self._opened.places for name in ("choice.json", "metrics.csv")]
        return [*scored, *self._opened.further(self._model)]

    def levels(self) -> Iterator[list[Made]]:
        """All but the predictions of folds."""
        opened, of = self._opened, [self._model]
        if opened.others:
            yield [self._ensemble()]
        yield [one for place in opened.places for one in self._scores(place)]
        chosen = self._in("choice.json")
        held_out = opened.held_out_scores(self._model)
        choice = Made("choose", chosen, self._depends.of(of, "choose"), held_out)
        yield [choice, *map(self._metrics, opened.places)]
        yield [*map(self._export, opened.places)]
        if opened.settings.predict is not None:
            parts = opened.settings.predict.parts
            named = [(str(part), str(parts)) for part in range(parts)]
            yield [self._new(*one) for one in named]
            yield [self._published(*one, chosen) for one in named]

    def _in(self, *names: str) -> str:
        return "/".join((self._paths.experiment, self._model, *names))

    def _ensemble(self) -> Made:
        opened, ready = self._opened, self._opened.parts.ready
        after = [*self.of_folds("model.pt"), *ready(opened.others, opened.preparation.indexed)]
        after += ready(opened.others, opened.preparation.ensemble_inputs(self._model))
        took = f"{self._paths.experiment}/benchmarks/ensemble/{self._model}.tsv"
        also = (self._in(ENSEMBLE, "predictions"), self._in(ENSEMBLE, "index.pkl"), took)
        return Made(
            "ensemble", self._in(ENSEMBLE, "ensemble.json"), self._depends.ensemble(self._model), after, also
        )

    def _scores(self, place: str) -> Iterator[Made]:
        for share in self._opened.shares(place):
            listed = self._opened.scores(self._model, place, share)
            for part, path in enumerate(listed):
                of = [self._model, place, share, str(part), str(len(listed))]
                after = [self._paths.scored(self._model, place), self._in(place, share)]
                name = f"{self._model}_{place}_{Path(path).name}.tsv"
                also = (f"{self._paths.experiment}/benchmarks/score/{name}",)
                yield Made("score", path, self._depends.of(of, "choose", "score"), after, also)

    def _metrics(self, place: str) -> Made:
        opened, of = self._opened, [self._model, place]
        after = [self._paths.scored(*of), *opened.scores(*of), *opened.choosing(*of)]
        also = (self._in(place, "metrics.csv"),)
        return Made("metrics", self._in(place, "choice.json"), self._depends.of(of, "choose"), after, also)

    def _export(self, place: str) -> Made:
        of = [self._model, place]
        after = [self._in(place, "predictions"), *self._opened.scores(*of), self._in(place, "choice.json")]
        given = self._depends.of(of, "export")
        also = (f"{self._paths.experiment}/benchmarks/export/{self._model}_{place}.tsv",)
        return Made("export", self._in(place, "export"), given, [self._paths.scored(*of), *after], also)

    def _new(self, part: str, parts: str) -> Made:
        path = f"{self._paths.new}/part{part}of{parts}".format(model=self._model)
        given = self._depends.of([self._model, part, parts], new=self._opened.new_cases)
        took = f"{self._paths.experiment}/benchmarks/predict_part/{self._model}_{part}of{parts}.tsv"
        also = (path, f"{path}.pkl", took)
        return Made("predict_part", f"{path}.json", given, self.of_folds("model.pt"), also)

    def _published(self, part: str, parts: str, chosen: str) -> Made:
        name = f"part{part}of{parts}"
        predicted = f"{self._paths.new}/{name}".format(model=self._model)
        path = f"{self._paths.predicted}/{name}.json".format(model=self._model)
        given = self._depends.of([self._model, part, parts], "export")
        after = [predicted, f"{predicted}.pkl", f"{predicted}.json", chosen]
        return Made("publish", path, given, after)


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
            took = f"{paths.experiment}/benchmarks/{{}}/{model}_fold{fold}{{}}.tsv"
            also = (f"{place}/model.pt", f"{place}/log.csv", took.format("train", ""))
            given = depends.training(model, fold)
            trained.append(Made("train", f"{place}/provenance.json", given, [*after, *plan], also))
            for share in opened.shares(f"fold{fold}"):
                given, made_from = depends.of([model, fold, share], "predict"), [*after, f"{place}/model.pt"]
                timed = took.format("test", f"_{share}")
                tested.append(
                    Made("test", f"{place}/{share}.json", given, made_from, (f"{place}/{share}", timed))
                )
            for name, further in opened.settings.further_tests.items():
                after = [paths.index, *opened.frames_of(model), f"{place}/model.pt"]
                given, own = depends.of([model, fold], further.work), f"{place}/{name}"
                beside = (f"{own}.csv", took.format(name, ""))
                tested.append(Made(name, f"{own}.json", given, after, beside))
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
