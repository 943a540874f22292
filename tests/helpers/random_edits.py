"""Random edits of pretended experiments, and what has to be true after each of them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import time as now

from hypothesis import strategies as st

from pretended import World, unsynced

# Thousands of tiny files are made and deleted; None: the usual folder for temporary files.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

# An edit changes the world by some numbers; most edits can be undone by another one.
Edit = Callable[[World, int, int], None]


def replaced(world: World, which: int, how: int) -> None:
    """A source gets other content, in place or by renaming, with an older, equal or newer time."""
    path = _source(world, which)
    before = path.stat().st_mtime
    time = (before - 1000, before, min(before + 1000, now()))[how % 3]
    text = f"other {how % 2} {path.name}"  # as many letters each time
    if how % 2:
        beside = path.with_name("beside")
        world.write(beside, text, time)
        beside.replace(path)
    else:
        world.write(path, text, time)


def touched(world: World, which: int, how: int) -> None:
    """A source is written again with the same content, or removed and restored from a copy with its time."""
    path = _source(world, which)
    if how % 4 == 3:
        beside = path.with_name("beside")
        shutil.copy2(path, beside)
        path.unlink()
        beside.rename(path)
    else:
        world.write(path, path.read_text(), (1e9, 1.5e9, None)[how % 4])


def swapped(world: World, which: int, how: int) -> None:
    """Two sources of one kind get each other's names, or one becomes a copy of the other, with its time."""
    path = _source(world, which)
    twins = [other for other in world.sources() if other.suffix == path.suffix and other != path]
    if not twins:
        return
    other = twins[how % len(twins)]
    if how % 2:
        shutil.copy2(other, path)
    else:
        beside = path.with_name("beside")
        path.rename(beside)
        other.rename(path)
        beside.rename(other)


def row_changed(world: World, which: int, how: int) -> None:
    """Another patient, class or box; or a file of another name."""
    row = world.rows[_case(world, which)]
    if how % 3 == 0:
        row[1] = "other" if row[1] == row[0] else row[0]
    elif world.system == "clips":
        column, values = (3, ("low", "high")) if how % 3 == 1 else (4, ("0 0 9 9", "1 1 8 8"))
        if row[column]:
            row[column] = values[row[column] == values[0]]
    else:
        renamed = row[2].removesuffix("2") if row[2].endswith("2") else f"{row[2]}2"
        if (world.folder / row[2]).exists() and not row[2].endswith("-frames"):
            (world.folder / row[2]).rename(world.folder / renamed)
            row[2] = renamed


def case_added(world: World, which: int, how: int) -> None:
    name = f"c{4 + which % 2}"
    first = world.rows["c0" if how % 2 else "c3"]
    world.rows[name] = [cell.replace(first[0], name) for cell in first]
    for path in world.sources():
        if not path.exists():
            world.write(path, f"first {path.name}")


def case_removed(world: World, which: int, how: int) -> None:
    world.rows.pop(f"c{4 + which % 2}", None)


def setting_changed(world: World, which: int, how: int) -> None:
    """One of a few settings gets one of two values."""
    name = sorted(world.settings["models"])[0]
    model = world.settings["models"][name]
    changes: list[Callable[[], object]] = [
        lambda: model.update(training={"epochs": 7 + how % 2}),
        lambda: world.settings.update(seed=how % 2),
        lambda: world.settings.update(split={"folds": 2 + how % 2, "validation": 0}),
        lambda: world.settings.update(verify=("always", "changed")[how % 2]),
    ]
    if world.system in ("segmentation", "interactive"):
        changes.append(lambda: world.settings.update(evaluate={"tolerance_mm": 1 + how % 2}))
        changes.append(lambda: world.settings.update(cache={"spacing": [1, 1, 1 + how % 2]}))
    else:
        changes.append(lambda: world.settings.update(cache={"quality": 80 + how % 2}))
    changes[which % len(changes)]()


def named_changed(world: World, which: int, how: int) -> None:
    """The settings begin or cease to name the sheet's copy, a file, new cases, or another model."""
    given, models = bool(how % 2), world.settings["models"]
    first = models[sorted(models)[0]]
    frozen = {"network": {"name": "EVL", "weights": "clip"}, "features": {"views": 1 + how % 3}}
    changes: list[Callable[[], object]] = [
        lambda: world.settings["data"].update(sheet="copy.csv" if given else "cases.csv"),
        lambda: world.settings["split"].update(file="folds.json" if given else None),
        lambda: first.update(pretrained={"file": "weights.pt"} if given else None),
    ]
    if world.system in ("segmentation", "clips"):
        changes.append(lambda: world.settings.update(predict="new" if given else None))
    if world.system == "clips":
        changes.append(lambda: world.settings["data"].update(update_labels=given))
        changes.append(lambda: models.update(frozen=frozen) if given else models.pop("frozen", None))
    changes[which % len(changes)]()


def results_moved(world: World, which: int, how: int) -> None:
    """The results are renamed, or copied with or without their times; links to them stay relative."""
    old, name = world.results, f"results{which % 3}"
    if not old.exists() or (world.folder / name).exists():
        return
    if how % 3 == 0:
        old.rename(world.folder / name)
    else:
        shutil.copytree(old, world.folder / name, copy_function=shutil.copy2 if how % 3 == 1 else shutil.copy)
    world.settings["results"] = name


def output_swapped(world: World, which: int, how: int) -> None:
    """An output is deleted, or replaced by another one of its kind."""
    found = sorted(
        path
        for path in world.results.rglob("*")
        if path.suffix in (".h5", ".pkl")
        or path.name in ("provenance.json", "model.pt", "test.json", "choice.json", "metrics.csv")
    )
    if not found:
        return
    path = found[which % len(found)]
    twins = [other for other in found if other.name == path.name and other != path]
    if how % 2 and twins:
        shutil.copyfile(twins[how % len(twins)], path)
    else:
        path.unlink()


def killed(world: World, which: int, how: int) -> None:
    """A call that ends after some jobs."""
    world.call(jobs=how)


EDITS: list[Edit] = [
    replaced,
    replaced,
    touched,
    swapped,
    row_changed,
    case_added,
    case_removed,
    setting_changed,
    setting_changed,
    named_changed,
    named_changed,
    results_moved,
    output_swapped,
    killed,
]


def _case(world: World, which: int) -> str:
    return sorted(world.rows)[which % len(world.rows)]


def _source(world: World, which: int) -> Path:
    sources = world.sources()
    return sources[which % len(sources)]


# Rounds of edits; a call follows each round.
Rounds = Sequence[Sequence[tuple[Edit, int, int]]]
PARTS = st.sampled_from([None, None, 2])
ROUNDS = st.lists(
    st.lists(
        st.tuples(st.sampled_from(EDITS), st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=3
    ),
    min_size=1,
    max_size=4,
)


def follow(system: str, parts: int | None, rounds: Rounds) -> None:
    """Make everything, then edit and call in turns.

    Raises:
        AssertionError: a call does not make what a fresh run would make, or makes again what is right.
    """
    with unsynced(), tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        world = World(Path(folder) / "world", system, parts)
        world.call()
        assert world.wrong() == []
        for edits in rounds:
            for edit, which, how in edits:
                edit(world, which, how)
            wrong = world.wrong()
            made = world.call()
            assert world.wrong() == []
            # What is right is not made again, unless it is made from what is.
            assert {*made} <= world.made_from({*wrong})
            assert world.call() == []
