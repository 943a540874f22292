"""A local run says how far its trainings are; a dry run does not."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest

from experiments import EXPERIMENT, add_case, snakemake

LINE = re.compile(r"^unet fold \d: epoch 1 of 1, loss \S+, validation Dice \S+$", re.MULTILINE)


@pytest.mark.slow
def test_a_local_run_is_not_silent(tmp_path: Path) -> None:
    for number in range(4):
        add_case(tmp_path, number)
    # The second fold takes longer than the time between two looks.
    longer = copy.deepcopy(EXPERIMENT)
    longer["models"]["unet"]["training"] |= {"steps_per_epoch": 40}
    text = snakemake(tmp_path, longer, "--until", "train")
    assert LINE.search(text), text
    assert "no progress is shown" not in text
    assert not LINE.search(snakemake(tmp_path, longer, "--dry-run", "--forcerun", "train"))
