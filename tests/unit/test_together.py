"""Requests that share a process: each output with its own record and log, and failures apart."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from foldwise.command import request
from foldwise.experiment.open import Opened, open_experiment
from foldwise.experiment.parts import divided
from foldwise.files import CaseError, write_json
from foldwise.hdf5 import content_of
from foldwise.record import record_in
from foldwise.stages.prepare_part import prepare_part, prepare_together
from foldwise.together import Refused, Request, answer, run_all
from tiny_clip import save_clip
from ultrasound import SMALL, settings_of, write_clips


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    write_clips(folder, cases=4)
    save_clip(folder / "clip")
    return folder


def opened(folder: Path, results: Path, **more: Any) -> Opened[Any, Any]:
    network = {"name": "EVL", "weights": str(folder / "clip"), "blocks": 2}
    evl = {**SMALL, "network": network, "input": "crop", "features": {"views": 2}}
    values = settings_of(folder / "clips.csv", prepare={"regions": {"method": "fan"}}, models={"evl": evl})
    return open_experiment({**values, "results": str(results), "device": "cpu", **more}, main=False)


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Opened[Any, Any], dict[str, str]]:
    """Prepared cases, one of which failed, and why."""
    experiment = opened(folder, tmp_path_factory.mktemp("made") / "results")
    broken = folder / "k2_0.mov"
    whole = broken.read_bytes()
    broken.write_bytes(b"no video")
    failed = prepare_together(experiment, cores=1)
    broken.write_bytes(whole)
    return experiment, failed


class TestClips:
    """The cases of a part."""

    def test_a_case_that_fails(self, folder: Path, made: tuple[Opened[Any, Any], dict[str, str]]) -> None:
        experiment, failed = made
        broken = folder / "k2_0.mov"
        assert list(failed) == ["k2_0"]
        assert str(broken) in failed["k2_0"]
        prepared = experiment.preparation
        log = Path(prepared.data, "logs", "clip_cache", "k2_0.log").read_text(encoding="utf-8")
        assert f"error: case k2_0: {broken}" in log
        for pattern in prepared.made:
            found = {path.stem for path in Path(pattern).parent.glob("*.h5")}
            assert {"k0_0", "k1_0", "k3_0"} <= found

    def test_another_try_leaves_out_what_was_refused(
        self, folder: Path, made: tuple[Opened[Any, Any], dict[str, str]], tmp_path: Path
    ) -> None:
        """A damaged file is as damaged in the next try of a job; a new call looks at it again."""
        results = Path(shutil.copytree(made[0].settings.results, tmp_path / "results"))
        experiment = opened(folder, results)
        settings, log = (
            json.loads(experiment.depends.part_settings(experiment.parts.folders[-1])),
            Path(experiment.preparation.data),
        )
        log = log / "logs" / "clip_cache" / "k2_0.log"
        broken, marker = folder / "k2_0.mov", results / "training_0of1.json"
        whole = broken.read_bytes()

        def tried(attempt: int) -> bool:
            log.unlink(missing_ok=True)
            values: dict[str, Any] = {"part": "training_0of1", "marker": marker, "attempt": attempt}
            with pytest.raises(CaseError, match=f"1 of 4 cases failed.*\n  case k2_0: {broken}"):
                prepare_part(settings=settings, rules=[*experiment.preparation.stages], **values)
            assert not marker.exists()
            return log.exists()

        broken.write_bytes(b"no video")
        try:
            assert [tried(attempt) for attempt in (1, 2, 3, 1)] == [True, False, False, True]
        finally:
            broken.write_bytes(whole)

    def test_a_change_concerns_its_case(
        self, folder: Path, made: tuple[Opened[Any, Any], dict[str, str]], tmp_path: Path
    ) -> None:
        results = Path(shutil.copytree(made[0].settings.results, tmp_path / "results"))
        # A model of the same regions that stores no features.
        experiment = opened(folder, results, models={"small": {**SMALL, "input": "crop"}})
        made_of = experiment.preparation.made
        paths = [Path(path.format(case=case)) for path in made_of for case in ("k0_0", "k1_0", "k3_0")]
        before = {path: path.stat().st_mtime_ns for path in paths}
        os.utime(
            experiment.preparation.cached.format(case="k1_0"), (1, 1)
        )  # as `settle` marks a stale output
        Path(experiment.paths.stale).mkdir()
        os.utime(experiment.paths.stale, (2, 2))
        assert prepare_together(experiment, cores=2) == {}
        assert {path.stem for path in paths if path.stat().st_mtime_ns != before[path]} == {"k1_0"}
        assert Path(experiment.preparation.cached.format(case="k2_0")).exists()

    def test_what_single_jobs_write(
        self, made: tuple[Opened[Any, Any], dict[str, str]], tmp_path: Path
    ) -> None:
        """The same content, and a record of the same settings, sources and libraries."""
        experiment, _ = made
        stage = experiment.preparation.stages["clip_cache"]
        assert stage.asked is not None
        [asked] = stage.asked("k3_0")
        alone, together = tmp_path / "k3_0.h5", Path(asked.outputs[0])
        values = {**asked.values, "cache": alone}
        words = request(**values, depends=experiment.depends.case("clip_cache", "k3_0"))
        assert answer("clip_cache", [Request("k3_0", words, str(tmp_path / "log"), [], [])], 1, 1) == {}
        assert content_of(alone) == content_of(together)
        one, other = record_in(alone), record_in(together)
        assert one is not None
        assert other is not None
        assert one.fingerprint == other.fingerprint
        assert [Path(name).name for name in other.read] == ["k3_0.mp4"]
        assert "torch" not in other.versions

    def test_requests_name_arguments(self, folder: Path, tmp_path: Path) -> None:
        for name, stage in opened(folder, tmp_path).preparation.stages.items():
            module = __import__(f"foldwise.stages.{name}", fromlist=[name])
            assert stage.asked is not None
            for asked in stage.asked("k0_0"):
                assert set(asked.values) - {"also"} <= set(getattr(module, name).names)

    def test_many_cases_are_prepared_in_parts(self, folder: Path, tmp_path: Path) -> None:
        lines = (folder / "clips.csv").read_text(encoding="utf-8").splitlines()
        many = [f"c{n},p{n},k0_0.mp4,high" for n in range(101)]
        sheet = folder / "many.csv"
        sheet.write_text("\n".join([lines[0], *many]) + "\n", encoding="utf-8")
        for count, parts in ((20, None), (21, 1), (101, 3)):
            sheet.write_text("\n".join([lines[0], *many[:count]]) + "\n", encoding="utf-8")
            found = opened(folder, tmp_path, data={"sheet": str(sheet), "classes": ["high", "low"]})
            divide = divided(found.preparation, found.paths, found.training, None, main=True)
            assert divide.count == parts


STAND_IN = """
import errno, os, sys
from pathlib import Path
from foldwise.files import CaseError
from foldwise.together import TOGETHER, run_all

