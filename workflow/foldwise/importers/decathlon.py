"""Import a Medical Segmentation Decathlon task or an nnU-Net raw data set (a folder with a dataset.json).

  python -m foldwise.importers.decathlon Task04_Hippocampus --sheet data/hippocampus.csv
  python -m foldwise.importers.decathlon Dataset001_Brain --sheet data/brain.csv --group-regex '^(.+)_[0-9]+$'

Training cases have labels. Test cases are only predicted; with a folder labelsTs they become the test set.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foldwise.command import run
from foldwise.files import CaseError, read_json
from foldwise.importers.sheets import (
    Dataset,
    Row,
    clean,
    column_names,
    group_of,
    importer,
    label_value,
    publish,
    refuse,
    targets,
)
from foldwise.volumes.targets import IGNORE


@dataclass(frozen=True)
class _Found:
    """A case and its files: all channels in one, or one file per channel."""

    case: str
    images: tuple[Path, ...]
    label: Path | None
    test: bool


def read_dataset(folder: Path, group_regex: str | None = None) -> Dataset:
    """Read a folder with a dataset.json of the Decathlon or of nnU-Net (either version).

    Raises:
        CaseError: the description has neither form, or files are missing; all are listed.
    """
    path = folder / "dataset.json"
    about = read_json(path)
    if not isinstance(about, dict) or "labels" not in about:
        raise CaseError(f"{path}: has no `labels`; expected a Decathlon or nnU-Net data set")
    channels = _channels(path, about)
    decathlon = "channel_names" not in about and not _split_by_channel(folder, about)
    found = list(_listed(folder, about) if decathlon else _nnunet(folder, about, channels))
    refuse(_missing(found, channels, 1 if decathlon else len(channels)), folder)
    if not found:
        raise CaseError(f"{folder}: contains no cases")
    columns = [""] if decathlon and len(channels) > 1 else column_names(channels)
    rows = [
        Row(
            clean(each.case),
            dict(zip(columns, each.images, strict=True)),
            each.label,
            group_of(each.case, group_regex),
            "test" if each.test and each.label else "",
        )
        for each in found
    ]
    labels, regions = _classes(path, about["labels"])
    return Dataset(rows, labels, regions, ct=all(channel.upper() == "CT" for channel in channels))


def _channels(path: Path, about: dict[str, Any]) -> list[str]:
    named = about.get("channel_names", about.get("modality"))
    if isinstance(named, dict) and named:
        return [str(named[key]) for key in sorted(named, key=int)]
    raise CaseError(f"{path}: has neither `channel_names` (nnU-Net) nor `modality` (Decathlon)")


def _classes(path: Path, labels: dict[str, Any]) -> tuple[dict[str, int], dict[str, list[str]]]:
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


def _listed(folder: Path, about: dict[str, Any]) -> Iterator[_Found]:
    """Cases of a Decathlon task: the files are in dataset.json."""
    for entry in about.get("training", []):
        image, label = folder / entry["image"], folder / entry["label"]
        if not image.name.startswith("._"):
            yield _Found(_stem(image), (image,), label, test=False)
    for entry in about.get("test", []):
        image = folder / (entry["image"] if isinstance(entry, dict) else entry)
        if not image.name.startswith("._"):
            yield _Found(_stem(image), (image,), _if_there(folder / "labelsTs" / image.name), test=True)


def _split_by_channel(folder: Path, about: dict[str, Any]) -> bool:
    """Whether this is nnU-Net's first version: a Decathlon description, but one file per channel."""
    listed = [folder / entry["image"] for entry in about.get("training", [])[:1]]
    return any(not path.exists() and list(path.parent.glob(f"{_stem(path)}_0000.*")) for path in listed)


def _nnunet(folder: Path, about: dict[str, Any], channels: list[str]) -> Iterator[_Found]:
    """Cases of nnU-Net: the files lie in imagesTr and imagesTs, or are listed under `dataset`."""
    ending = about.get("file_ending", ".nii.gz")
    if "dataset" in about:
        for case, entry in about["dataset"].items():
            images = tuple(folder / image for image in entry["images"])
            yield _Found(case, images, folder / entry["label"], test=False)
    else:
        yield from _in_folder(folder, "Tr", ending, channels)
    yield from _in_folder(folder, "Ts", ending, channels)


def _in_folder(folder: Path, part: str, ending: str, channels: list[str]) -> Iterator[_Found]:
    pattern = re.compile(rf"(?P<case>[^.].*)_\d{{4}}{re.escape(ending)}")
    names = (pattern.fullmatch(path.name) for path in (folder / f"images{part}").glob(f"*{ending}"))
    labels = {
        path.name.removesuffix(ending)
        for path in (folder / f"labels{part}").glob(f"*{ending}")
        if not path.name.startswith(".")
    }
    cases = {name["case"] for name in names if name}
    for case in sorted(cases | labels):
        images = tuple(folder / f"images{part}" / f"{case}_{i:04d}{ending}" for i in range(len(channels)))
        label = folder / f"labels{part}" / f"{case}{ending}"
        yield _Found(case, images, label if part == "Tr" or case in labels else None, test=part == "Ts")


def _missing(found: list[_Found], channels: list[str], files: int) -> Iterator[str]:
    for each in found:
        if len(each.images) != files:
            yield f"case {each.case}: {len(each.images)} images, expected {files}"
            continue
        for path, channel in zip(each.images, channels, strict=False):
            if not path.exists():
                which = f"channel {channel}" if files > 1 else "image"
                yield f"case {each.case}: {which}: {path}: no such file"
        if each.label is not None and not each.label.exists():
            yield f"case {each.case}: label: {each.label}: no such file"


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _if_there(path: Path) -> Path | None:
    return path if path.exists() else None


def _parse() -> argparse.Namespace:
    arguments = importer(__doc__)
    arguments.add_argument(
        "--group-regex",
        help="its first group, in a case's name, is the patient (default: each case is a patient)",
    )
    return arguments.parse_args()


def main() -> None:
    """Read the command line."""
    args = _parse()
    targets(args)
    publish(read_dataset(args.folder, args.group_regex), args)


if __name__ == "__main__":
    run(main)
