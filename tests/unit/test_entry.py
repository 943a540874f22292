"""The command `foldwise` itself: its version, and what a shell completes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from foldwise import __version__

# How Typer's scripts for each shell ask the command.
ASKED = {
    "bash": {"COMP_WORDS": "foldwise import de", "COMP_CWORD": "2"},
    "zsh": {"_TYPER_COMPLETE_ARGS": "foldwise import de"},
    "fish": {"_TYPER_COMPLETE_FISH_ACTION": "get-args", "_TYPER_COMPLETE_ARGS": "foldwise import de"},
}


def foldwise(*words: str, **variables: str) -> str:
    code = "import sys; sys.argv[0] = 'foldwise'; from foldwise.commands import main; main()"
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True).stdout


def test_version() -> None:
    assert foldwise("--version") == f"foldwise {__version__}\n"


@pytest.mark.parametrize("shell", ASKED)
def test_completion(shell: str) -> None:
    completed = foldwise(_FOLDWISE_COMPLETE=f"complete_{shell}", **ASKED[shell])
    assert "decathlon" in completed
    assert "dicom" not in completed
