"""What stands in the way of a run on this machine: `foldwise doctor`, or `python -m foldwise.doctor`.

It needs nothing but Python's own library, so that it can tell which package is missing or broken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from foldwise.doctor.finding import Finding


def examine(experiment: Path | None = None) -> list[Finding]:
    """Look at everything; a check that fails is a finding.

    Args:
        experiment: settings, whose folder of results is looked at.
    """
    from foldwise.doctor import folders, hardware, probe, slurm, software

    found: list[Finding] = []

    def look(topic: str, check: Callable[[], Iterable[Finding]]) -> None:
        try:
            found.extend(check())
        except Exception as error:
            text = f"could not be looked at ({type(error).__name__}: {error})"
            found.append(
                Finding(topic, "error", text, "see the other lines; what is broken there may explain it")
            )

    results = Path("results")
    if experiment is not None:
        try:
            results = results_of(experiment)
        except Exception as error:
            todo = "give an experiment's settings (.yaml), as for `foldwise run`"
            found.append(Finding("experiment", "error", f"{experiment}: {error}", todo))
    look("Python", software.python)
    look("packages", software.packages)
    facts = probe.probed([*software.MODULES, *software.system_names()])
    look("imports", lambda: software.imports(facts))
    look("systems", lambda: software.systems(facts))
    look("GPU", lambda: hardware.gpu(facts))
    look("Slurm", slurm.slurm)
    look("folders", lambda: folders.folders(results))
    look("disk", lambda: folders.space(results))
    look("file system", lambda: folders.file_system(results))
    look("/dev/shm", hardware.shared_memory)
    look("open files", hardware.open_files)
    return found


def results_of(experiment: Path) -> Path:
    """The folder of results that an experiment's settings name.

    Raises:
        Exception: the file is missing or no YAML, or yaml is not installed.
    """
    import yaml

    values = yaml.safe_load(experiment.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError("has no settings")
    return Path(str(values.get("results") or "results"))
