"""The table of outputs says the same as the rules: every job of a dry run, its outputs and its inputs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from every_system import clips, installed_here, interactive, segmentation, signals, surgical
from experiments import snakemake
from foldwise.experiment.open import open_experiment
from foldwise.experiment.outputs import Made, all_outputs
from tiny_clip import save_clip
from ultrasound import SMALL


@dataclass(frozen=True)
class Job:
    """A job of a dry run; benchmarks are outputs, too."""

    rule: str
    inputs: frozenset[str]
    outputs: frozenset[str]


def jobs_of(text: str) -> list[Job]:
    """All jobs of a dry run's text, but those that only collect others' outputs."""
    found = []
    for block in re.split(r"\n(?=\[|(?:local)?rule )", text):
        if rule := re.match(r"(?:local)?rule (\w+):", block):
            lines = dict(re.findall(r"^    (\w+): (.+)$", block, re.MULTILINE))
            named = {key: frozenset(lines.get(key, "").split(", ")) - {""} for key in lines}
            outputs = named.get("output", frozenset()) | named.get("benchmark", frozenset())
            if outputs:
                found.append(Job(rule[1], named["input"], outputs))
    return found


def with_lungs(folder: Path) -> dict[str, Any]:
    return {**segmentation(folder), "prepare": {"lung_mask": {}, "crop": {"to": "lungs"}}}


def planned_first(folder: Path) -> dict[str, Any]:
    values = segmentation(folder)
    return {**values, "plan": {"memory": "small"}, "models": {"unet": {"network": {"name": "BasicUNet"}}}}


def with_new_cases(folder: Path) -> dict[str, Any]:
    return {**segmentation(folder), "predict": {"source": "cases.csv", "parts": 2}}


def with_features(folder: Path) -> dict[str, Any]:
    """Models that learn from features of two kinds and from the clips, also tested on changed frames."""
    save_clip(folder / "clip")
    evl = {**SMALL, "network": {"name": "EVL", "weights": "clip", "blocks": 2}}
    models = {"small": SMALL, "evl": {**evl, "input": "crop", "features": {"views": 2}}, "whole": evl}
    more = {"models": models, "evaluate": {"perturb": {}}}
    return {**clips(folder), "prepare": {"regions": {"method": "fan"}}, **more}


def with_updated_labels(folder: Path) -> dict[str, Any]:
    values = {**clips(folder), "prepare": {"regions": {"method": "fan"}}}
    return {**values, "data": {**values["data"], "update_labels": True}}


@pytest.fixture(scope="module")
def _package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with installed_here(tmp_path_factory.mktemp("site")):
        yield


WHOLE = [
    *(segmentation, with_lungs, planned_first, with_new_cases),
    *(interactive, surgical, clips, with_features, with_updated_labels, signals),
]
DIVIDED = [with_lungs, planned_first, with_features, with_updated_labels, signals]


@pytest.mark.slow
@pytest.mark.usefixtures("_package")
@pytest.mark.parametrize(
    ("data", "parts"), [*((data, None) for data in WHOLE), *((data, 2) for data in DIVIDED)]
)
def test_the_table_of_outputs_says_the_same_as_the_rules(
    data: Callable[[Path], dict[str, Any]], parts: int | None, tmp_path: Path
) -> None:
    experiment = data(tmp_path)
    targets = ["all", *(["predict"] if "predict" in experiment else [])]
    # In parts, nothing asks for single cases.
    targets += ["--set-scatter", f"prepare={parts}"] if parts else ["prepared"]
    jobs = jobs_of(snakemake(tmp_path, experiment, "--dry-run", *targets))
    with chdir(tmp_path):
        opened = open_experiment(experiment, main=False)
        levels = all_outputs(opened)
    table = [made for level in levels for made in level]
    missing = {path for made in table for path in made.paths}
    for level in levels:
        # What is made from later levels would be judged too early.
        assert not missing & {path for made in level for path in made.after}
        missing -= {path for made in level for path in made.paths}
    stages = opened.preparation.stages
    if parts:
        # A part's job prepares its cases by the rules of single cases.
        prepared = {path for made in table if made.rule in stages for path in files(made.paths)}
        markers = {made.path for made in table if made.depends is None}
        for made in (made for made in table if made.path in markers):
            of_cases = {*made.after} - {opened.paths.plan} - markers
            assert of_cases <= prepared
            cases = {case.name for case in opened.parts.cases(Path(made.path).stem)}
            assert {Path(path).stem for path in of_cases} == cases
        table = [made for made in table if made.rule not in stages]
    makers = {path: job for job in jobs for path in job.outputs}
    said = defaultdict[Job, list[Made]](list)
    for made in table:
        said[makers[made.path]].append(made)
    assert {*said} == {*jobs}
    for job, each in said.items():
        assert {made.rule for made in each} == {job.rule.removesuffix("_gpu")}
        paths = {path for made in each for path in made.paths}
        assert files(paths) == files(job.outputs)
        assert job.outputs <= paths
        inputs = job.inputs & makers.keys()
        for made in each:
            if made.depends is None:
                assert inputs <= {*made.after}
            elif made.rule in stages:
                # All earlier stages of a case: what a job reads, and nothing that it would not follow.
                assert inputs <= {*made.after} <= follows(job, makers)
            else:
                assert inputs == {*made.after}


def files(paths: Iterable[str]) -> set[str]:
    """Without benchmarks: the table names one for every stage of a case, and few rules write one."""
    return {path for path in paths if "/benchmarks/" not in path}


def follows(job: Job, makers: Mapping[str, Job]) -> set[str]:
    """Outputs of all jobs that run before a job."""
    found: set[str] = set()
    for path in job.inputs & makers.keys():
        found |= makers[path].outputs | follows(makers[path], makers)
    return found
