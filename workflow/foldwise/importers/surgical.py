"""Common parts of the importers of surgical videos: the sheet and the experiment."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foldwise.check import Checked
from foldwise.files import atomic_path
from foldwise.importers.sheets import clean, of_a_line, relative, targets, write_experiment
from foldwise.settings import validate
from foldwise.store import Memory
from foldwise.systems.surgical.settings import Settings
from foldwise.systems.surgical.sheet import read_sheet
from foldwise.systems.surgical.system import Surgical


@dataclass(frozen=True)
class Video:
    """A row of the sheet.

    Attributes:
        case: name of the case.
        video: file, or folder of images.
        phases: phase annotation, or None.
        tools: tool annotation, or None.
    """

    case: str
    video: Path
    phases: Path | None
    tools: Path | None


def publish_videos(
    videos: Sequence[Video],
    data: Mapping[str, Any],
    split: Mapping[str, Any] | None,
    args: argparse.Namespace,
    folds: Mapping[str, Any] | None = None,
) -> None:
    """Write the sheet and the experiment if the workflow accepts them, else neither.

    Args:
        videos: the rows.
        data: the section `data` without the sheet.
        split: the section `split`; None: folds by the number of videos.
        args: of the importer's command line.
        folds: contents of the file that `split` names; None: no such file.

    Raises:
        CaseError: with every problem of the sheet and of the files that it names.
    """
    sheet, config = targets(args)
    labelled = sum(video.phases is not None or video.tools is not None for video in videos)
    if split is None:
        split = {"folds": max(2, min(5, labelled))} | ({"validation": 0} if labelled < 3 else {})
    values: dict[str, Any] = {
        "experiment": clean(args.name or sheet.stem),
        "system": "surgical",
        "data": {"sheet": sheet.as_posix(), **data},
        "split": dict(split),
        "models": {
            "tool": {"kind": "tool"},
            "phase": {"kind": "phase"},
            "mtrcnet_cl": {"kind": "mtrcnet_cl"},
            "tecno": {"kind": "tecno", "features": "phase"},
        },
    }
    with ExitStack() as stack:
        new_sheet, new_config = (stack.enter_context(atomic_path(path)) for path in (sheet, config))
        _write_sheet(videos, new_sheet)
        write_experiment(values, config, new_config)
        trial = {**values, "data": {**values["data"], "sheet": new_sheet}}
        if folds is not None:
            trial["split"] = {**split, "file": stack.enter_context(atomic_path(Path(str(split["file"]))))}
            trial["split"]["file"].write_text(json.dumps(folds, indent=2) + "\n", encoding="utf-8")
        settings = validate(Settings, trial, "experiment")
        checked = Surgical().check(settings, read_sheet(settings.data), deep=False, memory=Memory(None))
        Checked(tuple(p for p in checked.problems if of_a_line(p)), ()).refuse(sheet)
    for remark in [*(p for p in checked.problems if not of_a_line(p)), *checked.warnings]:
        print(f"warning: {remark}")
    print(f"{sheet}: {len(videos)} videos, {labelled} of them annotated")
    print(f"{config}: an experiment to start with; its first lines show how")


def _write_sheet(videos: Sequence[Video], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",", lineterminator="\n")
        writer.writerow(["case", "group", "video", "phases", "tools", "split"])
        for one in videos:
            files = [relative(source, path.parent) for source in (one.video, one.phases, one.tools)]
            writer.writerow([clean(one.case), clean(one.case), *files, ""])
