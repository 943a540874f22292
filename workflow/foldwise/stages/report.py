"""Write an experiment's report: one HTML page, and the same numbers as CSV and JSON."""

from __future__ import annotations

from pathlib import Path

from foldwise.command import parser, run
from foldwise.report.page import write_report
from foldwise.report.results import read_experiment
from foldwise.settings import Settings, parse


def main() -> None:
    """Read the command line."""
    made = parser(__doc__, Settings)
    made.add_argument("--folder", required=True, type=Path, help="folder of the experiment")
    made.add_argument("--caches", required=True, type=Path, help="folder of the caches")
    made.add_argument("--lungs", type=Path, help="folder of the lung masks, if there are any")
    args = made.parse_args()
    settings = parse(Settings, args.settings)
    experiment = read_experiment(
        settings.experiment,
        args.folder,
        list(settings.models),
        settings.split.folds,
        args.caches,
        args.lungs,
    )
    write_report(experiment, args.folder)


if __name__ == "__main__":
    run(main)
