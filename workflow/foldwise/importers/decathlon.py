"""Import a Medical Segmentation Decathlon task or an nnU-Net raw data set (a folder with a dataset.json).

  foldwise import decathlon Task04_Hippocampus --sheet data/hippocampus.csv
  foldwise import decathlon Dataset001_Brain --sheet data/brain.csv --group-regex '^(.+)_[0-9]+$'

Training cases have labels. Test cases are only predicted; with a folder labelsTs they become the test set.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from foldwise.command import run
from foldwise.files import CaseError, read_json
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
    column_names,
    conclude,
    group_of,
    label_value,
    publish,
)
from foldwise.settings import validate
from foldwise.volumes.suffixes import stem_of
from foldwise.volumes.targets import IGNORE

# The number of an image without a channel in its name; larger than any channel's.
NO_CHANNEL = 10_000


@dataclass(frozen=True)
class _Found:
    """A case and its files: all channels in one, or one file per channel."""

    case: str
    images: tuple[Path, ...]
    label: Path | None
    test: bool


class _Pair(BaseModel):
    image: str
    label: str


class _Image(BaseModel):
    image: str


class _Files(BaseModel):
    images: list[str]
    label: str


class _About(BaseModel):
    """A dataset.json; keys that are not needed may have any value.

    Attributes:
        labels: of the Decathlon, of nnU-Net, or with lists of values for regions.
        channel_names: of nnU-Net, by number.
        modality: the same of the Decathlon.
        file_ending: of nnU-Net.
        training: files of the Decathlon.
        test: the same without labels.
        dataset: files of nnU-Net, if they are not in its folders.
        numTraining: stated number of cases; anything else is remarked on.
        numTest: the same of test cases.
    """

    labels: dict[str, float | str | list[float | str]] = Field(min_length=1)
    channel_names: dict[int, str] | None = None
    modality: dict[int, str] | None = None
    file_ending: str = Field(".nii.gz", min_length=1)
    training: list[_Pair] = []
    test: list[str | _Image] = []
    dataset: dict[str, _Files] | None = None
    numTraining: Any = None  # noqa: N815
    numTest: Any = None  # noqa: N815


# File → why it is left out.
_LeftOut = dict[Path, str]


def read_dataset(folder: Path, group_regex: str | None = None) -> Dataset:
    """Read a folder with a dataset.json of the Decathlon or of nnU-Net (either version).

    Every file of the folder is either taken or named among the remarks, with the reason.

    Raises:
        CaseError: the description has neither form, or there are no cases.
    """
    path = folder / "dataset.json"
    about = validate(_About, read_json(path), origin=str(path))
    channels = _channels(path, about)
    decathlon = about.channel_names is None and not _split_by_channel(folder, about)
    left_out: _LeftOut = {}
    found = list(_listed(folder, about) if decathlon else _nnunet(folder, about, len(channels), left_out))
    if not found:
        raise CaseError(f"{folder}: contains no cases")
    faults = {each: _fault(each, channels, 1 if decathlon else len(channels)) for each in found}
    columns = [""] if decathlon and len(channels) > 1 else column_names(channels)
    rows = [
        Row(
            clean(each.case),
            dict(zip(columns, each.images, strict=True)),
            each.label,
            group_of(each.case, group_regex),
            "test" if each.test and each.label else "",
        )
        for each, fault in faults.items()
        if not fault
    ]
    labels, regions = _classes(path, about.labels)
    remarks = [*_counts(path, about, found), *_others(folder, found, left_out)]
    failed = [f"case {each.case}: {fault}" for each, fault in faults.items() if fault]
    ct = all(channel.upper() == "CT" for channel in channels)
    return Dataset(rows, labels, regions, ct, remarks=remarks, failed=failed)


def _channels(path: Path, about: _About) -> list[str]:
    if named := about.channel_names or about.modality:
        return [named[number] for number in sorted(named)]
    raise CaseError(f"{path}: has neither `channel_names` (nnU-Net) nor `modality` (Decathlon)")


def _classes(path: Path, labels: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Classes, `ignore` and regions from {"1": "tumour"}, {"tumour": 1} or {"whole tumour": [1, 2]}."""
    try:
        if all(isinstance(value, str) for value in labels.values()):
            labels = {name: label_value(value) for value, name in labels.items()}
        members = {
            clean(name): [label_value(v) for v in (value if isinstance(value, list) else [value])]
            for name, value in labels.items()
        }
    except (TypeError, ValueError) as error:
        raise CaseError(f"{path}: labels: {error}") from error
    if len(members) != len(labels):
        raise CaseError(f"{path}: labels: two names differ only in punctuation")
    unlabelled = members.pop(IGNORE, [])
    if len(unlabelled) > 1:
        raise CaseError(f"{path}: labels: `{IGNORE}` has the values {unlabelled}; expected one")
    ignored = {IGNORE: unlabelled[0]} if unlabelled else {}
    members = {name: values for name, values in members.items() if values != [0]}
    classes = {values[0]: name for name, values in members.items() if len(values) == 1}
    if all(len(values) == 1 for values in members.values()):
        return {name: values[0] for name, values in members.items()} | ignored, {}
    values = sorted({value for listed in members.values() for value in listed} - {0})
    names = {value: classes.get(value, f"label_{value}") for value in values}
    regions = {name: [names[value] for value in listed if value] for name, listed in members.items()}
    return {names[value]: value for value in values} | ignored, regions