def run(words):
    if words == ["kill"]:
        os._exit(9)
    if words == ["raise"]:
        raise RuntimeError("no memory\\nleft")
    if words[0] in "ef":
        number = errno.ESTALE if words == ["e"] else errno.EINVAL
        raise CaseError(f"{words[0]}: unreadable") from OSError(number, "read")

run_all(Path(sys.argv[-1].removeprefix(TOGETHER)), run)
"""


def test_what_kills_the_process_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The case that was in progress failed; the others are prepared by another process."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN, encoding="utf-8")
    monkeypatch.setattr("foldwise.together.command_of", lambda stage: [sys.executable, str(script)])
    wanted = {"a": "fine", "b": "kill", "c": "raise", "d": "fine", "e": "e", "f": "f"}
    requests = [Request(case, [word], str(tmp_path / f"{case}.log"), [], []) for case, word in wanted.items()]
    failed = answer("stage", requests, 1, 1)
    assert failed == {
        "b": "stage ended with code 9",
        "c": "RuntimeError: no memory left",
        "e": "e: unreadable",
        "f": "f: unreadable",
    }
    # The disk of e may answer the next try; the file of f is what it is.
    assert {case for case, why in failed.items() if isinstance(why, Refused)} == {"f"}
    assert "Traceback" in (tmp_path / "c.log").read_text(encoding="utf-8")
    assert (tmp_path / "d.log").exists()


def test_requests_end_with_the_process_that_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, listed = str(tmp_path / "log"), tmp_path / "requests.json"
    write_json(listed, [asdict(Request(case, [case], log, [], [])) for case in ("a", "b")])
    parent, done = [7], []
    monkeypatch.setattr(os, "getppid", lambda: parent[0])

    def killed(words: Sequence[str]) -> None:
        done.append(words[0])
        parent[0] = 1

    run_all(listed, killed)
    assert done == ["a"]
