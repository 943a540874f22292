"""The last step of every importer: a sheet, checked as by the workflow, and a first experiment."""

from __future__ import annotations

import csv
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from foldwise.check import Checked
from foldwise.files import CaseError, atomic_path
from foldwise.importers.arguments import Import
from foldwise.names import fault
from foldwise.settings import validate
from foldwise.store import Memory
from foldwise.systems.base import System
from foldwise.systems.segmentation.system import Segmentation

AnyRow = TypeVar("AnyRow")


@dataclass(frozen=True)
class Row:
    """A case to write.

    Attributes:
        case: its name.
        images: channel → file; the channel "" means the single column `image`.
        label: label map, or None: only predicted.
        group: the patient; empty: the case itself.
        split: "test" or empty.
    """

    case: str
    images: dict[str, Path]
    label: Path | None = None
    group: str = ""
    split: str = ""


@dataclass(frozen=True)
class Dataset:
    """The findings of an importer.

    Attributes:
        rows: the cases.
        labels: class name → voxel value.
        regions: region name → names of its classes.
        ct: whether the first channel is a CT in HU.
        settings: sections given by the data set; if empty, the rest is planned.
        remarks: files that were left out and other remarks, one line each.
        failed: cases that cannot be used and are not among the rows, one line each.
    """

    rows: Sequence[Row]
    labels: dict[str, int]
    regions: dict[str, list[str]] = field(default_factory=dict)
    ct: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    failed: Sequence[str] = ()


def publish(dataset: Dataset, to: Import) -> list[str]:
    """Write the sheet and the experiment, without the cases that the workflow would refuse.

    How the data were understood is printed before anything is written.

    Returns:
        The cases that are left out since they cannot be used, with the reason; for `conclude`.

    Raises:
        CaseError: no case can be used.
    """
    sheet, config = to.sheet, to.experiment
    failed, memory = list(dataset.failed), Memory(None)

    def experiment(rows: Sequence[Row]) -> dict[str, Any]:
        return _experiment(replace(dataset, rows=rows), clean(to.name or sheet.stem), sheet)

    with ExitStack() as stack:
        new_sheet = stack.enter_context(atomic_path(sheet))
        new_config = stack.enter_context(atomic_path(config))

        def check(rows: Sequence[Row]) -> Checked:
            _write_sheet(rows, new_sheet)
            checked = examine(Segmentation(), experiment(rows), new_sheet, memory)
            return replace(checked, problems=(*checked.problems, *_unusable_names(rows)))

        rows, checked = usable(dataset.rows, failed, check, sheet)
        print("\n".join(_understood(rows, dataset)))
        warn([*dataset.remarks, *checked.problems, *checked.warnings])
        write_experiment(experiment(rows), config, new_config)
    print(f"{sheet}: written")
    print(f"{config}: an experiment to start with; its first lines show how")
    return failed


def examine(system: System[Any, Any], values: Mapping[str, Any], sheet: Path, memory: Memory) -> Checked:
    """What the workflow finds in an experiment whose sheet is, as yet, written elsewhere."""
    trial = {**values, "data": {**values["data"], "sheet": sheet}}
    settings = validate(system.settings, trial, origin="the new experiment")
    return system.check(settings, system.read_sheet(settings.data), deep=False, memory=memory)


def usable(
    rows: Sequence[AnyRow], failed: list[str], check: Callable[[Sequence[AnyRow]], Checked], sheet: Path
) -> tuple[list[AnyRow], Checked]:
    """The rows that the workflow accepts, and its remarks on them.

    Args:
        rows: of the sheet, from its second line on.
        failed: why cases were left out before; the reasons for further ones are added.
        check: writes a sheet with some rows, and returns what the workflow finds.
        sheet: its final path.

    Raises:
        CaseError: with all reasons, if no row is left.
    """
    left = list(rows)
    while left:
        checked = check(left)
        wrong = [problem for problem in checked.problems if problem.startswith("line ")]
        if not wrong:
            return left, checked
        failed += [problem.partition(": ")[2] for problem in wrong]
        lines = {int(problem.split()[1].rstrip(":")) for problem in wrong}
        left = [row for line, row in enumerate(left, start=2) if line not in lines]
    every = "\n  ".join(failed)
    raise CaseError(f"{sheet}: not written, since no case can be used: {len(failed)} problem(s)\n  {every}")


def warn(remarks: Iterable[str]) -> None:
    """Print remarks as warnings."""
    for remark in remarks:
        print(f"warning: {remark}")


def conclude(failed: Sequence[str], to: Import) -> None:
    """End an import: with an error if cases had to be left out, unless `--skip-broken` is given.

    Raises:
        CaseError: with these cases.
    """
    if failed and to.skip_broken:
        warn(failed)
    elif failed:
        raise CaseError(
            f"{to.sheet}: is written, but without {len(failed)} case(s) or label(s) that cannot be used; "
            "repair them and import again with --force, or accept this with --skip-broken\n  "
            + "\n  ".join(failed)
        )


