"""After any edits, the next call makes what a fresh run would make, and nothing else again."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from edits import PARTS, ROUNDS, Rounds, follow
from pretended import SYSTEMS


# `benchmarks/edits.py` tries others for as long as one likes.
@pytest.mark.parametrize("system", SYSTEMS)
@settings(max_examples=55, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(parts=PARTS, rounds=ROUNDS)
def test_the_next_call_makes_what_changed(system: str, parts: int | None, rounds: Rounds) -> None:
    follow(system, parts, rounds)
