"""Import a data set in BIDS: images in sub-*/[ses-*/], label maps or masks in derivatives/*/.

  foldwise import bids ds001 --sheet data/lesions.csv --images T1w
  foldwise import bids ds001 --sheet data/ms.csv --images T1w,acq-3d_FLAIR --labels desc-ms_mask

A channel is given by its suffix, and by entities (`acq-3d`) if several images have that suffix. A case is a
subject's images that agree in all other entities, such as the session and the run. Its label is the file
with the same entities and those of `--labels`; derivatives add entities such as `space`, `desc` and `label`.
Names of classes are read from the lookup table of discrete segmentations (dseg.tsv). A subject is a patient.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
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
    Import,
    Sheet,
    SkipBroken,
    Source,
    script,
)
from foldwise.importers.bids_names import Case, Name, kinds, parse_names, text_of, volumes_below
from foldwise.importers.sheets import (
    Dataset,
    Row,
    clean,
    column_names,
    conclude,
    label_value,
    publish,
)
from foldwise.texts import read_rows, refuse_header
from foldwise.volumes.check import LABEL_THREADS
from foldwise.volumes.volume import read_volume

# Entities that derivatives add to those of the image; those in PLACE say on which grid a file lies.
PLACE = ("space", "res", "den")
DERIVED = (*PLACE, "desc", "label", "seg", "atlas", "hemi", "scale")
LABELS = ("dseg", "mask")
# More values than label maps have; without a table, all values are classes.
MOST_VALUES = 1000


def read_dataset(
    folder: Path, images: str = "", labels: str = "", derivatives: Path | None = None
) -> Dataset:
    """Read a BIDS folder; every volume is either taken or named among the remarks.

    Args:
        folder: the data set.
        images: channels, separated by commas; empty: the only suffix that there is.
        labels: suffix and entities of the labels; empty: the only ones that there are.
        derivatives: folder with the labels; None: derivatives/ in the data set.

    Raises:
        CaseError: no such images, a choice that is unclear, or lookup tables that contradict each other.
    """
    derived = derivatives or folder / "derivatives"
    volumes = volumes_below([*sorted(folder.glob("sub-*")), derived])
    made = {p: name for p, name in volumes.items() if p.is_relative_to(derived) or name.suffix in LABELS}
    raw = {path: name for path, name in volumes.items() if path not in made}
    channels = parse_names(images, "--images") or [_only(raw, "--images", folder)]
    wanted = parse_names(labels, "--labels")
    if len(wanted) > 1:
        raise CaseError(f"--labels {labels}: expected one suffix with its entities, e.g. desc-lesion_mask")
    cases, faults = _cases(raw, channels)
    if not cases:
        raise CaseError(f"{folder}: contains no images {images}; found {kinds(raw)}")
    own, left_out = _labels(made, cases, wanted[0] if wanted else None, faults)
    columns = column_names([channel.suffix for channel in channels])
    rows = [
        Row(
            clean(text_of(case)),
            {column: files[channel] for column, channel in zip(columns, channels, strict=True)},
            own.get(case),
            f"sub-{dict(case)['sub']}",
        )
        for case, files in cases.items()
        if case not in faults
    ]
    taken = {path for files in cases.values() for path in files.values()}
    others = kinds({path: name for path, name in raw.items() if path not in taken})
    remarks = [*_participants(folder, cases), *([f"left out, not in --images: {others}"] if others else [])]
    remarks += [f"left out: {path}: {reason}" for path, reason in left_out.items()]
    failed = [f"case {text_of(case)}: {fault}" for case, fault in faults.items()]
    return Dataset(rows, _classes(own, made, (folder, derived)), remarks=remarks, failed=failed)


def _only(files: Mapping[Path, Name], option: str, folder: Path) -> Name:
    """The only suffix of some files.

    Raises:
        CaseError: there is none, or there are several.
    """
    suffixes = {name.suffix for name in files.values()}
    if len(suffixes) != 1:
        raise CaseError(f"{folder}: give {option}, e.g. {option} T1w; found {kinds(files) or 'no volumes'}")
    return Name((), suffixes.pop())


def _cases(
    raw: Mapping[Path, Name], channels: Sequence[Name]
) -> tuple[dict[Case, dict[Name, Path]], dict[Case, str]]:
    """Channel → image of each case, and the cases that cannot be used."""
    cases: dict[Case, dict[Name, Path]] = defaultdict(dict)
    faults: dict[Case, str] = {}
    for path, name in raw.items():
        fitting = [channel for channel in channels if name.fits(channel)]
        if not fitting:
            continue
        channel = max(fitting, key=lambda one: len(one.entities))
        case = name.without(channel.entities)
        if (first := cases[case].setdefault(channel, path)) is not path:
            faults[case] = f"two images for {channel.suffix}: {first} and {path}"
    for case, files in cases.items():
        if missing := [channel.suffix for channel in channels if channel not in files]:
            there = ", ".join(str(path) for path in files.values())
            faults.setdefault(case, f"{', '.join(missing)} missing; left out: {there}")
    return dict(cases), faults


def _labels(
    made: Mapping[Path, Name], cases: Iterable[Case], wanted: Name | None, faults: dict[Case, str]
) -> tuple[dict[Case, Path], dict[Path, str]]:
    """The label of each case, and the volumes of derivatives that are none, with the reason.

    Raises:
        CaseError: a case has several, and none was asked for; otherwise, it is added to `faults`.
    """
    own: dict[Case, Path] = {}
    left_out: dict[Path, str] = {}
    for path, name in made.items():
        if not (name.fits(wanted) if wanted else name.suffix in LABELS):
            left_out[path] = "not in --labels" if wanted else f"neither of {', '.join(LABELS)}"
            continue
        case = _case_of(name, cases)
        if case is None:
            left_out[path] = "belongs to no image, or to several"
        elif (first := own.setdefault(case, path)) is not path:
            fault = f"two labels, {first} and {path}; choose with --labels, e.g. {_parts(name)}"
            if wanted is None:
                raise CaseError(f"case {text_of(case)}: {fault} or {_parts(made[first])}")
            faults[case] = fault
    return own, left_out


def _case_of(label: Name, cases: Iterable[Case]) -> Case | None:
    """The case that a label belongs to: the one with its entities, or the only one that has more."""
    bare = dict(label.without(DERIVED))
    fitting = []
    for case in cases:
        own = dict(case)
        apart = any(own.get(key, value) != value for key, value in label.entities.items() if key in PLACE)
        image = {key: value for key, value in own.items() if key not in DERIVED}
        if bare.items() <= image.items() and not apart:
            fitting.append((image == bare, case))
    exact = [case for equal, case in fitting if equal] or [case for _, case in fitting]
    return exact[0] if len(exact) == 1 else None


def _parts(label: Name) -> str:
    """What distinguishes a label in `--labels`."""
    return "_".join(
        [*(f"{key}-{value}" for key, value in label.entities.items() if key in DERIVED), label.suffix]
    )


def _classes(own: Mapping[Case, Path], made: Mapping[Path, Name], roots: Sequence[Path]) -> dict[str, int]:
    """Class → value, from lookup tables, from the names of masks, or else from the values themselves.

    Raises:
        CaseError: two labels give a value different names, or there are too many values.
    """
    names: dict[int, str] = {}
    unknown = []
    for path in own.values():
        name = made[path]
        if name.suffix == "mask":
            what = name.entities.get("label") or name.entities.get("desc")
            found = {1: clean(what) if what else "foreground"}
        elif (table := _table(path, name, roots)) is not None:
            found = _lookup(table)
        else:
            unknown.append(path)
            continue
        for value, called in found.items():
            if names.setdefault(value, called) != called:
                raise CaseError(f"{path}: the value {value} is {called}, but {names[value]} in other labels")
    for value in sorted(_values(unknown)):
        names.setdefault(value, f"label_{value}")
    if len(names) > MOST_VALUES:
        raise CaseError(f"{roots[0]}: its labels have {len(names)} values; are they label maps?")
    repeated = Counter(names.values())
    classes = {
        name if repeated[name] == 1 else f"{name}_{value}": value for value, name in sorted(names.items())
    }
    return classes or {"foreground": 1}


def _table(path: Path, label: Name, roots: Sequence[Path]) -> Path | None:
    """The lookup table of a label: beside it or above it, the nearest whose entities it has."""
    for place in path.parents:
        fitting = [
            (len(name.entities), table)
            for table in sorted(place.glob("*dseg.tsv"))
            if (name := Name.of(table.stem)) is not None and label.fits(name)
        ]
        if fitting:
            return max(fitting)[1]
        if place in roots:
            break
    return None


def _lookup(table: Path) -> dict[int, str]:
    (_, header), *rows = read_rows(table, "index")
    refuse_header(table, header, ("index", "name"))
    names: dict[int, str] = {}
    for line, row in rows:
        try:
            cells = dict(zip(header, row, strict=True))
            value = label_value(cells["index"])
        except (ValueError, OverflowError) as error:
            raise CaseError(f"{table}: line {line}: not a row of a lookup table ({error})") from None
        if names.setdefault(value, clean(cells["name"])) != clean(cells["name"]):
            raise CaseError(f"{table}: line {line}: the value {value} has another name above")
    if not any(names):
        raise CaseError(f"{table}: names no value but 0; expected a class's value and name per row")
    return {value: name for value, name in names.items() if value}


def _values(paths: Sequence[Path]) -> set[int]:
    """The values in label maps without a table; files that cannot be read are found by the check."""

    def read(path: Path) -> set[int]:
        try:
            return {int(value) for value in np.unique(read_volume(path).data)} - {0}
        except CaseError:
            return set()

    with ThreadPoolExecutor(LABEL_THREADS) as pool:
        return set().union(*pool.map(read, paths))


def _participants(folder: Path, cases: Iterable[Case]) -> list[str]:
    """Subjects that are in participants.tsv or among the cases, but not in both."""
    table = folder / "participants.tsv"
    if not table.is_file():
        return []
    (_, header), *rows = read_rows(table, "participant_id")
    refuse_header(table, header, ["participant_id"])
    place = header.index("participant_id")
    listed = {row[place] for _, row in rows if len(row) > place} - {""}
    found = {f"sub-{dict(case)['sub']}" for case in cases}
    remarks = [f"{table}: {name} has no such images" for name in sorted(listed - found)]
    return remarks + [f"{table}: {name} is not listed" for name in sorted(found - listed)]


def command(
    source: Source,
    sheet: Sheet,
    config: Config = None,
    name: ExperimentName = None,
    force: Force = False,
    skip_broken: SkipBroken = False,
    images: Annotated[
        str, typer.Option(help="Channels: suffixes, with entities where needed, e.g. T1w,acq-3d_FLAIR.")
    ] = "",
    labels: Annotated[
        str, typer.Option(help="Suffix and entities of the labels, e.g. desc-lesion_mask.")
    ] = "",
    derivatives: Annotated[
        Path | None,
        typer.Option(help="Folder with the labels (default: derivatives/ in the data set)."),
    ] = None,
    ct: Annotated[bool, typer.Option("--ct", help="The first channel is a CT in HU.")] = False,
) -> None:
    """Import a data set in BIDS."""
    to = Import(source, sheet, config, name, force, skip_broken)
    to.refuse_paths(reads=[("--derivatives", derivatives)])
    dataset = read_dataset(source, images, labels, derivatives)
    conclude(publish(replace(dataset, ct=ct), to), to)


main = script(command)

if __name__ == "__main__":
    run(main)
