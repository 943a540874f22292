"""Shares of the labels: nested, stratified by class, by patient, and what a training says of them."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foldwise.deal import Patient, share_of
from foldwise.files import CaseError, read_json
from foldwise.index import Entry, Fold, Index
from foldwise.settings import Model, validate
from short_trainings import starts, train
from synthetic import write_cached_set

SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.9, 1)


def patient(number: int, *classes: str) -> Patient:
    return Patient((f"c{number}",), classes, 1.0)


def drawn(patients: list[Patient], share: float, seed: int = 0) -> list[str]:
    return [case for one in share_of(patients, share, np.random.default_rng(seed)) for case in one.cases]


@settings(deadline=None, max_examples=80)
@given(st.lists(st.sets(st.sampled_from("abcd")), min_size=1, max_size=40), st.integers(0, 9))
def test_shares_are_nested_and_have_every_class(held: list[set[str]], seed: int) -> None:
    patients = [patient(number, *sorted(classes)) for number, classes in enumerate(held)]
    before: set[str] = set()
    for share in SHARES:
        now = drawn(patients, share, seed)
        assert len(now) == len(set(now))
        assert before <= set(now)
        assert len(now) >= round(share * len(patients))
        learnt = {name for one in patients if one.cases[0] in now for name in one.classes}
        assert learnt == set().union(*held)
        before = set(now)
    assert len(before) == len(patients)


def test_of_single_classes_each_has_its_share() -> None:
    """60, 30 and 10 patients: a tenth has 6, 3 and 1, a half 30, 15 and 5."""
    patients = [patient(n, "a" if n < 60 else "b" if n < 90 else "c") for n in range(100)]
    by_case = {one.cases[0]: one.classes[0] for one in patients}
    for share, expected in ((0.01, (1, 1, 1)), (0.1, (6, 3, 1)), (0.5, (30, 15, 5))):
        for seed in range(3):
            counts = Counter(by_case[case] for case in drawn(patients, share, seed))
            assert tuple(counts[name] for name in "abc") == expected
    assert set(drawn(patients, 0.1, 0)) != set(drawn(patients, 0.1, 1))


def test_a_patient_who_has_several_missing_classes_comes_first() -> None:
    patients = [*(patient(n, "a") for n in range(9)), *(patient(n, "b") for n in range(9, 18))]
    patients.append(patient(18, "a", "b", "c"))
    assert drawn(patients, 0.01) == ["c18"]


def test_a_fold_keeps_whole_patients_and_its_other_shares() -> None:
    entries = tuple(Entry(f"c{n:02d}", f"g{n // 2}", {}, "", {}, 1.0, ("ab"[n % 4 // 2],)) for n in range(24))
    names = [entry.case for entry in entries]
    fold = Fold(tuple(names[:16]), tuple(names[16:20]), tuple(names[20:]))
    index = Index({}, entries, (fold,))
    quarter = index.fewer(fold, 0.25, [0, 0])
    assert (quarter.validation, quarter.test) == (fold.validation, fold.test)
    assert len(quarter.train) == 4
    assert len({index[case].group for case in quarter.train}) == 2
    assert {name for case in quarter.train for name in index[case].classes} == {"a", "b"}
    assert index.fewer(fold, 1, [0, 0]) == fold


def test_a_training_learns_from_its_share_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = write_cached_set(tmp_path / "set")
    fold = Index.read(index).folds[0]
    caplog.set_level(logging.INFO)
    for share in (1.0, 0.3, 1.0):
        assert train(index, tmp_path / "run", 1, labels=share)
    assert starts(tmp_path / "run") == [0, 0], "changed back, its training is found"
    few = tmp_path / "few"
    assert train(index, few, 1, labels=0.3)
    said = read_json(few / "provenance.json")["learns_from"]
    kept = said["cases"]
    every = dict.fromkeys(("patients", "cases"), len(fold.train))
    assert said == {"labels": 0.3, "patients": kept, "cases": kept, "of": every}
    assert 0 < kept < len(fold.train)
    assert f"labels: 0.3: learns from {kept} of {len(fold.train)} training patients" in caplog.text
    model = torch.load(few / "model.pt", weights_only=True)
    assert model["learns_from"] == said
    whole = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    assert "learns_from" not in whole
    assert set(model["learnt"]) < set(whole["learnt"])
    assert model["held_out"] == whole["held_out"]


@pytest.mark.parametrize("share", [0, 1.1])
def test_no_share_is_refused(share: float) -> None:
    with pytest.raises(CaseError, match="labels: "):
        validate(Model, {"labels": share})
