"""Import a BraTS data set, of any year from 2013 to 2025.

  foldwise import brats MICCAI_BraTS2020_TrainingData --sheet data/brats.csv

A case is a folder; its files are found by the modality in their names: `_t1`, `_t1ce`, `_t2`, `_flair`,
`_seg`; since 2023 `-t1n`, `-t1c`, `-t2w`, `-t2f`, `-seg`; before 2016 `MR_T1c` and similar, `OT`. Time
points of a patient stay in one group. The meaning of voxel values changed over the years; it is inferred from
names and values.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from foldwise.command import run
from foldwise.files import CaseError
from foldwise.importers.arguments import (
    Config,
    ExperimentName,
    Force,
    GroupRegex,
    Import,
    Sheet,
    SkipBroken,
    Source,
    script,
)
from foldwise.importers.sheets import (
    Dataset,
    Row,
    clean,
    conclude,
    group_of,
    publish,
)
from foldwise.volumes.check import LABEL_THREADS
from foldwise.volumes.suffixes import suffix_of
from foldwise.volumes.volume import read_volume

CHANNELS = ("t1", "t1ce", "t2", "flair")
_MEANS = {
    **{"t1": "t1", "t1n": "t1", "t1ce": "t1ce", "t1c": "t1ce", "t1gd": "t1ce"},
    **{"t2": "t2", "t2w": "t2", "flair": "flair", "t2f": "flair"},
    **{"seg": "label", "segm": "label", "ot": "label"},
}
_TOKEN = re.compile(rf"[_.-]({'|'.join(_MEANS)})(?=\.|$)", re.IGNORECASE)
_NEW = re.compile(r"^BraTS-[A-Za-z]+-\d+-\d+$", re.IGNORECASE)
# Patients since 2023, of 2017 to 2019, and of 2015; other years have one time point per patient.
_PATIENTS = (
    re.compile(r"^(BraTS-[A-Za-z]+-\d+)-\d+$", re.IGNORECASE),
    re.compile(r"^(BraTS1[789]_[A-Za-z0-9]+_\w+)_\d+$", re.IGNORECASE),
    re.compile(r"^(brats_\w+_pat\d+)_\d+$", re.IGNORECASE),
)


def read_dataset(folder: Path, group_regex: str | None = None, enhancing: int | None = None) -> Dataset:
    """Find all cases below a folder.

    Args:
        folder: folder with the cases, at any depth.
        group_regex: its first group, in a case's name, is the patient; None: by the naming of the year.
        enhancing: voxel value of enhancing tumour, if names and values do not determine it.

    Raises:
        CaseError: no cases, or label values of no year.
    """
    cases, failed, remarks = _find(folder)
    if not cases:
        raise CaseError(f"{folder}: contains no files named as in BraTS, e.g. <case>/<case>_flair.nii.gz")
    for case, files in cases.items():
        lacking = [channel for channel in CHANNELS if channel not in files]
        if lacking:
            failed.setdefault(case, f"{', '.join(lacking)} missing; found {', '.join(sorted(files))}")
    labels = {
        case: files["label"] for case, files in cases.items() if "label" in files and case not in failed
    }
    values = _values(labels, failed)
    classes, regions = meaning(cases, values, enhancing) if labels else ({"tumour": 1}, {})
    rows = [
        Row(
            clean(case),
            {channel: files[channel] for channel in CHANNELS},
            files.get("label"),
            group_of(case, group_regex) if group_regex else patient(case),
        )
        for case, files in cases.items()
        if case not in failed
    ]
    lines = [f"case {case}: {fault}" for case, fault in failed.items()]
    return Dataset(rows, classes, regions, remarks=remarks, failed=lines)


def patient(case: str) -> str:
    """The patient in a case's name."""
    return next((match[1] for pattern in _PATIENTS if (match := pattern.match(case))), case)


