"""`foldwise run` and `foldwise demo`: Snakemake with the workflow of this package."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from foldwise.places import ROOT, SNAKEFILE

# Of two, Snakemake would take the last.
OURS = ("--configfile", "--configfiles", "--snakefile", "-s")
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def run(
    context: typer.Context,
    experiment: Annotated[Path, typer.Argument(help="The experiment's settings (.yaml).")],
) -> None:
    """Run an experiment: snakemake with its settings; every other word is one of Snakemake's.

    Without a profile, jobs run on this machine. `--profile slurm` submits them; a folder of that name, and a
    profile among Snakemake's own, come first.

    foldwise run lung.yaml -n                          what would run

    foldwise run lung.yaml --profile slurm             on the cluster

    foldwise run lung.yaml predict --config predict=new_scans/
    """
    from foldwise.experiment.configs import read_configs
    from foldwise.files import CaseError

    for word in context.args:
        if word.partition("=")[0] in OURS:
            raise CaseError(
                f"{word}: `foldwise run` gives it itself; change single settings by --config, e.g. "
                f"`--config 'split={{folds: 3}}'`, or call snakemake --snakefile {SNAKEFILE}"
            )
    read_configs([experiment])  # Snakemake reads it with tracebacks, and keeps the last of two equal keys
    _snakemake([*context.args, "--configfile", str(experiment)])


def demo(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Folder for the demo.")] = Path("foldwise-demo"),
) -> None:
    """Run everything on generated chest CTs, in a folder of its own; minutes on two cores."""
    experiment = folder / "config.yaml"
    if not experiment.exists():
        (folder / "experiments").mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "experiments" / "phantom.csv", folder / "experiments")
        shutil.copy(ROOT / "config.yaml", experiment)
    os.chdir(folder)
    print(f"the report will be {folder / 'results' / 'demo' / 'report.html'}", file=sys.stderr, flush=True)
    # On two cores, two folds with a thread each are done sooner than one after the other.
    words = ["--resources", "device=2", "--set-threads", "train=1", "test=1", "ensemble=1"]
    _snakemake([*context.args, *words, "--configfile", experiment.name])


def _snakemake(words: Sequence[str]) -> None:
    """Become Snakemake, so that signals and the exit code are its own."""
    command = [sys.executable, "-m", "snakemake", *_with_profile(words), "--snakefile", str(SNAKEFILE)]
    os.execv(sys.executable, command)


def _with_profile(words: Sequence[str]) -> list[str]:
    """The words with the path of one of our profiles, if one is named and Snakemake would find none."""
    found = list(words)
    for number, word in enumerate(found):
        flag, equals, name = word.partition("=")
        if flag != "--profile":
            continue
        if equals:
            found[number] = f"--profile={_profile(name)}"
        elif number + 1 < len(found):
            found[number + 1] = _profile(found[number + 1])
        return found
    return found if "SNAKEMAKE_PROFILE" in os.environ else [*found, "--profile", _profile("local")]


def _profile(name: str) -> str:
    from snakemake.common import get_appdirs

    appdirs = get_appdirs()
    own = [Path.cwd(), Path(appdirs.user_config_dir), Path(appdirs.site_config_dir)]
    ours = ROOT / "profiles" / name
    known = any((folder / name).exists() for folder in own)
    return str(ours) if "/" not in name and not known and ours.is_dir() else name
