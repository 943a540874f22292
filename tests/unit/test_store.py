"""What is kept between calls: found by everything that it was made from, whole, and by nobody else's hand."""

from __future__ import annotations

import ast
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import foldwise
from foldwise.command import request
from foldwise.files import CaseError, file_hash
from foldwise.index import Index
from foldwise.settings import as_json
from foldwise.stages import ensemble, predict, score, test
from foldwise.store import Memory, Store
from foldwise.volumes.cache import cache_case
from foldwise.volumes.crop import crop_case
from foldwise.volumes.settings import Cache, Crop, Data
from foldwise.volumes.volume import Volume, write_volume
from synthetic import write_cached_set
from untrained import write_untrained

PACKAGE = Path(foldwise.__file__).parent


def writes(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


class TestStore:
    def test_a_file_is_found_by_all_that_it_was_made_from(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "state")
        assert store.get("a", "scan", {"x": 1}) is None
        kept = store.put(writes("mask of a"), "a", "scan", {"x": 1})
        assert store.get("a", "scan", {"x": 1}) == kept
        assert kept.read_text() == "mask of a"
        for name, made_of in (("b", ("scan", {"x": 1})), ("a", ("scan",)), ("a", ("scan", {"x": 2}))):
            assert store.get(name, *made_of) is None
        # Made from other things, it is another file.
        other = store.put(writes("another"), "a", "scan", {"x": 2})
        assert [store.get("a", "scan", {"x": x}) for x in (1, 2)] == [kept, other]
        assert (store.has("a"), store.has("b")) == (True, False)

    @pytest.mark.parametrize("damage", [b"mask", b"mask of A", b"", b"mask of a and more"])
    def test_a_damaged_file_is_a_miss(self, tmp_path: Path, damage: bytes) -> None:
        store = Store(tmp_path)
        kept = store.put(writes("mask of a"), "a", 1)
        kept.write_bytes(damage)
        assert store.get("a", 1) is None
        again = store.put(writes("mask of a"), "a", 1)
        assert store.get("a", 1) == again

    def test_a_failure_keeps_nothing(self, tmp_path: Path) -> None:
        def fail(path: Path) -> None:
            path.write_text("half of")
            raise CaseError("no")

        store = Store(tmp_path)
        with pytest.raises(CaseError):
            store.put(fail, "a", 1)
        assert store.get("a", 1) is None
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("links", [True, False])
    def test_given_files_stay(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
        def refuse(*_: Any) -> None:
            raise PermissionError("no links here")

        if not links:
            monkeypatch.setattr(os, "link", refuse)
        store = Store(tmp_path / "state")
        store.give({"a": store.put(writes("of a"), "a", 1)}, tmp_path)
        assert (tmp_path / "a.h5").read_text() == "of a"
        assert store.get("a", 1) is not None
        store.clear()
        assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]

    def test_only_its_own_files_are_removed(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        for name in "abc":
            store.put(writes(name), name, 1)
        memory = store.memory("choice")
        memory.put(1, "x")
        memory.save()
        foreign = ["thesis.tex", "0123456789ab-notes.h5", "values.json", ".hidden"]
        for name in foreign:
            (tmp_path / name).write_text("mine")
        (tmp_path / "cafe").mkdir()
        # A killed job leaves a folder.
        left = ThreadPoolExecutor(1)
        stop, begun = threading.Event(), threading.Event()

        def wait(path: Path) -> None:
            path.write_text("half")
            begun.set()
            stop.wait()

        left.submit(store.put, wait, "d", 1)
        begun.wait()
        store.clear(but="bd")
        assert store.get("b", 1) is not None
        assert not store.has("a")
        store.clear()
        assert {path.name for path in tmp_path.iterdir()} == {*foreign, "cafe"}
        assert store.memory("choice").get("x") is None
        stop.set()
        left.shutdown()


class TestMemory:
    def test_values_are_found_by_all_that_they_were_made_from(self, tmp_path: Path) -> None:
        memory = Memory(tmp_path / "m.json")
        memory.put([1, None], "a", {"b": 2, "c": 3})
        assert memory.get("a", {"c": 3, "b": 2}) == [1, None]
        assert Memory(tmp_path / "m.json").get("a", {"b": 2, "c": 3}) is None
        memory.save()
        # Another process writes in the meantime.
        other = Memory(tmp_path / "m.json")
        other.put("other", 1)
        other.save()
        memory.put("mine", 2)
        memory.save()
        read = Memory(tmp_path / "m.json")
        assert [read.get("a", {"b": 2, "c": 3}), read.get(1), read.get(2)] == [[1, None], "other", "mine"]

    @pytest.mark.parametrize("text", ["", "{", "[1]", '{"a"'])
    def test_a_broken_file_is_empty(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "m.json").write_text(text)
        memory = Memory(tmp_path / "m.json")
        assert memory.get(1) is None
        memory.put("x", 1)
        memory.save()
        assert Memory(tmp_path / "m.json").get(1) == "x"

    def test_hashes_of_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path, memory = tmp_path / "weights.pt", Memory(tmp_path / "m.json")
        path.write_text("a")
        first, before = memory.file_hash(path), path.stat()
        assert first == file_hash(path)
        memory.save()
        with monkeypatch.context() as patch:
            patch.setattr("foldwise.store.file_hash", lambda _: pytest.fail("read again"))
            assert Memory(tmp_path / "m.json").file_hash(path) == first
        # In its place, with its size and its time.
        path.write_text("b")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert memory.file_hash(path) == file_hash(path) != first


TREES = {
    path: ast.parse(path.read_text(encoding="utf-8"))
    for path in PACKAGE.rglob("*.py")
    if path.name not in ("store.py", "command.py") or path.parent != PACKAGE
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def of_store(function: Function) -> set[str]:
    """Names of a function's arguments that are a Store."""
    arguments = [*function.args.args, *function.args.kwonlyargs]
    return {
        each.arg
        for each in arguments
        if each.annotation
        and any(isinstance(n, ast.Name) and n.id == "Store" for n in ast.walk(each.annotation))
    }


def test_a_store_is_only_used_by_its_methods() -> None:
    """So nobody makes a path of it; and every stage but train, which owns its checkpoints, gets a Store."""
    functions = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, Function)]
    takers = {function.name for function in functions if of_store(function)}
    methods = {name for name in vars(Store) if not name.startswith("_")}
    seen = 0
    for function in functions:
        names = of_store(function)
        allowed: set[int] = set()
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and node.attr in methods:
                allowed.add(id(node.value))
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in takers:
                allowed |= set(map(id, node.args))
        for node in ast.walk(function):
            if isinstance(node, ast.Name) and node.id in names:
                seen += 1
                assert id(node) in allowed, f"{function.name}, line {node.lineno}: only methods of Store"
    assert seen > 10
    for path, tree in TREES.items():
        if path.parent.name == "stages" and path.stem != "train":
            for node in ast.walk(tree):
                if isinstance(node, Function) and "state" in {a.arg for a in node.args.kwonlyargs}:
                    assert "state" in of_store(node), f"{path.name}: state is a Store"


class Watch:
    """Writes below a folder whose call stack holds neither the store nor training."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.seen, self.foreign = 0, list[str]()
        sys.addaudithook(self._heard)

    def _heard(self, event: str, given: tuple[Any, ...]) -> None:
        if self.folder is None or event not in (
            *("open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.truncate"),
            *("shutil.move", "shutil.copyfile", "shutil.rmtree"),
        ):
            return
        if event == "open" and not self._writes(given):
            return
        if not any(str(item).startswith(self.folder) for item in given):
            return
        self.seen += 1
        frame: Any = sys._getframe(1)
        while frame is not None:
            name = Path(frame.f_code.co_filename)
            if name == PACKAGE / "store.py" or name.is_relative_to(PACKAGE / "training"):
                return
            frame = frame.f_back
        self.foreign.append(f"{event} {given}")

    @staticmethod
    def _writes(given: tuple[Any, ...]) -> bool:
        _, mode, flags = given
        return bool(
            flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if mode is None else set(mode) & set("wax+")
        )


WATCH = Watch()  # a hook cannot be removed


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    WATCH.folder, WATCH.seen = str(tmp_path / "state"), 0
    WATCH.foreign.clear()
    yield WATCH
    WATCH.folder = None


def test_nothing_is_written_past_the_store(
    tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls of test, score, ensemble and predict, each on a tiny case."""
    index = write_cached_set(tmp_path / "set")
    read = Index.read(index)
    model = write_untrained(tmp_path / "model.pt", read.task)
    scan = tmp_path / "new" / "s.nii.gz"
    data = np.random.default_rng(0).integers(-900, 900, (20, 18, 16)).astype(np.int16)
    write_volume(Volume(data, np.eye(4)), scan)
    (tmp_path / "cases.csv").write_text("case,group,image,label,split\ns,s,new/s.nii.gz,,\n")
    crop = tmp_path / "crops" / "s"
    crop.mkdir(parents=True)
    crop_case([scan], None, None, None, Crop(to="none"), {"tumour": 1}, crop)
    cache_case("s", crop, Cache(), {"tumour": 1}, tmp_path / "caches" / "s.h5")

    def call(stage: Any, **given: Any) -> None:
        name = stage.__name__
        state, out = tmp_path / "state" / name, tmp_path / "out" / name
        places = {key: out / key for key in ("predictions", "index", "scores", "published", "facts")}
        words = {**{key: path for key, path in places.items() if key in stage.names}, **given}
        monkeypatch.setattr(sys, "argv", [name, *request(state=state, **words)])
        before = watch.seen
        stage.main()
        assert watch.seen > before
        assert not state.exists()

    data_settings = Data(sheet=tmp_path / "cases.csv", labels={"tumour": 1})
    call(test.predict_fold, index=index, fold=0, model=model)
    predicted = tmp_path / "out" / "predict_fold" / "predictions"
    call(score.score, index=index, predictions=predicted, settings="{postprocess: largest_component}")
    call(
        ensemble.ensemble,
        data=as_json(data_settings),
        models=[model],
        prepared=crop.parent,
        caches=tmp_path / "caches",
    )
    call(predict.predict, models=[model], source=scan.parent)
    assert watch.foreign == []
    # The watch sees a write by another hand.
    (tmp_path / "state").mkdir(exist_ok=True)
    (tmp_path / "state" / "x").write_text("past the store")
    assert any("'x" in line or "/x" in line for line in watch.foreign)


def test_a_state_is_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"state": tmp_path / "a", "predictions": tmp_path / "a"}
    words = request(**places, facts="f", index="i", models=["m"], source="s", published="p")
    monkeypatch.setattr(sys, "argv", ["predict", *words])
    with pytest.raises(CaseError, match=r"--state and --predictions are both .*a; nothing was read"):
        predict.predict.main()
