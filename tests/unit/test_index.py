"""Folds: no patient in two parts, every case held out once, balanced in foreground, stable, and checked."""

import json
import pickle
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldwise.command import Output
from foldwise.experiment.settings import Split
from foldwise.files import CaseError
from foldwise.index import Entry, Fold, Index, check_file, make_index, missing_classes
from foldwise.settings import validate
from foldwise.stages import index as index_stage
from foldwise.systems.segmentation.system import Segmentation
from foldwise.volumes.settings import Data

TASK = {"classes": {"t": 7}}


def entry(case: str, group: str | None = None, ml: float = 1.0, classes: tuple[str, ...] = ()) -> Entry:
    return Entry(case, group or case, {"images": (f"{case}.nii",)}, f"{case}.h5", {"ml": ml}, ml, classes)


def entries(count: int, per_group: int = 1) -> list[Entry]:
    return [entry(f"c{i:03d}", f"g{i // per_group:03d}", float(i)) for i in range(count)]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 14), st.floats(0, 500)), min_size=12, max_size=40),
    st.integers(2, 4),
    st.integers(0, 5),
)
def test_folds_partition_cases_and_never_split_a_patient(
    cases: list[tuple[int, float]], folds: int, seed: int
) -> None:
    cases_ = [entry(f"c{i}", f"g{group}", ml) for i, (group, ml) in enumerate(cases)]
    if len({e.group for e in cases_}) < folds + 2:
        return
    index = make_index(cases_, TASK, Split(folds=folds, seed=seed))
    assert sorted(c for fold in index.folds for c in fold.test) == sorted(e.case for e in cases_)
    group = {e.case: e.group for e in cases_}
    for fold in index.folds:
        assert sorted(fold.train + fold.validation + fold.test) == sorted(group)
        parts = [{group[c] for c in part} for part in (fold.train, fold.validation, fold.test)]
        assert len(set().union(*parts)) == sum(len(part) for part in parts)
        assert all(parts)


def test_folds_share_empty_small_and_large_cases() -> None:
    amounts = [0.0] * 10 + list(np.linspace(1, 5, 10)) + list(np.linspace(100, 200, 10))
    cases = [entry(f"c{i:02d}", ml=ml) for i, ml in enumerate(amounts)]
    for seed in range(5):
        for fold in make_index(cases, TASK, Split(folds=5, seed=seed)).folds:
            held_out = [amounts[int(case[1:])] for case in fold.test]
            assert len(held_out) == 6
            assert [sum(a == 0 for a in held_out), sum(a > 50 for a in held_out)] == [2, 2]


@st.composite
def patients(draw: st.DrawFn, nested: bool = False) -> tuple[list[Entry], int]:
    """Cases of patients with one class each, or with the first of nested classes; and a number of folds."""
    folds = draw(st.integers(2, 6))
    names = "abcdefg"[: draw(st.integers(1, 7))]
    kinds = draw(st.lists(st.sampled_from(names), min_size=folds + 2, max_size=40))
    cases = []
    for group, kind in enumerate(kinds):
        held = tuple(names[: names.index(kind) + 1]) if nested else (kind,)
        for number, ml in enumerate(draw(st.lists(st.sampled_from([0.0, 1.0, 5.0]), min_size=1, max_size=4))):
            cases.append(entry(f"c{group:02d}_{number}", f"g{group:02d}", ml, held))
    return draw(st.permutations(cases)), folds


def having(index: Index, name: str, cases: Sequence[str]) -> int:
    """The number of patients with a class among some cases."""
    return len({index[case].group for case in cases if name in index[case].classes})


@pytest.mark.parametrize("nested", [False, True])
@settings(deadline=None, max_examples=80)
@given(st.data(), st.integers(0, 5), st.sampled_from([0.1, 0.2, 0.5, 1]))
def test_every_class_is_in_every_share_if_enough_patients_have_it(
    nested: bool, data: st.DataObject, seed: int, share: float
) -> None:
    cases, folds = data.draw(patients(nested))
    index = make_index(cases, TASK, Split(folds=folds, seed=seed, validation=share))
    held_out = [len({index[case].group for case in fold.test}) for fold in index.folds]
    assert max(held_out) - min(held_out) <= 1
    for name in {name for one in cases for name in one.classes}:
        tested = [having(index, name, fold.test) for fold in index.folds]
        assert max(tested) - min(tested) <= 1
        for fold in index.folds:
            left = having(index, name, fold.train + fold.validation)
            assert having(index, name, fold.train) >= min(left, 1)
            if not nested:
                validated = having(index, name, fold.validation)
                assert min(left - 1, 1) <= validated <= max(0.5, share) * left + 1
    assert (
        make_index(
            sorted(cases, key=lambda one: one.case), TASK, Split(folds=folds, seed=seed, validation=share)
        )
        == index
    )


