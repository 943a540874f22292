"""A command runs with the threads of its job, and its help lists the keys of sections."""

import os
import subprocess
import sys

import pytest

COMMAND = """\
from foldwise.command import run

def main():
    import SimpleITK
    print(SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads())

run(main)
"""


@pytest.mark.parametrize(
    ("own", "expected"), [({}, "3"), ({"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "5"}, "5")]
)
def test_simpleitk_uses_the_threads_of_the_job(own: dict[str, str], expected: str) -> None:
    """Snakemake sets OMP_NUM_THREADS to a job's threads; a user's own setting of ITK stays."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ITK_")}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND],
        env={**environment, "OMP_NUM_THREADS": "3", **own},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected


def test_a_job_within_a_job_has_threads_of_its_own() -> None:
    """As in a part of the cases: four threads together, one for each case."""
    outer = """\
import os, subprocess, sys
from foldwise.command import run

def main():
    inner = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", sys.argv[1]], env=inner, check=True)

run(main)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ITK_")}
    done = subprocess.run(
        [sys.executable, "-c", outer, COMMAND],
        env={**environment, "OMP_NUM_THREADS": "4"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "1"


def test_help_shows_a_section_as_a_user_writes_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from foldwise.stages.crop import crop

    monkeypatch.setattr(sys, "argv", ["crop", "--help"])
    with pytest.raises(SystemExit, match="0"):
        crop.main()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  outside: ")]
    assert line.endswith('Values: `keep`, `zero`, `mean`, `air`. (default "keep")')
