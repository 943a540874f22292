"""A few cases that stand for many: for their classes, patients and amounts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from foldwise.index import Entry

# A class that every case has, so that those without any class get their share, too.
ANY = ""


def representatives(entries: Sequence[Entry], most: int | None, random: np.random.Generator) -> list[str]:
    """Names of at most so many cases, in the order of `entries`; more only if classes would be missing.

    Cases are chosen one by one. Each is of a class that is still missing, the rarest first, or else of the
    one furthest below its share (Webster's method). Of the cases of this class it is one whose patient was
    chosen least often, whose other classes need it most, and whose amount is most unlike those chosen.

    Args:
        entries: the cases, in an order that depends on nothing else.
        most: number of cases; None: all; 0: none.
        random: decides between equals.
    """
    if most is None or most >= len(entries):
        return [entry.case for entry in entries]
    if most == 0:
        return []
    held = {entry.case: {*entry.classes, ANY} for entry in entries}
    counts = Counter(name for names in held.values() for name in names)
    share = most / len(entries)
    order = sorted(entries, key=lambda entry: entry.amount)
    # As many groups of similar amounts as cases are chosen.
    band = {entry.case: place * most // len(entries) for place, entry in enumerate(order)}
    left = [entries[place] for place in random.permutation(len(entries))]
    chosen: list[Entry] = []
    has, groups, bands = Counter[str](), Counter[str](), Counter[int]()

    def need(name: str) -> tuple[float, ...]:
        if not has[name] and name != ANY:
            return 1, -counts[name]
        return 0, counts[name] / (2 * has[name] + 1)

    def rank(entry: Entry) -> tuple[float, ...]:
        beyond = sum(max(0.0, has[name] + 1 - share * counts[name]) for name in held[entry.case])
        return groups[entry.group], beyond, bands[band[entry.case]]

    while len(chosen) < most or any(not has[name] for name in counts):
        wanted = max(sorted({name for entry in left for name in held[entry.case]}), key=need)
        taken = min((entry for entry in left if wanted in held[entry.case]), key=rank)
        left.remove(taken)
        chosen.append(taken)
        has.update(held[taken.case])
        groups[taken.group] += 1
        bands[band[taken.case]] += 1
    names = {entry.case for entry in chosen}
    return [entry.case for entry in entries if entry.case in names]