def _listed(folder: Path, about: _About) -> Iterator[_Found]:
    """Cases of a Decathlon task: the files are in dataset.json."""
    for entry in about.training:
        image, label = folder / entry.image, folder / entry.label
        if not image.name.startswith("._"):
            yield _Found(stem_of(image.name), (image,), label, test=False)
    for listed in about.test:
        image = folder / (listed if isinstance(listed, str) else listed.image)
        if not image.name.startswith("._"):
            yield _Found(
                stem_of(image.name), (image,), _if_there(folder / "labelsTs" / image.name), test=True
            )


def _split_by_channel(folder: Path, about: _About) -> bool:
    """Whether this is nnU-Net's first version: a Decathlon description, but one file per channel."""
    listed = [folder / entry.image for entry in about.training[:1]]
    return any(
        not path.exists() and list(path.parent.glob(f"{stem_of(path.name)}_0000.*")) for path in listed
    )


def _nnunet(folder: Path, about: _About, channels: int, left_out: _LeftOut) -> Iterator[_Found]:
    """Cases of nnU-Net: the files lie in imagesTr and imagesTs, or are listed under `dataset`."""
    if about.dataset is not None:
        for case, files in about.dataset.items():
            images = tuple(folder / image for image in files.images)
            yield _Found(case, images, folder / files.label, test=False)
    else:
        yield from _in_folder(folder, "Tr", about.file_ending, channels, left_out)
    yield from _in_folder(folder, "Ts", about.file_ending, channels, left_out)


def _in_folder(folder: Path, part: str, ending: str, channels: int, left_out: _LeftOut) -> Iterator[_Found]:
    labels = _with_ending(folder / f"labels{part}", ending, left_out)
    images = _with_ending(folder / f"images{part}", ending, left_out)
    cases: dict[str, dict[int, Path]] = defaultdict(dict)
    for stem, path in images.items():
        case, number = _channel(stem, labels, images, channels)
        if number < channels:
            cases[case][number] = path
        elif number == NO_CHANNEL:
            left_out[path] = "no channel in its name, such as _0000"
        else:
            left_out[path] = f"channel {number:04d}, but dataset.json names {channels} channel(s)"
    for case in sorted(cases.keys() | labels.keys()):
        expected = (folder / f"images{part}" / f"{case}_{n:04d}{ending}" for n in range(channels))
        paths = tuple(cases[case].get(n, path) for n, path in enumerate(expected))
        missing = folder / "labelsTr" / f"{case}{ending}" if part == "Tr" else None
        yield _Found(case, paths, labels.get(case, missing), test=part == "Ts")


