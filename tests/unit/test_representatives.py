"""The few validation cases that stand for all: worked out by hand, and properties of random sets."""

from collections import Counter

import numpy as np
import pytest

from foldwise.index import Entry
from foldwise.representatives import representatives


def entry(case: str, classes: str, group: str = "", amount: float = 1.0) -> Entry:
    return Entry(case, group or case, {}, "", {}, amount, tuple(classes))


def chosen(entries: list[Entry], most: int | None, seed: int = 0) -> list[str]:
    return representatives(entries, most, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(10))
def test_classes_get_their_shares(seed: int) -> None:
    """Of 12 a, 6 b and 2 c, ten are six, three and one; the rarest would be missed half of the time."""
    entries = [
        entry(f"{name}{n:02}", name) for name, count in (("a", 12), ("b", 6), ("c", 2)) for n in range(count)
    ]
    assert Counter(name[0] for name in chosen(entries, 10, seed)) == {"a": 6, "b": 3, "c": 1}


def test_every_class_has_a_case_although_they_are_more() -> None:
    entries = [entry(f"{name}{n}", name) for name in "abcdef" for n in range(3)]
    assert sorted(name[0] for name in chosen(entries, 2)) == [*"abcdef"]


@pytest.mark.parametrize("seed", range(5))
def test_patients_come_once_before_any_comes_twice(seed: int) -> None:
    entries = [entry(f"p{p}-{scan}", "a", f"p{p}") for p in range(4) for scan in range(5)]
    assert Counter(name[:2] for name in chosen(entries, 4, seed)) == dict.fromkeys(
        ("p0", "p1", "p2", "p3"), 1
    )
    assert set(Counter(name[:2] for name in chosen(entries, 8, seed)).values()) == {2}


@pytest.mark.parametrize("seed", range(5))
def test_amounts_are_spread(seed: int) -> None:
    """Of 20 amounts, one of each four neighbours."""
    entries = [entry(f"c{n:02}", "a", amount=(n * 7) % 20) for n in range(20)]
    amounts = {one.case: one.amount for one in entries}
    assert sorted(amounts[name] // 4 for name in chosen(entries, 5, seed)) == [0, 1, 2, 3, 4]


def test_cases_without_any_class_are_among_them() -> None:
    entries = [entry(f"a{n}", "a") for n in range(10)] + [entry(f"x{n}", "") for n in range(10)]
    assert Counter(name[0] for name in chosen(entries, 6)) == {"a": 3, "x": 3}


def test_several_classes_in_a_case_are_not_counted_twice() -> None:
    """With one case of all classes, no other is needed for them."""
    entries = [entry("all", "abc"), *(entry(f"a{n}", "a") for n in range(20))]
    assert "all" in chosen(entries, 2)
    assert len(chosen(entries, 2)) == 2


def test_it_is_the_same_each_time_and_another_for_another_seed() -> None:
    entries = [entry(f"c{n:02}", "ab"[n % 2], amount=n) for n in range(40)]
    assert chosen(entries, 10) == chosen(entries, 10)
    assert len({tuple(chosen(entries, 10, seed)) for seed in range(5)}) > 1
    assert chosen(entries, 10) == sorted(chosen(entries, 10)), "in the order given"


def test_all_or_none() -> None:
    entries = [entry("b", "a"), entry("a", "b")]
    assert chosen(entries, None) == chosen(entries, 2) == chosen(entries, 9) == ["b", "a"]
    assert chosen(entries, 0) == chosen([], 3) == []
