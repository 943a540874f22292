"""Dealing patients to the parts of a split, so that each part gets its share of every class."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

# A class that every patient has, so that numbers of patients are dealt like those of a class.
ANY = ""


@dataclass(frozen=True)
class Patient:
    """Cases that stay together.

    Attributes:
        cases: their names.
        classes: names of what they hold.
        amount: their total amount.
    """

    cases: tuple[str, ...]
    classes: tuple[str, ...]
    amount: float


def held_back(patients: Sequence[Patient], share: float, seed: int) -> tuple[list[Patient], list[Patient]]:
    """The patients to train on, and those that choose the epoch: this share of them, or half at most.

    Both have every class that two patients have; training also has the class of a single one.
    """
    share = 1 / max(2, round(1 / share))
    train, validation = deal(patients, [1 - share, share], np.random.default_rng(seed), even=False)
    learnt = {name for patient in train for name in patient.classes}
    for patient in list(validation):
        if not learnt.issuperset(patient.classes):
            validation.remove(patient)
            train.append(patient)
            learnt.update(patient.classes)
    return train, validation


def deal(
    patients: Sequence[Patient], shares: Sequence[float], random: np.random.Generator, *, even: bool
) -> list[list[Patient]]:
    """Divide patients into parts that each get their share of every class, and of small and large amounts.

    A patient goes to the part whose share of the patient's rarest class is furthest from filled, as seats
    are given to parties (Webster, Sainte-Laguë), but first to one that lacks the class. The next rarest class
    decides between equals, and so on to the numbers of patients and of cases, and the amounts. If patients
    have one class each, all classes are therefore as even as their numbers allow; with several, almost
    always.

    Args:
        patients: in an order that depends on nothing else.
        shares: of the parts, with a sum of 1.
        random: decides between equals, and between patients with similar amounts.
        even: numbers of patients differ by at most 1, for parts with equal shares.
    """
    counts = Counter(name for patient in patients for name in (*patient.classes, ANY))
    parts: list[list[Patient]] = [[] for _ in shares]
    held: list[Counter[str]] = [Counter() for _ in shares]
    loads = [(0, 0.0) for _ in shares]

    def rank(classes: Sequence[str], part: int) -> tuple[float, ...]:
        # Of two parts without a class, the larger one, for training, comes first.
        needs = (
            (2 * held[part][name] + 1) / shares[part] if held[part][name] else -shares[part]
            for name in classes
        )
        return *needs, *loads[part]

    size = len(patients) // len(parts)
    for patient, classes in _in_order(patients, counts, round(1 / min(shares)), random):
        free = [int(part) for part in random.permutation(len(parts))]
        if even:
            most = size if min(map(len, parts)) < size else size + 1
            free = [part for part in free if len(parts[part]) < most]
        chosen = min(free, key=partial(rank, classes))
        parts[chosen].append(patient)
        held[chosen].update(classes)
        cases, amount = loads[chosen]
        loads[chosen] = cases + len(patient.cases), amount + patient.amount
    return parts


def share_of(patients: Sequence[Patient], share: float, random: np.random.Generator) -> list[Patient]:
    """A share of the patients with its share of every class; a smaller share is a part of a larger one.

    Patients are taken one by one, and the result is the beginning of that order. Each has the class that is
    still missing, the rarest first, or else the one furthest below its share (Webster); of several, one that
    brings most missing classes and least of those that there are enough of.

    Args:
        patients: in an order that depends on nothing else.
        share: of their number, rounded; more if a class would be missing.
        random: decides between patients with the same classes.
    """
    alike = defaultdict(list)
    for number in random.permutation(len(patients)):
        alike[*sorted(set(patients[number].classes)), ANY].append(patients[number])
    counts = Counter(name for classes, members in alike.items() for name in classes for _ in members)
    taken: list[Patient] = []
    held: Counter[str] = Counter()

    def need(name: str) -> tuple[float, ...]:
        if not held[name] and name != ANY:
            return 1, -counts[name]
        return 0, counts[name] / (2 * held[name] + 1)

    def rank(classes: tuple[str, ...]) -> tuple[float, ...]:
        return -sum(not held[name] for name in classes), sum(held[name] / counts[name] for name in classes)

    while len(taken) < round(share * len(patients)) or any(not held[name] for name in counts):
        wanted = max(sorted({name for classes in alike for name in classes}), key=need)
        chosen = min(sorted(classes for classes in alike if wanted in classes), key=rank)
        taken.append(alike[chosen].pop())
        held.update(chosen)
        if not alike[chosen]:
            del alike[chosen]
    return taken


def _in_order(
    patients: Sequence[Patient], counts: Mapping[str, int], width: int, random: np.random.Generator
) -> Iterator[tuple[Patient, list[str]]]:
    """Patients, each with the classes from the rarest to `ANY`: rarest class first, then largest amount.

    Blocks of `width` patients with similar amounts are in random order.
    """

    def rarity(name: str) -> tuple[int, bool, str]:
        return counts[name], name == ANY, name

    strata = defaultdict(list)
    for number in random.permutation(len(patients)):
        classes = sorted((*patients[number].classes, ANY), key=rarity)
        strata[rarity(classes[0])].append((patients[number], classes))
    for _, members in sorted(strata.items()):
        members.sort(key=lambda member: -member[0].amount)
        for first in range(0, len(members), width):
            block = members[first : first + width]
            random.shuffle(block)
            yield from block
