"""Reading the next case and writing the last one beside the present one: order, failures, memory, kills."""

import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from foldwise.evaluate import Steps, made_from
from foldwise.files import CaseError
from foldwise.overlap import BEHIND, Unwritten, overlapped
from foldwise.store import Store

SECONDS = 20


def test_the_next_case_is_read_and_the_last_one_written_meanwhile() -> None:
    """While b is worked on, c is read and a written: each waits for the two others."""
    meeting, done = threading.Barrier(3, timeout=SECONDS), []

    def read(case: str) -> str:
        if case == "c":
            meeting.wait()
        return case

    def work(case: str, known: str) -> Unwritten:
        assert known == case
        if case == "b":
            meeting.wait()
        return Unwritten(lambda: write(case), 0)

    def write(case: str) -> None:
        if case == "a":
            meeting.wait()
        done.append(case)

    failed: dict[str, str] = {}
    overlapped("abcd", read, work, failed)
    assert (done, failed) == (["a", "b", "c", "d"], {})


def test_at_most_two_cases_besides_the_present_one_are_in_memory() -> None:
    class Data:
        pass

    images: weakref.WeakSet[Data] = weakref.WeakSet()
    results: weakref.WeakSet[Data] = weakref.WeakSet()
    most = [0, 0]

    def look() -> None:
        gc.collect()
        most[:] = max(most[0], len(images)), max(most[1], len(results))

    def read(case: int) -> Data:
        images.add(data := Data())
        look()
        return data

    def work(case: int, image: Data) -> Unwritten:
        results.add(result := Data())
        look()

        def write() -> None:
            look()
            str(result)

        return Unwritten(write, 0)

    overlapped([*range(8)], read, work, {})  # type: ignore[arg-type]
    # The present one and the next; the present one and the last.
    assert most == [2, 2]
    gc.collect()
    assert (len(images), len(results)) == (0, 0)


def test_large_results_are_written_before_the_next_case() -> None:
    events: list[Any] = []

    def work(case: str, _: Any) -> Unwritten:
        events.append(f"work {case}")
        large = Unwritten(lambda: events.append((f"write {case}", threading.current_thread())), BEHIND + 1)
        return large if case != "b" else None  # type: ignore[return-value]

    overlapped("abc", str, work, {})
    here = threading.current_thread()
    assert events == ["work a", ("write a", here), "work b", "work c", ("write c", here)]


@pytest.mark.parametrize("where", ["read", "work", "write"])
@pytest.mark.parametrize("bad", [0, 1, 2])
@pytest.mark.parametrize("nbytes", [0, BEHIND + 1])
def test_a_failure_is_that_of_its_case(where: str, bad: int, nbytes: int) -> None:
    written = []

    def fail(step: str, case: str) -> None:
        if (step, case) == (where, "abc"[bad]):
            raise KeyError("no such thing")

    def read(case: str) -> str:
        fail("read", case)
        return case

    def work(case: str, _: str) -> Unwritten:
        fail("work", case)
        return Unwritten(lambda: write(case), nbytes)

    def write(case: str) -> None:
        fail("write", case)
        written.append(case)

    failed: dict[str, str] = {}
    overlapped("abc", read, work, failed)
    name = "abc"[bad]
    assert failed == {name: f"case {name}: KeyError: 'no such thing'"}
    assert written == [case for case in "abc" if case != name]


@pytest.fixture
def caches(tmp_path: Path) -> dict[str, str]:
    paths = {}
    for number, case in enumerate("abcde"):
        paths[case] = str(tmp_path / f"{case}.h5")
        with h5py.File(paths[case], "w") as file:
            file.attrs.update({"content": str(number), "lineage": "{}"})
            file["value"] = np.full(1000, number)
    return paths


def write_double(values: np.ndarray, path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["twice"] = 2 * values


def read_value(cache: str) -> np.ndarray:
    with h5py.File(cache) as file:
        return np.asarray(file["value"][()])


STEPS = Steps(read_value, lambda values: Unwritten(lambda path: write_double(values, path), 0))


def test_files_in_steps_are_those_of_a_single_step(caches: dict[str, str], tmp_path: Path) -> None:
    def at_once(cache: str, path: Path) -> None:
        assert threading.current_thread() is threading.main_thread()
        write_double(read_value(cache), path)

    one = made_from(caches, at_once, Store(tmp_path / "one"), "model")
    two = made_from(caches, STEPS, Store(tmp_path / "two"), "model")
    assert [*one] == [*two] == [*caches]
    for number, (first, second) in enumerate(zip(one.values(), two.values(), strict=True)):
        assert first.name == second.name
        with h5py.File(second) as file:
            assert (file["twice"][()] == 2 * number).all()
    # Another call finds all of them, and reads and makes nothing.
    assert made_from(caches, Steps(None, None), Store(tmp_path / "two"), "model") == two  # type: ignore[arg-type]


def test_several_failures_are_told_in_the_order_of_the_cases(caches: dict[str, str], tmp_path: Path) -> None:
    def infer(values: np.ndarray) -> Unwritten:
        if values[0] == 2:
            raise CaseError("no work")
        return Unwritten(lambda path: write(values, path), 0)

    def write(values: np.ndarray, path: Path) -> None:
        if values[0] in (1, 4):
            raise OSError("disk full")
        write_double(values, path)

    with pytest.raises(CaseError) as caught:
        made_from(caches, Steps(read_value, infer), Store(tmp_path / "state"), "model")
    assert str(caught.value).splitlines() == [
        "3 of 5 cases failed; all others are kept:",
        "  case b: disk full",
        "  case c: no work",
        "  case e: disk full",
    ]
    store = Store(tmp_path / "state")
    assert [case for case in caches if store.has(case)] == ["a", "d"]


def test_a_kill_loses_two_cases_at_most(caches: dict[str, str], tmp_path: Path) -> None:
    """The one that is worked on, and the last one if it is not written yet."""
    script = f"""
import os
from pathlib import Path
import h5py
from foldwise.evaluate import Steps, made_from
from foldwise.overlap import Unwritten
from foldwise.store import Store

def read(cache):
    with h5py.File(cache) as file:
        return file["value"][()]

def infer(values):
    def write(path):
        with h5py.File(path, "w") as file:
            file["twice"] = 2 * values
    if values[0] == 3:
        os._exit(9)
    return Unwritten(write, 0)

made_from({caches!r}, Steps(read, infer), Store(Path({str(tmp_path / "state")!r})), "model")
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    store = Store(tmp_path / "state")
    kept = [case for case in caches if store.has(case)]
    assert kept in (["a", "b"], ["a", "b", "c"])
    # The next job makes what is missing, and only that.
    made = []

    def infer(values: np.ndarray) -> Unwritten:
        made.append("abcde"[values[0]])
        return STEPS.infer(values)

    paths = made_from(caches, Steps(read_value, infer), store, "model")
    assert made == [case for case in caches if case not in kept]
    assert [*paths] == [*caches]