def meaning(
    cases: Collection[str], values: Collection[int], enhancing: int | None = None
) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Classes and regions, from the cases' names and the label values found in any of them.

    Raises:
        CaseError: values of no year, or the enhancing tumour's value is unclear.
    """
    found = set(values) - {0}
    new = all(_NEW.match(case) for case in cases)
    if found - {1, 2, 3, 4}:
        raise CaseError(f"label values {sorted(found)}: BraTS uses 1 to 4")
    core = ["necrosis", "enhancing"]
    if (
        enhancing is None
        and new
        and 4 in found
        and all(case.upper().startswith("BRATS-PED") for case in cases)
    ):
        # Paediatric tumours have a separate table since 2024.
        classes = {"enhancing": 1, "non_enhancing": 2, "cyst": 3, "oedema": 4}
        core = ["non_enhancing", "cyst", "enhancing"]
    elif enhancing == 3 or (enhancing is None and new and (3 in found or 4 not in found)):
        classes = {"necrosis": 1, "oedema": 2, "enhancing": 3}
        if 4 in found:
            classes["resection_cavity"] = 4
    elif enhancing == 4 or (enhancing is None and not new and (4 in found or 3 not in found)):
        classes = {"necrosis": 1, "oedema": 2, "enhancing": 4}
        if 3 in found:
            classes["non_enhancing"] = 3
            core = ["necrosis", "non_enhancing", "enhancing"]
    else:
        raise CaseError(
            f"label values {sorted(found)} and these names do not determine the enhancing tumour; "
            f"give --enhancing 3 or --enhancing 4"
        )
    regions = {"whole_tumour": ["oedema", *core], "tumour_core": core, "enhancing": ["enhancing"]}
    if "resection_cavity" in classes:
        regions["resection_cavity"] = ["resection_cavity"]
    return classes, regions


def _find(folder: Path) -> tuple[dict[str, dict[str, Path]], dict[str, str], list[str]]:
    """Files of each case by their kind; case → why it cannot be used; files that are left out."""
    cases: dict[str, dict[str, Path]] = defaultdict(dict)
    homes: dict[str, Path] = {}
    failed: dict[str, str] = {}
    left_out = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        if path.name.startswith(".") or not suffix_of(path.name):
            left_out.append(f"left out: {path.relative_to(folder)}: hidden, or not a volume")
            continue
        # A modality's file may be in a separate folder, which then has the modality's name.
        named = [part for part in (path.name, path.parent.name) if _TOKEN.search(part)]
        if not named:
            left_out.append(f"left out: {path.relative_to(folder)}: no modality of BraTS in its name")
            continue
        kind = _MEANS[_TOKEN.findall(named[0])[-1].lower()]
        home = path.parent.parent if _TOKEN.search(path.parent.name) else path.parent
        case = home.name if home != folder else _TOKEN.split(path.name)[0]
        if homes.setdefault(case, home) != home:
            failed[case] = f"exists in {homes[case]} and in {home}"
        elif kind in cases[case]:
            failed[case] = f"two files for {kind}: {cases[case][kind]} and {path}"
        else:
            cases[case][kind] = path
    return dict(cases), failed, left_out


def _values(labels: dict[str, Path], failed: dict[str, str]) -> set[int]:
    """The values in the label maps; cases with unreadable ones are added to those that failed."""

    def read(item: tuple[str, Path]) -> set[float] | str:
        try:
            return set(np.unique(read_volume(item[1]).data).tolist())
        except CaseError as error:
            return str(error)

    found: set[float] = set()
    with ThreadPoolExecutor(LABEL_THREADS) as pool:
        for (case, path), values in zip(labels.items(), pool.map(read, labels.items()), strict=True):
            if isinstance(values, str):
                failed[case] = values
            elif values - {0, 1, 2, 3, 4}:
                strange = ", ".join(f"{v:g}" for v in sorted(values - {0, 1, 2, 3, 4})[:5])
                failed[case] = f"{path}: label values that BraTS does not have: {strange}"
            else:
                found |= values
    return {int(value) for value in found}


def command(
    source: Source,
    sheet: Sheet,
    config: Config = None,
    name: ExperimentName = None,
    force: Force = False,
    skip_broken: SkipBroken = False,
    group_regex: GroupRegex = None,
    enhancing: Annotated[
        int | None,
        typer.Option(min=3, max=4, help="Voxel value of enhancing tumour, if it cannot be inferred."),
    ] = None,
) -> None:
    """Import a data set of BraTS."""
    to = Import(source, sheet, config, name, force, skip_broken)
    to.refuse_paths()
    conclude(publish(read_dataset(source, group_regex, enhancing), to), to)


main = script(command)

if __name__ == "__main__":
    run(main)