def _channel(stem: str, labels: Collection[str], images: Collection[str], channels: int) -> tuple[str, int]:
    """The case and channel of an image; the number at the end may also be that of the case."""
    match = re.fullmatch(r"(.+)_(\d{4})", stem)
    if channels == 1:
        # An image whose whole name is that of a label, or without a first channel beside it.
        if match is None or (stem in labels and match[1] not in labels):
            return (stem, 0) if f"{stem}_0000" not in images else (stem, NO_CHANNEL)
        if int(match[2]) > 0 and f"{match[1]}_0000" not in images:
            return stem, 0
    return (match[1], int(match[2])) if match else (stem, NO_CHANNEL)


def _with_ending(folder: Path, ending: str, left_out: _LeftOut) -> dict[str, Path]:
    """Name without the ending → file; others are left out. Capitals do not matter."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        stem = path.name[: -len(ending)]
        if path.name.startswith("."):
            left_out[path] = "hidden"
        elif not path.name.lower().endswith(ending.lower()) or not stem:
            left_out[path] = f"its ending is not the {ending} of dataset.json"
        elif stem in found:
            left_out[path] = f"a second file beside {found[stem].name}"
        else:
            found[stem] = path
    return found


def _fault(each: _Found, channels: list[str], files: int) -> str:
    """Why a case cannot be used; empty if it can."""
    if len(each.images) != files:
        return f"{len(each.images)} images, expected {files}"
    faults = [
        f"{f'channel {channel}' if files > 1 else 'image'}: {path}: no such file"
        for path, channel in zip(each.images, channels, strict=False)
        if not path.exists()
    ]
    if each.label is not None and not each.label.exists():
        faults.append(f"label: {each.label}: no such file")
        faults += [f"{path} is left out" for path in each.images if path.exists()]
    elif faults and each.label is not None:
        faults.append(f"{each.label} is left out")
    return "; ".join(faults)


def _counts(path: Path, about: _About, found: list[_Found]) -> Iterator[str]:
    """Numbers of cases that the description gives otherwise."""
    labelled = sum(not each.test and each.label is not None and each.label.exists() for each in found)
    tested = sum(each.test for each in found)
    for key, stated, count, what in (
        ("numTraining", about.numTraining, labelled, "training cases with a label"),
        ("numTest", about.numTest, tested, "test cases"),
    ):
        if stated not in (None, count):
            yield f"{path}: {key} is {stated}, but there are {count} {what}"


def _others(folder: Path, found: list[_Found], left_out: _LeftOut) -> Iterator[str]:
    """All files that are not taken, with the reason."""
    taken = {path.resolve() for each in found for path in (*each.images, each.label) if path is not None}
    parts = [folder / f"{kind}{part}" for kind in ("images", "labels") for part in ("Tr", "Ts")]
    known = {"dataset.json", *(part.name for part in parts)}
    places = [path for part in parts if part.is_dir() for path in sorted(part.iterdir())]
    for path in [*places, *(path for path in sorted(folder.iterdir()) if path.name not in known)]:
        if path.resolve() not in taken:
            reason = left_out.get(
                path, "hidden" if path.name.startswith(".") else "not named in dataset.json"
            )
            yield f"left out: {path.relative_to(folder)}: {reason}"


def _if_there(path: Path) -> Path | None:
    return path if path.exists() else None


def command(
    source: Source,
    sheet: Sheet,
    config: Config = None,
    name: ExperimentName = None,
    force: Force = False,
    skip_broken: SkipBroken = False,
    group_regex: GroupRegex = None,
) -> None:
    """Import a task of the Decathlon or a raw data set of nnU-Net."""
    to = Import(source, sheet, config, name, force, skip_broken)
    to.refuse_paths()
    conclude(publish(read_dataset(source, group_regex), to), to)


main = script(command)

if __name__ == "__main__":
    run(main)
