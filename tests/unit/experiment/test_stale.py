"""After any edits, the next call makes what a fresh run would make, and nothing else again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings

from foldwise import record
from foldwise.experiment import stale
from pretended import SYSTEMS, World
from random_edits import PARTS, ROUNDS, Rounds, case_added, follow, killed, replaced, setting_changed

# Caches of other settings lie in another folder; the call ends when they are made.
OTHER_CACHES: Rounds = [[(setting_changed, 4, 1), (killed, 0, 4)]]
# The call ends when a part's case is prepared, but its marker is as it was, or missing.
OLD_MARKER: Rounds = [[(replaced, 0, 0), (killed, 0, 3)]]
NO_MARKER: Rounds = [[(case_added, 0, 1), (killed, 0, 3)]]


# `benchmarks/edits.py` tries others for as long as one likes.
@pytest.mark.parametrize("system", SYSTEMS)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@example(parts=None, rounds=OTHER_CACHES)
@example(parts=2, rounds=OLD_MARKER)
@example(parts=2, rounds=NO_MARKER)
@given(parts=PARTS, rounds=ROUNDS)
def test_the_next_call_makes_what_changed(system: str, parts: int | None, rounds: Rounds) -> None:
    follow(system, parts, rounds)


@pytest.mark.parametrize("versions", ["keep", "rerun"])
def test_other_versions_of_libraries(versions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All outputs were made with another minor version: everything, or nothing, is made again."""
    world = World(tmp_path / "world", "clips")
    world.settings["versions"] = versions
    for module in (record, stale):
        monkeypatch.setattr(module, "minor_versions", lambda modules: {"torch": "2.0"})
    everything = world.call()
    assert world.call() == []
    for module in (record, stale):
        monkeypatch.setattr(module, "minor_versions", lambda modules: {"torch": "2.1"})
    assert world.call() == (everything if versions == "rerun" else [])
    assert world.call() == []
    assert world.wrong() == []


@pytest.mark.parametrize("verify", ["changed", "always"])
@pytest.mark.parametrize("system", ["segmentation", "interactive", "clips"])
def test_sources_within_the_results(system: str, verify: str, tmp_path: Path) -> None:
    """As the demo's, which the workflow itself generates; here everything is in the folder of results."""
    world = World(tmp_path / "world", system)
    world.settings |= {"results": ".", "verify": verify}
    assert world.call() != []
    assert world.call() == []
    for path in world.sources():
        world.write(path, path.read_text())
    assert world.call() == []
    world.write(world.sources()[0], "other", 1e9)
    assert world.call() != []
    assert world.wrong() == []
    assert world.call() == []
