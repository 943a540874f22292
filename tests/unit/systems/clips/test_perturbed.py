"""Models tested on changed frames: what a network is given, its table, and settings that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from foldwise.files import CaseError
from foldwise.hdf5 import open_hdf5
from foldwise.index import Entry
from foldwise.report.results import Experiment, ModelResults
from foldwise.settings import validate
from foldwise.systems.clips.cache import cache_clip
from foldwise.systems.clips.learner import ClipsLearner
from foldwise.systems.clips.perturbed import conditions, table_of, write_perturbed
from foldwise.systems.clips.regions import fan_of
from foldwise.systems.clips.report import compared, robustness
from foldwise.systems.clips.robustness import Perturb
from foldwise.systems.clips.settings import Cache, Model
from foldwise.video.perturb import area_of
from tiny_clip import save_clip
from ultrasound import CLASSES, SMALL, write_clips

TASK = {"classes": CLASSES}
WORST = Perturb(attenuation=[], shadow=[], speckle=[1], gain=[-60])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, cases=1)
    path = folder / "k0_0.h5"
    cache_clip("k0_0", folder / "k0_0.mp4", "high", Cache(size=32), path)
    return path


def probabilities(path: Path) -> np.ndarray:
    with open_hdf5(path) as file:
        return np.asarray(file["probabilities"][()])


def test_changes_reach_the_network(cache: Path, tmp_path: Path) -> None:
    """Clean frames give the prediction of the test; 60 dB less leave a black picture."""
    learner = ClipsLearner(validate(Model, SMALL), TASK)
    network = learner.network().eval()
    for name in ("one", "two"):
        write_perturbed(learner, network, WORST, str(cache), tmp_path / name)
    found = probabilities(tmp_path / "one")
    assert np.array_equal(found, probabilities(tmp_path / "two")), "the same draws each time"
    assert conditions(WORST) == [("clean", 0), ("speckle", 1), ("gain", -60)]
    learner.predict([network], str(cache), tmp_path / "test.h5")
    assert np.array_equal(found[0], probabilities(tmp_path / "test.h5"))
    assert not np.allclose(found[0], found[1], atol=1e-6)
    with open_hdf5(cache) as file:
        black = learner.probabilities(network, file, lambda frames, numbers: np.zeros_like(frames))
    assert np.allclose(found[2], black, atol=0.02)


def test_stored_features_are_computed_from_changed_frames(cache: Path, tmp_path: Path) -> None:
    clip = {**SMALL, "network": {"name": "EVL", "weights": str(save_clip(tmp_path / "clip")), "blocks": 2}}
    learner = ClipsLearner(validate(Model, {**clip, "features": {"views": 1}}), TASK)
    network = learner.network().eval()
    write_perturbed(learner, network, WORST, str(cache), tmp_path / "made.h5")
    found = probabilities(tmp_path / "made.h5")
    learner.predict([network], str(cache), tmp_path / "test.h5")
    assert np.array_equal(found[0], probabilities(tmp_path / "test.h5"))
    assert not np.allclose(found[0], found[2], atol=1e-7)


def test_the_table_has_a_row_for_each_clip_and_change(cache: Path, tmp_path: Path) -> None:
    learner = ClipsLearner(validate(Model, SMALL), TASK)
    write_perturbed(learner, learner.network().eval(), WORST, str(cache), tmp_path / "made.h5")
    entry = Entry("k0_0", "p0", {}, "", {"label": "high"}, 1)
    table = table_of({"k0_0": tmp_path / "made.h5"}, [entry], CLASSES, WORST, 1)
    assert table["perturbation"].tolist() == ["clean", "speckle", "gain"]
    assert table["strength"].tolist() == [0, 1, -60]
    assert (table[["case", "group", "fold", "class"]] == ["k0_0", "p0", 1, "high"]).all(axis=None)
    assert table[[f"probability_{name}" for name in CLASSES]].sum(axis=1).tolist() == pytest.approx([1] * 3)


def results(name: str, labels: float | None, *kinds: tuple[str, float, list[float]]) -> ModelResults:
    """A model's rows: the probability of `high` of two clips that are high and two that are low."""
    rows = [
        {
            **{"case": f"c{n}", "group": f"g{n}", "fold": 0, "class": CLASSES[n // 2]},
            **{"perturbation": kind, "strength": strength},
            **{"probability_high": high, "probability_low": 1 - high},
        }
        for kind, strength, values in kinds
        for n, high in enumerate(values)
    ]
    table = pd.DataFrame(rows)
    clean = table[table["perturbation"] == "clean"].drop(columns=["perturbation", "strength"])
    origin = {"learns_from": None if labels is None else {"labels": labels}}
    further = {"perturb": table} if len(kinds) > 1 else {}
    return ModelResults(name, clean, {}, {0: origin}, {}, pd.DataFrame(), {}, further)


CLEAN = ("clean", 0.0, [0.9, 0.8, 0.3, 0.1])


def test_drops_by_hand(tmp_path: Path) -> None:
    """A clip more is wrong: accuracy 1 → 0.75; of four pairs one is in the wrong order: AUC 1 → 0.75."""
    models = [
        results("whole", None, CLEAN, ("gain", -6.0, [0.9, 0.2, 0.3, 0.1])),
        results("tenth", 0.1, CLEAN),
    ]
    table = robustness(Experiment("x", models, tmp_path))
    assert table["model"].tolist() == ["whole", "whole", "tenth"]
    assert table["labels"].tolist() == [1, 1, 0.1]
    for key in ("accuracy", "balanced_accuracy", "auc"):
        assert table[key].tolist() == [1, 0.75, 1], key
        assert table[f"{key}_drop"].tolist() == [0, 0.25, 0], key
    (shown,) = compared(Experiment("x", models, tmp_path))
    assert [row["frames"] for row in shown.rows] == ["clean", "gain −6 dB", "clean"]
    assert [row["labels"] for row in shown.rows] == ["100 %", "100 %", "10 %"]


def test_with_nothing_to_compare_there_is_no_table(tmp_path: Path) -> None:
    assert compared(Experiment("x", [results("whole", None, CLEAN)], tmp_path)) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({kind: [] for kind in ("attenuation", "shadow", "speckle", "gain")}, "nothing to predict"),
        ({"gain": [0, 6]}, "gain: list each strength once, and not 0"),
        ({"speckle": [0.5, 0.5]}, "speckle: list each strength once"),
        ({"attenuation": [-6]}, r"attenuation: strengths are above 0 \(got -6\)"),
        ({"shadow": [1.5]}, "shadow"),
    ],
)
def test_unusable_strengths_are_refused(given: Any, message: str) -> None:
    with pytest.raises(CaseError, match=message):
        validate(Perturb, given)


def test_the_image_area_is_that_of_the_cached_frames(cache: Path) -> None:
    with open_hdf5(cache) as file:
        area = area_of(fan_of(file))
    assert 0.3 < area.mask.mean() < 0.8
