"""The package as others install it, outside of a checkout, and the workflow as a module of another one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments import EXPERIMENT, ROOT, add_case
from warm import python


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Four labelled scans in a folder with a space, and an experiment."""
    folder = tmp_path / "my scans"
    folder.mkdir()
    for number in range(4):
        add_case(folder, number)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(EXPERIMENT), encoding="utf-8")
    return folder


def run(folder: Path, site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """With the wheel's package, imported once for all of them; or without a path to any."""
    return subprocess.run(
        [python(site) if site.name else sys.executable, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
    )


@pytest.mark.slow
def test_the_wheel_runs_an_experiment_anywhere(site: Path, scans: Path) -> None:
    # One job prepares all.
    together = ("--set-scatter", "prepare=1")
    done = run(scans, site, "-m", "foldwise", "run", "tiny.yaml", "--cores", "1", *together)
    assert done.returncode == 0, done.stderr[-4000:]
    results = scans / "results" / "tiny"
    assert (results / "report.html").exists()
    # Not that of a repository in which the environment lies, or of the checkout.
    assert json.loads((results / "unet" / "fold0" / "provenance.json").read_text())["commit"] is None
    log = (results / "logs" / "train" / "unet_fold0.log").read_text(encoding="utf-8")
    assert str(ROOT) not in log
    done = run(scans, site, "-m", "foldwise", "run", "tiny.yaml", "-n")
    assert "Nothing to be done" in done.stdout + done.stderr
    done = run(scans, site, "-m", "foldwise", "run", "tiny.yaml", "-n", "--sdm", "conda")
    assert "--sdm needs a checkout" in done.stderr


@pytest.mark.slow
def test_the_demo_is_in_the_wheel(site: Path, tmp_path: Path) -> None:
    done = run(tmp_path, site, "-m", "foldwise", "demo", "my demo", "-n")
    assert done.returncode == 0, done.stderr[-4000:]
    assert "phantom" in done.stdout + done.stderr
    assert (tmp_path / "my demo" / "config.yaml").read_text() == (ROOT / "config.yaml").read_text()
    # An option is no folder.
    assert run(tmp_path, site, "-m", "foldwise", "demo", "-n").returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foldwise-demo", "my demo"]


MODULE = """
module foldwise:
    snakefile: {snakefile!r}
    config: config["tumours"]
    {more}

use rule * from foldwise as foldwise_*

rule mine:
    default_target: True
    input: "elsewhere/tiny/splits.json"
    output: "mine.json"
    shell: "cp {{input}} {{output}}"
"""


def module(scans: Path, snakefile: Path, more: str) -> list[str]:
    (scans / "Snakefile").write_text(MODULE.format(snakefile=str(snakefile), more=more), encoding="utf-8")
    config: dict[str, Any] = {"tumours": EXPERIMENT}
    (scans / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return ["-m", "snakemake", "--cores", "1", "--configfile", "config.yaml"]


@pytest.mark.slow
@pytest.mark.parametrize("installed", [True, False])
def test_as_a_module_of_another_workflow(site: Path, scans: Path, installed: bool) -> None:
    root = site / "foldwise" / "checkout" if installed else ROOT
    words = module(scans, root / "workflow" / "Snakefile", 'pathvars: results="elsewhere"')
    done = run(scans, site if installed else Path(), *words)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "rule foldwise_index" in done.stderr
    assert (scans / "mine.json").read_text() == (scans / "elsewhere" / "tiny" / "splits.json").read_text()


@pytest.mark.slow
def test_a_module_with_a_prefix_is_refused(site: Path, scans: Path) -> None:
    done = run(scans, site, *module(scans, ROOT / "workflow" / "Snakefile", 'prefix: "x"'))
    assert done.returncode != 0
    assert "set the path variable `results`" in done.stderr
