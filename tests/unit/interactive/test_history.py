"""A session's steps on disk: undone, redone, resumed, and never lost or mixed up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foldwise.files import CaseError
from foldwise.systems.interactive.history import History, Moment
from foldwise.systems.interactive.marks import Marks
from foldwise.systems.interactive.objects import COLOURS, Object, named
from foldwise.systems.interactive.session import edited
from foldwise.systems.interactive.state import State

SHAPE = (4, 5, 6)
OBJECTS = (Object("a", 1, COLOURS[0]), Object("b", 257, COLOURS[1]))
NAMES = ["a", "b"]


def history(folder: Path, **facts: object) -> History:
    return History(folder, facts or {"scan": ["s"]}, Moment(State.empty(SHAPE, 2), OBJECTS))


def paint(one: History, index: int, value: int) -> None:
    one.add(
        edited(one.now.state, np.array([index]), np.array([value]), NAMES), one.now.objects, f"paint {index}"
    )


def same(first: State, second: State) -> bool:
    return (
        np.array_equal(first.labels, second.labels)
        and {n: [m.as_dict() for m in said] for n, said in first.marks.items()}
        == {n: [m.as_dict() for m in said] for n, said in second.marks.items()}
        and first.quality.keys() == second.quality.keys()
        and all(np.array_equal(first.quality[n], second.quality[n], equal_nan=True) for n in first.quality)
    )


def test_undo_and_redo_of_everything(tmp_path: Path) -> None:
    one = history(tmp_path)
    states = [one.now]
    paint(one, 3, 1)
    states.append(one.now)
    paint(one, 3, 2)
    states.append(one.now)
    one.add(one.now.state, (*OBJECTS, named("c", OBJECTS)), "object c")
    states.append(one.now)
    for number in (2, 1, 0):
        one.undo()
        assert same(one.now.state, states[number].state)
        assert one.now.objects == states[number].objects
    with pytest.raises(CaseError, match="nothing to undo"):
        one.undo()
    for number in (1, 2, 3):
        assert one.undone == states[number].text
        one.redo()
        assert same(one.now.state, states[number].state)
        assert one.version.startswith(f"{number}-")
    with pytest.raises(CaseError, match="nothing to redo"):
        one.redo()
    # Another step takes the place of those undone.
    one.undo()
    one.undo()
    paint(one, 7, 1)
    assert one.undone is None
    assert one.now.state.labels.ravel()[[3, 7]].tolist() == [1, 1]


def test_sessions_outlive_the_process(tmp_path: Path) -> None:
    one = history(tmp_path)
    state = one.now.state
    quality = {1: np.array([np.nan, 0.5, 1, 0, 1], np.float32)}
    marks = {1: (Marks(2, lines=np.array([[[0, 0, 1], [3, 4, 1]]]), spans=np.array([[0, 3]])),)}
    labels = state.labels.copy()
    labels[1, 2, 3] = 2
    one.add(State(labels, 1, quality, marks, last=2), OBJECTS, "round", "look here")
    paint(one, 9, 1)
    one.undo()
    before, version = one.now, one.version
    one.close()
    again = history(tmp_path)
    assert again.version == version
    assert same(again.now.state, before.state)
    assert (again.now.state.axis, again.now.state.last) == (1, 2)
    assert (again.now.objects, again.now.message, again.undone) == (OBJECTS, "look here", "paint 9")


def test_changes_since_a_version(tmp_path: Path) -> None:
    one = history(tmp_path)
    start = one.version
    paint(one, 3, 1)
    middle = one.version
    paint(one, 8, 2)
    one.undo()
    one.redo()
    for since, expected in ((start, [3, 8]), (middle, [8]), (one.version, [])):
        found = one.changes(since)
        assert found is not None
        assert found[0].tolist() == expected
        assert found[1].tolist() == one.now.state.labels.ravel()[expected].tolist()
    assert one.changes("1-other") is None


def test_one_writer(tmp_path: Path) -> None:
    one = history(tmp_path)
    with pytest.raises(CaseError, match="another process has this session open"):
        history(tmp_path)
    one.close()
    history(tmp_path).close()


def test_other_sessions_and_folders_are_left_alone(tmp_path: Path) -> None:
    history(tmp_path / "one", scan=["s"]).close()
    with pytest.raises(CaseError, match="started with another scan"):
        history(tmp_path / "one", scan=["other"])
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "step_0001.npz").write_bytes(b"mine")
    with pytest.raises(CaseError, match="not part of a session"):
        history(tmp_path / "two")
    assert (tmp_path / "two" / "step_0001.npz").read_bytes() == b"mine"
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "session.json").write_text('{"version": 1}')
    with pytest.raises(CaseError, match="another version of Foldwise"):
        history(tmp_path / "three")


def test_damaged_steps_are_named(tmp_path: Path) -> None:
    one = history(tmp_path)
    for index in (1, 2, 3):
        paint(one, index, 1)
    one.close()
    _, second, _ = sorted(tmp_path.glob("step_*.npz"))
    whole = second.read_bytes()
    second.write_bytes(whole[:50])
    with pytest.raises(CaseError, match=r"step_0002\.npz: not a readable step"):
        history(tmp_path)
    second.unlink()
    with pytest.raises(CaseError, match=r"step_0002\.npz: this step is missing"):
        history(tmp_path)
    second.write_bytes(whole)
    assert history(tmp_path).steps == 3


def test_more_than_255_objects(tmp_path: Path) -> None:
    objects = tuple(Object(str(n), n, COLOURS[0]) for n in range(1, 301))
    one = History(tmp_path, {}, Moment(State.empty(SHAPE, 2), objects))
    labels = np.zeros(SHAPE, np.uint16)
    labels[0, 0, 0] = 300
    one.add(State(labels, 2), objects, "loaded")
    one.undo()
    one.redo()
    assert one.now.state.labels[0, 0, 0] == 300


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("a", None, "one of this name already"), (" ", None, "1 to 64"), ("c", 257, "257 is that of another")],
)
def test_faulty_objects(name: str, value: int | None, message: str) -> None:
    with pytest.raises(CaseError, match=message):
        named(name, OBJECTS, value)


def test_new_objects_take_free_values() -> None:
    assert named("c", OBJECTS).value == 2