def clean(name: str) -> str:
    """`name` in a form allowed for a case, class or experiment."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name.strip()).strip("_.-") or "unnamed"


def label_value(value: Any) -> int:
    """A voxel value of a data set's description, which may be text.

    Raises:
        ValueError: not an integer.
    """
    number = float(value)
    if not number.is_integer():
        raise ValueError(f"the label value {value!r} is not an integer")
    return int(number)


def column_names(channels: Sequence[str]) -> list[str]:
    """Names of the channels as column names; a single channel needs none."""
    if len(channels) == 1:
        return [""]
    cleaned = [re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "channel" for name in channels]
    return [f"{name}_{i}" if cleaned.count(name) > 1 else name for i, name in enumerate(cleaned)]


def group_of(case: str, regex: str | None) -> str:
    """The patient in a case's name: the first group of `regex`, or the case without a regex.

    Raises:
        CaseError: the regex is wrong, has no group, or does not match.
    """
    if regex is None:
        return case
    try:
        match = re.search(regex, case)
        found = match.group(1) if match else None
    except (re.error, IndexError) as error:
        raise CaseError(
            f"--group-regex {regex!r}: {error}; it must have one group, e.g. '^(pat\\d+)_'"
        ) from None
    if not found:
        raise CaseError(f"case {case}: --group-regex {regex!r} finds no patient in its name")
    return found


def refuse(problems: Iterable[str], what: object) -> None:
    """Raise one CaseError with every problem, if there are any."""
    if lines := list(problems):
        raise CaseError(f"{what}: {len(lines)} problem(s)\n  " + "\n  ".join(lines))


def _write_sheet(rows: Sequence[Row], path: Path) -> None:
    channels = list(dict.fromkeys(channel for row in rows for channel in row.images))
    columns = [f"image_{channel}" if channel else "image" for channel in channels]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",", lineterminator="\n")
        writer.writerow(["case", "group", *columns, "label", "split"])
        for row in rows:
            images = [relative(row.images.get(channel), path.parent) for channel in channels]
            label = relative(row.label, path.parent)
            writer.writerow([row.case, row.group or row.case, *images, label, row.split])


def relative(path: Path | None, folder: Path) -> str:
    """A path relative to a sheet in `folder`; empty for None."""
    if path is None:
        return ""
    # Symbolic links are kept: an image may be a link into a store with different names.
    path, folder = Path(os.path.abspath(path)), folder.resolve()  # noqa: PTH100
    try:
        relative = os.path.relpath(path, folder)
    except ValueError:  # another drive
        return str(path)
    # `..` is resolved after links are followed, so the relative path may lead elsewhere.
    return relative if (folder / relative).exists() or not path.exists() else str(path)


def _experiment(dataset: Dataset, name: str, sheet: Path) -> dict[str, Any]:
    data: dict[str, Any] = {"sheet": sheet.as_posix(), "labels": dataset.labels}
    if dataset.regions:
        data["regions"] = dataset.regions
    values: dict[str, Any] = {"experiment": name, "data": data}
    patients = len({row.group or row.case for row in dataset.rows if row.label and row.split != "test"})
    if patients == 2:
        values["split"] = {"folds": 2, "validation": 0}
    elif 2 < patients < 5:
        values["split"] = {"folds": patients}
    return values | (dataset.settings or {"plan": {"memory": "medium", "ct": dataset.ct}})


def write_experiment(values: dict[str, Any], config: Path, path: Path) -> None:
    """Write an experiment with a few lines on how to run it.

    Args:
        values: its settings.
        config: final path of the file.
        path: path at which it is written first.
    """
    body = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, allow_unicode=True, width=100)
    run = f"foldwise run {shlex.quote(config.as_posix())}"
    lines = [
        "# A first experiment; docs/settings.md lists every setting.",
        f"# Dry run:         {run} -n",
        f"# Run:             {run}",
        "# On a cluster:    the same with --profile slurm. Paths are relative to where it is called.",
    ]
    path.write_text("\n".join(lines) + "\n" + body, encoding="utf-8")


def _understood(rows: Sequence[Row], dataset: Dataset) -> list[str]:
    """How the data were understood, in lines for the user."""
    patients = len({row.group or row.case for row in rows})
    labelled = sum(row.label is not None for row in rows)
    tested = sum(row.split == "test" for row in rows)
    channels = dict.fromkeys(channel for row in rows for channel in row.images)
    classes = ", ".join(f"{name} = {value}" for name, value in dataset.labels.items())
    lines = [
        f"{len(rows)} cases of {patients} patients: {labelled} with a label, {tested} of them the test set; "
        f"{len(rows) - labelled} only predicted",
        f"channels: {', '.join(channel or 'image' for channel in channels)}",
        f"labels: {classes}",
    ]
    if dataset.regions:
        regions = (f"{name} = {' + '.join(members)}" for name, members in dataset.regions.items())
        lines.append(f"regions: {', '.join(regions)}")
    return lines


def _unusable_names(rows: Sequence[Row]) -> list[str]:
    """Files whose names Snakemake cannot carry, as problems of their lines."""
    return [
        f"line {line}: case {row.case}: {str(path)!r} {wrong}"
        for line, row in enumerate(rows, start=2)
        for path in (*row.images.values(), row.label)
        if path is not None and (wrong := fault(str(path)))
    ]
