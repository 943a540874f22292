"""The judgement on what was found, by hand."""

from dataclasses import replace

import pytest

from foldwise.volumes.lung_judgement import Seen, judge

HEALTHY = Seen(
    litres=(2.2, 2.6),
    smaller=0.85,
    mirrored=1.0,
    lowered_mm=0.0,
    added=0.05,
    cut=(),
    windpipe_mm=80.0,
    spine_mm=60.0,
    section_cm2=600.0,
    share_of_body=0.3,
)


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        ({}, "plausible", []),
        ({"lowered_mm": 25.0}, "plausible", []),  # expiration
        ({"smaller": 0.1}, "plausible", ["10% of the other's volume"]),
        ({"added": 0.3}, "plausible", ["30% of the region lies beyond the air"]),
        ({"lowered_mm": 80.0}, "plausible", ["80 mm more below them"]),
        ({"smaller": 0.0, "mirrored": 0.2}, "partial", ["one side only"]),
        ({"windpipe_mm": None, "smaller": 0.0, "mirrored": 0.2}, "partial", ["one side only"]),
        ({"windpipe_mm": None, "cut": ("above",)}, "partial", ["the scan ends above"]),
        ({"windpipe_mm": None}, "implausible", ["no windpipe"]),
        ({"windpipe_mm": None, "section_cm2": 150.0}, "plausible", []),  # a small child
        ({"windpipe_mm": -70.0}, "implausible", ["upside down"]),
        ({"windpipe_mm": -70.0, "cut": ("above",)}, "partial", ["the scan ends above"]),  # gas in the bowel
        ({"spine_mm": -50.0, "cut": ("left",)}, "implausible", ["back to front", "ends left"]),
        ({"spine_mm": None}, "plausible", []),  # no bones visible
        ({"share_of_body": 0.02}, "implausible", ["only 2.0% of the body"]),
        # The lower ends of lungs in a scan of the abdomen; and a loop of bowel that crosses a scan.
        ({"share_of_body": 0.02, "windpipe_mm": None, "cut": ("above",)}, "partial", ["ends above"]),
        ({"share_of_body": 0.02, "cut": ("below", "above")}, "implausible", ["only 2.0%", "ends below"]),
    ],
)
def test_judgements(change: dict[str, object], verdict: str, words: list[str]) -> None:
    judged = judge(replace(HEALTHY, **change))  # type: ignore[arg-type]
    assert judged.verdict == verdict
    assert all(word in " ".join(judged.remarks) for word in words)
    assert bool(judged.remarks) == bool(words)