@pytest.mark.parametrize("filled", [1, 2, 3, 4])
def test_the_epoch_is_chosen_on_a_case_with_the_structure_where_two_have_it(filled: int) -> None:
    """And above all, one is used for training."""
    cases = [
        entry(f"c{i}", ml=float(i < filled), classes=("tumour" if i < filled else "empty",))
        for i in range(10)
    ]
    for seed in range(20):
        for fold in make_index(cases, TASK, Split(folds=5, seed=seed)).folds:
            parts = (fold.train, fold.validation)
            train, validation = (sum(int(case[1:]) < filled for case in part) for part in parts)
            assert train or not validation
            assert validation or train < 2


def test_validation_takes_its_share_of_small_and_large_cases() -> None:
    """Of 20 patients a fifth, one of each block of five similar amounts, and not always the same."""
    cases = [entry(f"c{i:02d}", ml=float(i)) for i in range(25)]
    drawn = set()
    for seed in range(10):
        for fold in make_index(cases, TASK, Split(folds=5, seed=seed)).folds:
            ordered = sorted(fold.train + fold.validation, reverse=True)
            places = [ordered.index(case) for case in sorted(fold.validation, reverse=True)]
            assert [place // 5 for place in places] == [0, 1, 2, 3]
            drawn.update(places)
    assert len(drawn) == 20


def test_a_class_that_a_fold_lacks_is_named() -> None:
    """Six patients of class a, one of class b, and three folds: one tests b, and no fold validates it."""
    cases = [entry(f"a{i}", classes=("a",)) for i in range(6)] + [entry("b0", classes=("b",))]
    split = Split(folds=3, validation=0.5)
    index = make_index(cases, TASK, split)
    (tests,) = [number for number, fold in enumerate(index.folds) if "b0" in fold.test]
    others = ", ".join(str(number) for number in range(3) if number != tests)
    assert missing_classes(index) == [
        f"class b has 1 patient(s): none to train on in fold {tests}; "
        f"none to choose the epoch on in fold 0, 1, 2; none to test on in fold {others}"
    ]
    # Two patients are one to train on and one to test on: the epoch is chosen on none, if it is to be chosen.
    pair = [entry(f"{name}{i}", classes=(name,)) for name in "ab" for i in range(2)]
    for share, lines in ((0.5, ["a", "b"]), (0, [])):
        split = Split(folds=2, validation=share)
        expected = [
            f"class {name} has 2 patient(s): none to choose the epoch on in fold 0, 1" for name in lines
        ]
        assert missing_classes(make_index(pair, TASK, split), split) == expected


def test_order_of_rows_changes_nothing_and_the_seed_does() -> None:
    cases = entries(20, per_group=2)
    split = Split(folds=3)
    first = make_index(cases, TASK, split)
    assert make_index(cases[::-1], TASK, split) == first
    assert make_index(cases, TASK, Split(folds=3, seed=1)) != first


def test_validation_zero_trains_on_all_the_rest() -> None:
    for fold in make_index(entries(6), TASK, Split(folds=3, validation=0)).folds:
        assert fold.validation == ()
        assert len(fold.train) == 4


def test_too_few_patients() -> None:
    with pytest.raises(CaseError, match=r"2 patient.*cannot be split into 3"):
        make_index(entries(6, per_group=3), TASK, Split(folds=3))


def test_round_trip_and_readable_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    index = make_index(entries(9), TASK, Split(folds=3))
    index.write(Path("index.pkl"), Path("splits.json"))
    assert Index.read(Path("index.pkl")) == index
    with (tmp_path / "index.pkl").open("rb") as file:
        plain = pickle.load(file)
    assert plain["task"] == TASK
    assert plain["entries"][0]["files"] == {"images": ["c000.nii"]}
    twin = json.loads((tmp_path / "splits.json").read_text())
    assert twin["folds"][1]["test"] == list(index.folds[1].test)
    # The readable copy of one experiment is a valid split file for the next.
    again = make_index(entries(9), TASK, Split(folds=3, file=tmp_path / "splits.json"))
    assert again == index


def test_an_index_moves_with_its_caches_and_is_refused_without(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    caches = old / "data" / "caches"
    caches.mkdir(parents=True)
    own = [replace(entry, cache=str(caches / f"{entry.case}.h5")) for entry in entries(4)]
    for entry in own:
        Path(entry.cache).touch()
    make_index(own, TASK, Split(folds=2)).write(old / "exp" / "index.pkl", old / "exp" / "splits.json")
    old.rename(new)
    moved = Index.read(new / "exp" / "index.pkl")
    assert moved.caches(["c001"]) == {"c001": str(new / "data" / "caches" / "c001.h5")}
    shutil.copy(new / "exp" / "index.pkl", tmp_path / "index.pkl")
    with pytest.raises(CaseError, match=r"case c001: its cache is not at .*c001.h5, where the index says"):
        Index.read(tmp_path / "index.pkl").caches(["c001"])


def own(tmp_path: Path, folds: object) -> Split:
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps(folds))
    return Split(file=path)


def test_an_nnunet_split_file_is_taken(tmp_path: Path) -> None:
    folds = [
        {"train": ["c002", "c003"], "val": ["c000", "c001"]},
        {"train": ["c000", "c001"], "val": ["c002", "c003"]},
    ]
    index = make_index(entries(4), TASK, own(tmp_path, folds))
    assert index.folds[0].test == ("c000", "c001")
    assert index.folds[1].train == ("c000", "c001")


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ([{"test": ["c000"]}, {"test": ["c001"]}], "leaks: patient.*g000"),
        ([{"test": ["c000", "c001"]}, {"test": ["c002"]}], "fold 0 does not name c003; .*split.others"),
        (
            [{"test": ["c000", "c001"], "train": ["c002"]}, {"test": ["c002", "c003"]}],
            "fold 0 does not name c003; ",
        ),
        ([{"test": ["c000", "c001", "c000"]}, {"test": ["c002", "c003"]}], "fold 0 names c000 more than"),
        (
            [{"test": ["c000"], "train": ["c002", "c003", "c002"]}, {"test": ["c002"]}],
            "fold 0 names c002 more than once",
        ),
        ([{"test": ["c000", "c001"]}, {"test": ["c001"]}], "held out in more than one fold: c001"),
        ([{"test": ["c000", "c001"]}, {"test": ["zzz"]}], "zzz"),
        ([{"test": ["c000", "c001"]}, {"test": ["c02"]}], "names c02.*did you mean c002"),
        ([], "folds: List should have at least 1 item"),
        ([{"tests": ["c000"]}, {"test": ["c001"]}], "folds.0.tests: unknown key; did you mean `test`"),
        ([{"train": ["c000"]}, {"test": ["c001"]}], "fold 0 needs a list `test`"),
        # nnU-Net's `val` is held out; together with `test` it would mean something else.
        (
            [{"test": ["c000", "c001"], "val": ["c002"]}, {"test": ["c002", "c003"]}],
            "fold 0 needs .*not both",
        ),
        ([{"test": "c000"}, {"test": ["c001"]}], r"folds.0.test: .*list \(got 'c000'\)"),
        ([{"test": [["c000"]]}, {"test": ["c001"]}], "folds.0.test.0: .*string"),
        ([{"test": ["c000", "c001"], "vaildation": ["c002"]}], "did you mean `validation`"),
        (
            [
                {"test": ["c000", "c001"], "validation": ["c002"], "train": ["c003"]},
                {"test": ["c002", "c003"]},
            ],
            "leaks: patient.*g001",
        ),
        ([{"test": ["c000", "c001", "c002", "c003"]}, {"test": []}], "no training case"),
        ("text", r"folds: .*list \(got 'text'\)"),
    ],
)
def test_split_files_are_checked(tmp_path: Path, folds: object, message: str) -> None:
    with pytest.raises(CaseError, match=message):
        make_index(entries(4, per_group=2), TASK, own(tmp_path, folds))


