"""Time limits of jobs: from the cases and the network, and from what past jobs took; worked out by hand."""

from __future__ import annotations

import json
import re
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from foldwise.check import Checked
from foldwise.experiment.jobs import Jobs
from foldwise.experiment.open import Opened, open_experiment
from foldwise.experiment.parts import Parts
from foldwise.experiment.past import Past
from foldwise.experiment.times import DAY, SLICE, Times
from foldwise.forecast import Step
from foldwise.volumes.size import Size

ROOT = Path(__file__).parents[3]
# A million voxels, and 100 million.
SMALL, LARGE = (Size((100, 100, n), (1, 1, 1), 1, True) for n in (100, 10_000))
# 2e10 bytes are computed per second: a training pass of two patches takes 2 s, a window 1 s.
STEP = Step(weights=10**6, kept=4 * 10**10, largest=0, forward=0)


@pytest.fixture
def opened(tmp_path: Path) -> Opened[Any, Any]:
    """1000 labelled cases in five folds, and 40 others."""
    rows = [f"c{n},c{n},i.nii,l.nii," for n in range(1000)] + [f"o{n},o{n},i.nii,," for n in range(40)]
    (tmp_path / "cases.csv").write_text("\n".join(["case,group,image,label,split", *rows]))
    values = {
        "experiment": "x",
        "results": str(tmp_path / "results"),
        "data": {"sheet": str(tmp_path / "cases.csv"), "labels": {"a": 1}},
        "models": {"unet": {"patch": [100, 100, 100], "training": {"batch": 2, "epochs": 20}}},
    }
    with chdir(tmp_path):
        return open_experiment(values, main=False)


def times(opened: Opened[Any, Any], size: Size = SMALL, parts: int | None = None) -> Times[Any, Any]:
    checked = Checked((), (), dict.fromkeys(opened.cases, size), {})
    divided = Parts(opened.preparation, parts)
    jobs: Any = Jobs(opened.system, opened.settings, Path(opened.paths.counts), divided, checked)
    jobs.step = lambda model: STEP
    folders = [Path(place) / "benchmarks" for place in (opened.paths.experiment, opened.preparation.data)]
    past = Past(folders, Path(opened.paths.experiment))
    return Times(opened.system, opened.settings, divided, jobs, past, lambda: 0)


def took(folder: str, rule: str, name: str, seconds: float) -> None:
    path = Path(folder) / "benchmarks" / rule / f"{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"s\th:m:s\n{seconds}\t0:00:01\n")


def test_more_work_takes_longer(opened: Opened[Any, Any]) -> None:
    small, large = times(opened), times(opened, LARGE)
    # A case of a million voxels: 2 s and 0.2 s per million; three times as long, with 15 min for the start.
    assert small.expected("crop", "c0") == pytest.approx(2.2)
    assert large.expected("crop", "c0") == pytest.approx(2 + 20)
    assert small.minutes("crop", "c0") == 20
    # A fold's 200 cases, each of one window of 1 s, twice in each direction, and two outputs.
    assert small.expected("test", "unet") == pytest.approx(200 * (2 + 8 + 0.2))
    assert small.minutes("test", "unet") == 60 + 105  # 3 · 34 min
    assert small.minutes("test", "unet", attempt=2) == 60 + 205
    assert large.minutes("test", "unet") == DAY
    # 40 other cases by five models.
    assert small.expected("ensemble", "unet") == pytest.approx(5 * 40 * 10.2)
    # 50 cases of one class are scored by one job, and a fold's are exported by one.
    assert small.expected("score") == pytest.approx(50 * 2.2)
    assert small.expected("export") == pytest.approx(200 * 2.15)
    # Four cases are prepared at once.
    divided = times(opened, parts=10)
    part = divided._parts.cases("training_0of10")
    which = f"{Path(opened.preparation.caches).name}_training_0of10"
    assert divided.expected("prepare_part", which) == pytest.approx(len(part) * (2.2 + 2.4) / 4)
    assert small.minutes("index") == 30  # 3 · 208 s


def test_what_past_jobs_took_counts(opened: Opened[Any, Any]) -> None:
    data, experiment = opened.preparation.data, opened.paths.experiment
    took(data, "crop", "c1", 22)
    took(data, "crop", "c2", 4.4)
    took(data, "crop", "gone", 1e6)
    # Ten times as slow as expected: twice that, and 15 min for the start.
    assert times(opened, LARGE).minutes("crop", "c0") == 20
    took(data, "crop", "c2", 220)
    assert times(opened, LARGE).minutes("crop", "c0") == 25  # 15 + 2 · 3.7
    took(experiment, "test", "unet_fold0_predictions", 200 * 10.2 / 2)
    assert times(opened).minutes("test", "unet") == 50  # 15 + 2 · 17
    took(experiment, "test", "unet_fold1_predictions", 200 * 10.2 * 2)
    # No job is believed to be far shorter, since it may have continued another one.
    assert times(opened).minutes("test", "unet") == 155  # 15 + 2 · 68
    for name, text in (("broken", "s\n"), ("empty", ""), ("other", "x\n1\n")):
        (Path(experiment) / "benchmarks" / "test" / f"unet_{name}.tsv").write_text(text)
    assert times(opened).minutes("test", "unet") == 155


def test_before_any_test_a_step_of_training_tells_the_speed(opened: Opened[Any, Any]) -> None:
    fold = Path(opened.paths.fold.format(model="unet", fold=0))
    fold.mkdir(parents=True)
    # Three passes of 2 s are expected; 0.6 s were measured.
    (fold / "log.csv").write_text("epoch,step,seconds\n1,10,8\n2,20,4\n")
    assert times(opened).minutes("test", "unet") == 25  # 15 + 2 · 34 · 0.1


def test_a_training_asks_for_what_is_left(opened: Opened[Any, Any], tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert times(opened).training("unet", state) == SLICE
    (state / "abc").mkdir(parents=True)
    start = {"event": "start", "step": 0, "attempt": 1, "fingerprint": "abc", "time": "2026-01-01T00:00:00"}
    (state / "attempts.jsonl").write_text(json.dumps(start) + "\n")
    assert times(opened).training("unet", state) == SLICE
    rows = [f"{n},{n},{600 if n < 10 else 60}" for n in range(1, 16)]
    (state / "abc" / "log.csv").write_text("\n".join(["epoch,step,seconds", *rows]))
    # Five epochs of a minute are left.
    assert times(opened).training("unet", state) == 25
    (state / "abc" / "log.csv").write_text("epoch,step,seconds\n1,1,36000\n")
    assert times(opened).training("unet", state) == SLICE


def test_every_rule_asks_for_its_own_time() -> None:
    for path in (ROOT / "workflow" / "rules").glob("*.smk"):
        for rule, body in re.findall(r"^rule (\w+):\n((?: .*\n|\n)+)", path.read_text(), re.MULTILINE):
            asked = re.findall(r'TIMES\.minutes\(\s*"(\w+)"', body)
            if "resources:" in body and rule not in ("train", "phantom"):
                assert asked == ["metrics" if rule == "choose" else rule], rule
