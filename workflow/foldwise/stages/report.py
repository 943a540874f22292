"""Write an experiment's report: one HTML page, and the same numbers as CSV and JSON."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from foldwise.command import Folder, Of, run, stage
from foldwise.experiment.settings import Experiment
from foldwise.record import makes, used
from foldwise.report.page import write_report
from foldwise.report.results import read_experiment
from foldwise.report.usage import usage
from foldwise.systems.base import System


@stage
def report(
    *,
    system: System[Any, Any],
    settings: Annotated[Experiment, Of()],
    folder: Annotated[Folder, "folder of the experiment"],
    data: Annotated[Folder, "folder of the prepared data"],
    caches: Annotated[Folder, "folder of the caches"],
) -> None:
    """Write the report."""
    view, models = system.results.view, [folder / model for model in settings.models]
    used(folder / "check.json", folder / "splits.json", *(model / "ensemble/metrics.csv" for model in models))
    used(*(path for model in models for path in sorted(model.glob("fold*/*.csv"))))
    makes(folder / "summary.json")
    read = read_experiment(
        settings.experiment,
        folder,
        list(settings.models),
        settings.split.folds,
        caches,
        lambda cases: view.remarks(cases, data, caches),
        [*settings.further_tests],
    )
    write_report(replace(read, usage=usage(folder, data)), view, folder)


if __name__ == "__main__":
    run(report.main)
