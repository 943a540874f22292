r"""Import lists of clips (`path,label` per line, as in EVL and Vita-CLIP) and the files of their classes.

  foldwise import clip-lists videos/ --train train.txt --validation val.txt \
      --classes data/data_class_mapping.json --sentences data/data_classes.txt --sheet data/ultrasound.csv \
      --group-regex '(pat[0-9]+)'

Path and label are separated by the last comma, tab or space of a line. Clips of the validation list
become the fixed test set. Without `--group-regex`, every clip counts as a separate patient.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from foldwise.check import Checked
from foldwise.command import run
from foldwise.files import CaseError, atomic_path
from foldwise.importers.arguments import Config, ExperimentName, Force, Import, Sheet, SkipBroken, script
from foldwise.importers.sheets import (
    clean,
    conclude,
    examine,
    group_of,
    relative,
    usable,
    warn,
    write_experiment,
)
from foldwise.store import Memory
from foldwise.systems.clips.settings import Data
from foldwise.systems.clips.sheet import class_names, class_of, class_sentences
from foldwise.systems.clips.system import Clips
from foldwise.texts import read_text


@dataclass(frozen=True)
class Listed:
    """A line of a list.

    Attributes:
        path: path of the video below its root.
        label: its class by name.
        split: "test" if from the validation list, else "".
        origin: list and line, for messages.
    """

    path: Path
    label: str
    split: str
    origin: str


def read_list(path: Path, root: Path, names: Sequence[str], split: str) -> tuple[list[Listed], list[str]]:
    """The clips of a list, and one line per problem.

    Args:
        path: text file.
        root: base folder of its paths.
        names: classes in the order of their numbers.
        split: split of its clips.

    Raises:
        CaseError: the list is not readable as text.
    """
    lines = read_text(path).splitlines()
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
    """Path and label of a line: the parts before and after its last comma, tab or run of spaces."""
    for separator in (",", "\t", " "):
        video, found, label = line.strip().rpartition(separator)
        if found and video.strip() and label.strip() and not set(label.strip()) & {"/", "\t", " "}:
            return video.strip().rstrip(","), label.strip()
    return None


def once(listed: Sequence[Listed]) -> tuple[list[Listed], list[str]]:
    """Clips that are listed once, and a line for every further listing; none is kept if these disagree."""
    lines: dict[Path, list[Listed]] = {}
    for each in listed:
        lines.setdefault(each.path, []).append(each)
    kept = [same[0] for same in lines.values() if len({(each.label, each.split) for each in same}) == 1]
    return kept, [
        f"{each.origin}: {each.path} is already listed in {first.origin}"
        for first, *others in lines.values()
        for each in others
    ]


def rows_of(
    listed: Sequence[Listed], root: Path, sheet: Path, group_regex: str | None
) -> list[dict[str, str]]:
    """Rows of a sheet: a case's name is its path without suffix, shortened as long as it stays unique.

    Args:
        listed: the clips.
        root: base folder of the lists' paths.
        sheet: path of the sheet to write.
        group_regex: finds the patient in a path under the root; None: every clip is a separate patient.

    Raises:
        CaseError: the regex finds no patient.
    """
    rows = []
    counts = Counter(clean(each.path.stem) for each in listed)
    for each in listed:
        stem = clean(each.path.stem)
        below = each.path.relative_to(root) if each.path.is_relative_to(root) else each.path
        name = stem if counts[stem] == 1 else clean(str(below.with_suffix("")))
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


def publish(rows: Sequence[dict[str, str]], data: dict[str, Any], to: Import, failed: list[str]) -> None:
    """Write the sheet and an experiment, without the clips that the workflow would refuse.

    Args:
        rows: of the sheet.
        data: the section `data` without the sheet.
        to: the files to write.
        failed: lines that cannot be used; the clips that are refused are added.

    Raises:
        CaseError: no clip can be used.
    """
    sheet, config = to.sheet, to.experiment
    memory = Memory(None)
    values: dict[str, Any] = {
        "experiment": clean(to.name or sheet.stem),
        "system": "clips",
        "data": {"sheet": sheet.as_posix(), **data},
    }
    with ExitStack() as stack:
        new_sheet = stack.enter_context(atomic_path(sheet))
        new_config = stack.enter_context(atomic_path(config))

        def check(rows: Sequence[dict[str, str]]) -> Checked:
            with new_sheet.open("w", newline="", encoding="utf-8") as file:
                delimiter = "\t" if sheet.suffix == ".tsv" else ","
                writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
            return examine(Clips(), values, new_sheet, memory)

        kept, checked = usable(rows, failed, check, sheet)
        warn([*checked.problems, *checked.warnings])
        write_experiment(values, config, new_config)
    print(f"{sheet}: {len(kept)} clips of {len({row['group'] for row in kept})} patients")
    print(f"{config}: an experiment to start with; its first lines show how")


def command(
    source: Annotated[Path, typer.Argument(help="Base folder of the lists' paths; never changed.")],
    sheet: Sheet,
    train: Annotated[Path, typer.Option(help="List of the training clips.")],
    classes: Annotated[Path, typer.Option(help="Names of the classes (data_class_mapping.json).")],
    config: Config = None,
    name: ExperimentName = None,
    force: Force = False,
    skip_broken: SkipBroken = False,
    validation: Annotated[Path | None, typer.Option(help="List of the clips of the fixed test set.")] = None,
    validation_root: Annotated[
        Path | None, typer.Option(help="Base folder of that list's paths, if different.")
    ] = None,
    sentences: Annotated[Path | None, typer.Option(help="A sentence per class (data_classes.txt).")] = None,
    group_regex: Annotated[
        str | None,
        typer.Option(help="Regular expression; its first group, in a clip's path, is the patient."),
    ] = None,
) -> None:
    """Import lists of clips."""
    to = Import(source, sheet, config, name, force, skip_broken)
    lists = [("--train", train), ("--validation", validation)]
    to.refuse_paths(reads=[*lists, ("--classes", classes), ("--sentences", sentences)])
    data: dict[str, Any] = {"classes": classes.as_posix()}
    if sentences:
        data["sentences"] = sentences.as_posix()
    about = Data.model_validate({"sheet": sheet, **data})
    names = class_names(about)
    class_sentences(about)
    listed, failed = read_list(train, source, names, "")
    if validation:
        more, wrong = read_list(validation, validation_root or source, names, "test")
        listed, failed = listed + more, failed + wrong
    kept, again = once(listed)
    failed += again
    if not listed and not failed:
        raise CaseError(f"{train}: contains no clips")
    publish(rows_of(kept, source, sheet, group_regex), data, to, failed)
    conclude(failed, to)


main = script(command)

if __name__ == "__main__":
    run(main)