@pytest.mark.parametrize("name", ["val", "test"])
@pytest.mark.parametrize("listed", [True, False])
def test_cases_newer_than_the_split_file(
    tmp_path: Path, name: str, listed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Two folds of two cases each, with or without lists of training cases; then case c004 is added."""
    old = [["c000", "c001"], ["c002", "c003"]]
    folds = [{name: old[n], **({"train": old[1 - n]} if listed else {})} for n in range(2)]
    file = own(tmp_path, folds).file
    groups = {one.case: one.group for one in entries(5)}
    with pytest.raises(
        CaseError, match=r"fold 0 does not name c004; add each to a list, or set split.others"
    ):
        check_file(Split(file=file, folds=2), groups)
    caplog.set_level("INFO")
    for others, new, done in (("train", ["c004"], "added to"), ("leave out", [], "left out")):
        split = Split(file=file, folds=2, others=others)
        check_file(split, groups)
        made = make_index(entries(5), TASK, split).folds
        assert [sorted(fold.train) for fold in made] == [old[1] + new, old[0] + new]
        assert [list(fold.test) for fold in made] == old
        assert f"fold 1 does not name c004: {done}" in caplog.text
    # A new scan of a patient who is held out must not train.
    with pytest.raises(CaseError, match=r"fold 0 leaks: patient.*g000"):
        check_file(Split(file=file, folds=2, others="train"), {**groups, "c004": "g000"})


def test_a_single_fold_trains_on_the_rest(tmp_path: Path) -> None:
    split = Split(file=own(tmp_path, [{"test": ["c000"], "validation": ["c001"]}]).file, folds=1)
    (fold,) = make_index(entries(4), TASK, split).folds
    assert fold == Fold(("c002", "c003"), ("c001",), ("c000",))


def test_others_are_those_of_a_file() -> None:
    with pytest.raises(CaseError, match="`others` needs `file`"):
        validate(Split, {"others": "train"})


def test_a_split_file_has_as_many_folds_as_are_trained(tmp_path: Path) -> None:
    """The job of a fold missing from the file would fail; surplus folds would be ignored."""
    file = own(tmp_path, [{"test": ["c000", "c001"]}, {"test": ["c002", "c003"]}]).file
    groups = {one.case: one.group for one in entries(4, per_group=2)}
    for folds, message in (({}, "has 2 fold.s., split.folds is 5; set it to 2"), ({"folds": 3}, "is 3")):
        with pytest.raises(CaseError, match=message):
            check_file(Split(file=file, **folds), groups)
    check_file(Split(file=file, folds=2), groups)
    check_file(Split(file=file, folds=1), groups)
    with pytest.raises(CaseError, match="names c003: not a labelled"):
        check_file(Split(file=file, folds=2), {"c000": "a", "c001": "a", "c002": "b"})


def test_foreign_pickles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"version": 99}))
    with pytest.raises(CaseError, match="index of version"):
        Index.read(tmp_path / "a.pkl")


def test_a_split_file_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "splits.json"
    mine.write_text("{}")
    paths = {"prepared": tmp_path, "caches": tmp_path, "index": tmp_path / "i.pkl", "splits": mine}
    flags = [text for name, path in paths.items() for text in (f"--{name}", str(path))]
    monkeypatch.setattr(
        "sys.argv",
        ["index", "--settings", json.dumps({"file": str(mine)}), "--data", "{sheet: s.csv}", *flags],
    )
    with pytest.raises(CaseError, match=r"splits\.json: would be overwritten"):
        index_stage.index.main()
    assert mine.read_text() == "{}"


def test_the_index_log_names_the_classes_that_a_fold_lacks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Four scans, one of them empty; the volumes of their crops say which."""
    sheet, data = tmp_path / "cases.csv", {"sheet": str(tmp_path / "cases.csv"), "labels": {"tumour": 1}}
    sheet.write_text("case,image,label\n" + "".join(f"c{n},{n}.nii,{n}_l.nii\n" for n in range(4)))
    for number, ml in enumerate((2.5, 0, 1, 4)):
        (tmp_path / f"c{number}").mkdir()
        facts = {"channels": 1, "foreground_ml": {"tumour": ml}}
        (tmp_path / f"c{number}" / "crop.json").write_text(json.dumps(facts))
    made = tmp_path / "index.pkl"
    index_stage.index(
        system=Segmentation(),
        settings=Split(folds=2),
        data=Data.model_validate(data),
        prepared=tmp_path,
        caches=tmp_path,
        index=Output(made),
        splits=Output(tmp_path / "splits.json"),
    )
    index = Index.read(made)
    assert ["empty" in entry.classes for entry in index.entries] == [False, True, False, False]
    tests = int("c1" in index.folds[1].test)
    lacking = (
        "none to train on in fold {}; none to choose the epoch on in fold 0, 1; none to test on in fold {}"
    )
    assert f"class empty has 1 patient(s): {lacking.format(tests, 1 - tests)}" in caplog.text
