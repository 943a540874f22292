"""Import lists of clips (`path,label` a line, as EVL and Vita-CLIP have them) with their classes' files.

  python -m foldwise.importers.clip_lists videos/ --train train.txt --validation val.txt \
      --classes data/data_class_mapping.json --sentences data/data_classes.txt --sheet data/ultrasound.csv \
      --group-regex '(pat[0-9]+)'

Comma, tab or space stands between path and label; the last one of a line counts. Clips of the validation list
become the fixed test set. Without a regex every clip counts as a patient of its own.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from foldwise.check import Checked
from foldwise.command import run
from foldwise.files import CaseError, atomic_path
from foldwise.importers.sheets import clean, group_of, importer, refuse, relative, targets
from foldwise.settings import validate
from foldwise.systems.clips.settings import Data, Settings
from foldwise.systems.clips.sheet import class_names, class_of, class_sentences, read_sheet
from foldwise.systems.clips.system import Clips


@dataclass(frozen=True)
class Listed:
    """A line of a list.

    Attributes:
        path: the video, under its root.
        label: its class by name.
        split: "test" of the validation list, else "".
        origin: list and line, for messages.
    """

    path: Path
    label: str
    split: str
    origin: str


def read_list(path: Path, root: Path, names: Sequence[str], split: str) -> tuple[list[Listed], list[str]]:
    """The clips of a list, and a line for each problem.

    Args:
        path: text file.
        root: folder from which its paths start.
        names: classes in the order of their numbers.
        split: of its clips.

    Raises:
        CaseError: the list is not readable as text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise CaseError(f"{path}: not readable as a list of clips ({error})") from error
    listed, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        origin = f"{path}: line {number}"
        parts = _parts(line)
        if parts is None:
            problems.append(f"{origin}: {line.strip()!r} is not `path,label`")
            continue
        video, label = parts
        name = class_of(label, names)
        if name not in names:
            problems.append(
                f"{origin}: {video}: label {label!r} is not in 0 … {len(names) - 1} of the class map"
            )
            continue
        listed.append(Listed(root / video, name, split, origin))
    return listed, problems


def _parts(line: str) -> tuple[str, str] | None:
    """Path and label of a line: what is before and after its last comma, tab or run of spaces."""
    for separator in (",", "\t", " "):
        video, found, label = line.strip().rpartition(separator)
        if found and video.strip() and label.strip() and not set(label.strip()) & {"/", "\t", " "}:
            return video.strip().rstrip(","), label.strip()
    return None


def rows_of(
    listed: Sequence[Listed], root: Path, sheet: Path, group_regex: str | None
) -> list[dict[str, str]]:
    """Rows of a sheet: a case's name is its path without the suffix, as short as it stays unique.

    Args:
        listed: the clips.
        root: folder from which the lists' paths start.
        sheet: where the rows will stand.
        group_regex: finds the patient in a path under the root; None: every clip is a patient.

    Raises:
        CaseError: a clip stands twice, or the regex finds no patient.
    """
    seen: dict[Path, Listed] = {}
    problems = []
    for each in listed:
        if first := seen.get(each.path):
            problems.append(f"{each.origin}: {each.path} stands in {first.origin} already")
        seen.setdefault(each.path, each)
    refuse(problems, "the lists")
    stems = [clean(each.path.stem) for each in listed]
    rows = []
    for each, stem in zip(listed, stems, strict=True):
        below = each.path.relative_to(root) if each.path.is_relative_to(root) else each.path
        name = stem if stems.count(stem) == 1 else clean(str(below.with_suffix("")))
        rows.append(
            {
                "case": name,
                "group": clean(group_of(str(below), group_regex)) if group_regex else name,
                "video": relative(each.path, sheet.parent),
                "label": each.label,
                "split": each.split,
            }
        )
    return rows


def publish(rows: Sequence[dict[str, str]], data: dict[str, Any], args: argparse.Namespace) -> None:
    """Write the sheet and an experiment if the workflow accepts them, else neither.

    Raises:
        CaseError: with every problem of the lists, the videos and the classes' files.
    """
    sheet, config = targets(args)
    values: dict[str, Any] = {
        "experiment": clean(args.name or sheet.stem),
        "system": "clips",
        "data": {"sheet": sheet.as_posix(), **data},
    }
    with ExitStack() as stack:
        new_sheet = stack.enter_context(atomic_path(sheet))
        new_config = stack.enter_context(atomic_path(config))
        with new_sheet.open("w", newline="", encoding="utf-8") as file:
            delimiter = "\t" if sheet.suffix == ".tsv" else ","
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
        head = (
            f"# A first experiment: snakemake --profile profiles/local --configfile {config.as_posix()} -n\n"
        )
        new_config.write_text(head + text, encoding="utf-8")
        trial = {**values, "data": {**values["data"], "sheet": new_sheet}}
        settings = validate(Settings, trial, origin="the new experiment")
        checked = Clips().check(settings, read_sheet(settings.data), deep=False)
        # Too few patients for five folds is no fault of the lists: the experiment can be edited.
        Checked(tuple(p for p in checked.problems if p.startswith("line ")), ()).refuse(sheet)
    for remark in [*(p for p in checked.problems if not p.startswith("line ")), *checked.warnings]:
        print(f"warning: {remark}")
    print(f"{sheet}: {len(rows)} clips of {len({row['group'] for row in rows})} patients")
    print(f"{config}: an experiment to start with; its first line says how")


def main() -> None:
    """Read the command line."""
    made = importer(__doc__, "folder from which the lists' paths start")
    made.add_argument("--train", required=True, type=Path, help="list of the training clips")
    made.add_argument("--validation", type=Path, help="list of the clips of the fixed test set")
    made.add_argument("--validation-root", type=Path, help="folder of that list's paths, if another")
    made.add_argument("--classes", required=True, type=Path, help="data_class_mapping.json")
    made.add_argument("--sentences", type=Path, help="data_classes.txt, a sentence per class")
    made.add_argument("--group-regex", help="finds the patient in a clip's path; its first group")
    args = made.parse_args()
    targets(args)
    data: dict[str, Any] = {"classes": args.classes.as_posix()}
    if args.sentences:
        data["sentences"] = args.sentences.as_posix()
    about = Data.model_validate({"sheet": args.sheet, **data})
    names = class_names(about)
    class_sentences(about)
    listed, problems = read_list(args.train, args.folder, names, "")
    if args.validation:
        more, wrong = read_list(args.validation, args.validation_root or args.folder, names, "test")
        listed, problems = listed + more, problems + wrong
    refuse(problems, "the lists")
    if not listed:
        raise CaseError(f"{args.train}: no clips in it")
    publish(rows_of(listed, args.folder, args.sheet, args.group_regex), data, args)


if __name__ == "__main__":
    run(main)
