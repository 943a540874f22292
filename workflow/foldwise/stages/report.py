"""Write an experiment's report: one HTML page, and the same numbers as CSV and JSON."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from foldwise.command import run, system_parser
from foldwise.report.page import write_report
from foldwise.report.results import read_experiment
from foldwise.report.usage import usage
from foldwise.settings import parse
from foldwise.systems import part


def main() -> None:
    """Read the command line."""
    made = system_parser(__doc__, "Settings")
    made.add_argument("--folder", required=True, type=Path, help="folder of the experiment")
    made.add_argument("--data", required=True, type=Path, help="folder of the prepared data")
    made.add_argument("--caches", required=True, type=Path, help="folder of the caches")
    args = made.parse_args()
    settings = parse(part(args.system, "settings").Settings, args.settings)
    view = part(args.system, "report").VIEW
    experiment = read_experiment(
        settings.experiment,
        args.folder,
        list(settings.models),
        settings.split.folds,
        args.caches,
        lambda cases: view.remarks(cases, args.data),
    )
    write_report(replace(experiment, usage=usage(args.folder, args.data)), view, args.folder)


if __name__ == "__main__":
    run(main)
