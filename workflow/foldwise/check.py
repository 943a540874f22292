"""What the checks of all systems share: problems in one message, missing files, patients and folds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foldwise import looks
from foldwise.experiment.settings import Split
from foldwise.files import CaseError
from foldwise.index import Entry, enough, make_index, missing_classes
from foldwise.sheet import AnyCase, Case, Sheet

# Whether the workflow itself produces a missing file.
Produced = Callable[[Path], bool]


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        problems: one line each, "line N: case …", in the order of the sheet.
        warnings: remarks that do not stop the run, in the same form.
        sizes: case → what its memory and disk space depend on, for readable cases.
        facts: case → further facts for check.json.
        notes: further lines to print.
    """

    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    sizes: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def refuse(self, sheet: Path) -> None:
        """Raise one CaseError with every problem, if there are any."""
        if self.problems:
            lines = "\n  ".join(self.problems)
            raise CaseError(
                f"{sheet}: {len(self.problems)} problem(s)\n  {lines}\n"
                f"Fix these problems and run again; nothing was started."
            )


class Findings:
    """Problems and warnings collected for a message, in the order of the sheet."""

    def __init__(self, sheet: Sheet[AnyCase]) -> None:
        """Start with the problems in the sheet's text."""
        self._problems = [(int(text.split()[1].rstrip(":")), text) for text in sheet.problems]
        self._warnings: list[tuple[int, str]] = []

    def add(self, case: Case, text: str, warning: bool = False) -> None:
        """Record a problem, or a warning, of a case."""
        line = f"line {case.line}: case {case.name}: {text}"
        (self._warnings if warning else self._problems).append((case.line, line))

    def add_general(self, text: str, warning: bool = False) -> None:
        """Record a problem, or a warning, of the whole sheet; it is listed last."""
        (self._warnings if warning else self._problems).append((10**9, text))

    @property
    def problems(self) -> tuple[str, ...]:
        """What stops the run."""
        return tuple(text for _, text in sorted(self._problems, key=lambda item: item[0]))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What does not stop the run."""
        return tuple(text for _, text in sorted(self._warnings, key=lambda item: item[0]))


def present_files(sheet: Sheet[AnyCase], produced: Produced, found: Findings) -> dict[Path, AnyCase]:
    """Existing files, each with its case; missing ones are problems unless the workflow produces them."""
    present: dict[Path, AnyCase] = {}
    looks.look_at(path for case in sheet.cases for path in case.files)
    for case in sheet.cases:
        for path in case.files:
            if looks.exists(path):
                present[path] = case
            elif not produced(path):
                found.add(case, f"{path}: no such file")
    return present


def check_groups(cases: Iterable[Case], split: Split, found: Findings) -> None:
    """Find patients in both training and the fixed test set, and too few patients for the folds."""
    parts: dict[str, dict[str, Case]] = defaultdict(dict)
    for case in cases:
        if case.labelled:
            parts[case.group].setdefault(case.split, case)
    for group, members in parts.items():
        if len(members) == 2:
            first, second = members["test"], members[""]
            found.add(
                first, f"patient {group} is in the fixed test set and also in training, as case {second.name}"
            )
    patients = sum("" in members for members in parts.values())
    if split.file is None and not enough(patients, split):
        share = " and a validation share" if split.validation else ""
        text = f"{patients} labelled patient(s) for {split.folds} folds{share}"
        found.add_general(f"{text}; lower split.folds or add labelled cases")


def check_folds(entries: Sequence[Entry], split: Split, found: Findings) -> None:
    """Warn of classes that a fold lacks, for a system whose entries are known before preparation."""
    try:
        index = make_index(entries, {}, split)
    except CaseError:  # too few patients, or a wrong split.file: these are found elsewhere
        return
    for text in missing_classes(index, split):
        found.add_general(text, warning=True)
