"""A trained model carried elsewhere: packed, and used where nothing of its experiment is."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from warm import python


def foldwise(folder: Path, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder."""
    done = subprocess.run(
        [python(), "-m", "foldwise", *map(str, words)],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert not check or done.returncode == 0, done.stderr[-4000:]
    return done


def predicted_elsewhere(
    run: Path, model: str, source: Path, elsewhere: Path, *words: str, hidden: Iterable[str] = ("results",)
) -> dict[str, Any]:
    """Pack a model, hide the experiment's files, and predict in `elsewhere`/out; returns the manifest."""
    elsewhere.mkdir()
    packed = elsewhere / "carried model.foldwise"
    foldwise(run, "export", f"results/tiny/{model}", packed)
    with ExitStack() as stack:
        for name in hidden:
            (run / name).rename(run / f"hidden {name}")
            stack.callback((run / f"hidden {name}").rename, run / name)
        foldwise(elsewhere, "predict", packed, source, "out", *words)
    assert not (elsewhere / "out" / ".unfinished").exists()
    manifest: dict[str, Any] = json.loads((elsewhere / "out" / "manifest.json").read_text(encoding="utf-8"))
    return manifest
