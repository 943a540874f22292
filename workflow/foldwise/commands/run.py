"""`foldwise run` and `foldwise demo`: Snakemake with the workflow of this package."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from foldwise.places import ROOT, SNAKEFILE

# Of two, Snakemake would take the last.
OURS = ("--configfile", "--configfiles", "--snakefile", "-s")
DEMO = Path("foldwise-demo")
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def run(
    context: typer.Context,
    experiment: Annotated[Path, typer.Argument(help="The experiment's settings (.yaml).")],
) -> None:
    """Run an experiment with Snakemake; all further words are targets and options of Snakemake.

    Without a profile, jobs run on this machine. `--profile slurm` submits them to Slurm. Your own folder or
    Snakemake profile of that name takes precedence.

    foldwise run lung.yaml -n                          what would run

    foldwise run lung.yaml --profile slurm             on the cluster

    foldwise run lung.yaml predict --config predict=new_scans/
    """
    from foldwise.experiment.configs import read_configs
    from foldwise.files import CaseError

    if str(experiment).startswith("-"):
        raise CaseError(
            f"{experiment}: the experiment comes before Snakemake's options, e.g. `foldwise run lung.yaml -n`"
        )
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
    folder: Annotated[Path, typer.Argument(help="Folder for the demo.")] = DEMO,
) -> None:
    """Run the whole workflow on generated chest CTs, in a new folder; minutes on two cores."""
    import pandas as pd

    from foldwise.experiment.configs import read_configs

    passed_on = context.args
    if str(folder).startswith("-"):  # an option of Snakemake's, as `foldwise demo -n`
        folder, passed_on = DEMO, [str(folder), *passed_on]
    experiment = folder / "config.yaml"
    if not experiment.exists():
        (folder / "experiments").mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "experiments" / "phantom.csv", folder / "experiments")
        shutil.copy(ROOT / "config.yaml", experiment)
    os.chdir(folder)
    settings = read_configs([Path(experiment.name)])
    # On two cores, two folds with a thread each are done sooner than one after the other.
    words = ["--resources", "device=2", "--set-threads", "train=1", "test=1", "ensemble=1"]
    code = _wait(_command([*passed_on, *words, "--configfile", experiment.name]))
    results = Path(settings.get("results", "results")) / str(settings.get("experiment"))
    if code == 0 and (results / "summary.csv").exists():
        first = pd.read_csv(results / "summary.csv", dtype=str).drop_duplicates(["model", "class"])
        for row in first.to_dict("records"):
            scored = f"{row['metric']} of {row['class']}, {row['cases']} cases"
            print(f"{row['model']}: mean {scored}: {row['mean']:.5}")
        print(f"report: {(results / 'report.html').resolve()}")
    sys.exit(code)


def _snakemake(words: Sequence[str]) -> None:
    """Become Snakemake, so that signals and the exit code are its own."""
    os.execv(sys.executable, _command(words))


def _wait(command: Sequence[str]) -> int:
    """Run a command, which itself reacts to Ctrl+C and to SIGTERM; its exit code."""
    child = subprocess.Popen(command)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to both
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    return child.wait()


def _command(words: Sequence[str]) -> list[str]:
    """Snakemake with the workflow of this package."""
    return [sys.executable, "-m", "snakemake", *_with_profile(words), "--snakefile", str(SNAKEFILE)]


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
