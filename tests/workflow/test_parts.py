"""Cases prepared in parts: the same files from fewer jobs, and one bad case does not affect the others."""

import copy
from pathlib import Path
from typing import Any

import pytest

from experiments import EXPERIMENT, TINY, add_case, planned, snakemake
from foldwise.hdf5 import content_of

CASES = 8
PARTS = ("--set-scatter", "prepare=2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(CASES):
        add_case(tmp_path, number, label=number < CASES - 1)
    return tmp_path


def caches(folder: Path) -> dict[str, str]:
    return {path.stem: content_of(path) for path in folder.glob("results/data/*/cache-*/*.h5")}


def test_parts_make_what_single_jobs_make(folder: Path) -> None:
    jobs = planned(folder, EXPERIMENT, *PARTS)
    # Two parts of the training cases, one with the only other case; no case has its own job.
    assert jobs["prepare_part"] == 3
    assert not {"crop", "cache"} & set(jobs)
    for target in ("indexed", "prepared"):
        assert planned(folder, EXPERIMENT, target, *PARTS) == {"prepare_part": 3, target: 1}
    # Their jobs get the settings that no output depends on, too.
    snakemake(folder, {**EXPERIMENT, "keep_crops": True}, *PARTS, "--until", "index")
    assert len([*folder.glob("results/data/*/crop-*/*/image0.nii.gz")]) == CASES - 1
    in_parts = caches(folder)
    # A part's job counts no network, and leaves no experiment of its own.
    assert sorted(path.name for path in (folder / "results").iterdir()) == [
        ".stale-by-its-record",
        "data",
        "tiny",
    ]
    assert len(in_parts) == CASES - 1
    longer: dict[str, Any] = copy.deepcopy(TINY)
    longer["training"]["epochs"] = 2
    jobs = planned(folder, {**EXPERIMENT, "models": {"unet": longer}}, *PARTS)
    # The other case alone, which the index did not need.
    assert jobs["prepare_part"] == 1
    assert "index" not in jobs
    # Adding a case moves no other.
    add_case(folder, 20, label=False)
    jobs = planned(folder, EXPERIMENT, *PARTS)
    assert "index" not in jobs
    assert jobs["prepare_part"] <= 2
    # Cases prepared in parts stay so, whatever profile the next call uses.
    assert "index" not in planned(folder, EXPERIMENT)
    snakemake(folder, EXPERIMENT, "prepared")
    assert planned(folder, EXPERIMENT, "prepared") == {}
    one_by_one = caches(folder)
    assert len(one_by_one) == CASES + 1
    assert in_parts.items() <= one_by_one.items()


def test_a_bad_case_names_itself_and_takes_no_other_one_along(folder: Path) -> None:
    good = (folder / "c3.nii.gz").read_bytes()
    # The header is intact, so the check before the DAG finds nothing.
    (folder / "c3.nii.gz").write_bytes(good[: len(good) // 2])
    said = snakemake(folder, EXPERIMENT, *PARTS, "--until", "index", check=False)
    assert "case c3" in said
    assert "c3.nii.gz" in said
    assert set(caches(folder)) == {f"c{n}" for n in range(CASES - 1)} - {"c3"}
    times = {path: path.stat().st_mtime_ns for path in folder.glob("results/data/*/cache-*/*.h5")}
    (folder / "c3.nii.gz").write_bytes(good)
    snakemake(folder, EXPERIMENT, *PARTS, "--until", "index")
    assert "c3" in caches(folder)
    assert (
        times.items()
        <= {path: path.stat().st_mtime_ns for path in folder.glob("results/data/*/cache-*/*.h5")}.items()
    )
