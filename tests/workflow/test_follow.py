"""A local run says how far its trainings are; a dry run and a quiet one do not."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from experiments import EXPERIMENT, add_case, command, snakemake

LINE = re.compile(r"^unet fold \d: epoch 1 of 1, loss \S+, validation Dice \S+$", re.MULTILINE)


@pytest.mark.slow
def test_a_local_run_is_not_silent(tmp_path: Path) -> None:
    for number in range(4):
        add_case(tmp_path, number)
    text = snakemake(tmp_path, EXPERIMENT)
    assert sorted(line[:11] for line in LINE.findall(text)) == ["unet fold 0", "unet fold 1"]
    assert "no progress is shown" not in text
    again = "--forcerun", "train"
    assert not LINE.findall(snakemake(tmp_path, EXPERIMENT, "--dry-run", *again))
    # Another training, whose folds are done one after the other.
    other = {**EXPERIMENT, "seed": 1}
    words = command(tmp_path, other, "--until", "train")
    quiet = subprocess.run(
        [*words[:-2], "--quiet", "progress", *words[-2:]], cwd=tmp_path, capture_output=True, encoding="utf-8"
    )
    assert quiet.returncode == 0, quiet.stderr
    assert not LINE.findall(quiet.stdout + quiet.stderr)
