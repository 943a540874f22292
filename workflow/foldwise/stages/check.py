"""Check an experiment's data and forecast its memory and disk: the sheet, all headers, all label values."""

from __future__ import annotations

from pathlib import Path

from foldwise.check import check
from foldwise.command import parser, run
from foldwise.files import write_json
from foldwise.forecast import case_mib, count, disk_mib, model_mib, table
from foldwise.settings import Settings, parse
from foldwise.sheet import read_sheet


def main() -> None:
    """Read the command line."""
    made = parser(__doc__, Settings)
    made.add_argument("--counts", required=True, type=Path, help="JSON that remembers what networks hold")
    made.add_argument("--out", required=True, type=Path, help="what was found, to write (.json)")
    args = made.parse_args()
    settings = parse(Settings, args.settings)
    sheet = read_sheet(settings.data)
    checked = check(sheet, settings, labels=True)
    checked.refuse(settings.data.sheet)
    sizes = {case.name: size for case in sheet.cases if (size := checked.size(case))}
    stages = (["lung_mask"] if settings.prepare.lung_mask else []) + ["crop", "cache"]
    cases = {}
    for case in sheet.cases:
        header, size = checked.headers[case.images[0]], sizes[case.name]
        cases[case.name] = {
            "group": case.group,
            "labelled": case.label is not None,
            "split": case.split,
            "shape": list(header.shape),
            "affine": header.affine.tolist(),
            "mib": {stage: case_mib(stage, size, settings) for stage in stages},
            "disk_mib": disk_mib(size, settings),
        }
    targets = settings.data.targets()
    channels = max(size.channels for size in sizes.values())
    models = {}
    for name, model in settings.models.items():
        step = None if settings.plan else count(model, targets, channels, args.counts)
        models[name] = {
            stage: model_mib(stage, list(sizes.values()), settings, model, step)
            for stage in ("train", "test", "ensemble")
        }
    write_json(args.out, {"cases": cases, "models_mib": models, "warnings": list(checked.warnings)})
    for warning in checked.warnings:
        print(f"warning: {warning}")
    print(table(sizes, settings, models))


if __name__ == "__main__":
    run(main)
