"""Common parts of the importers of surgical videos: the sheet and the experiment."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foldwise.check import Checked
from foldwise.files import atomic_path
from foldwise.importers.arguments import Import
from foldwise.importers.sheets import clean, examine, relative, usable, warn, write_experiment
from foldwise.store import Memory
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
    to: Import,
    folds: Callable[[Sequence[Video]], Mapping[str, Any]] | None = None,
    failed: Sequence[str] = (),
) -> list[str]:
    """Write the sheet and the experiment, without the videos that the workflow would refuse.

    Args:
        videos: the rows.
        data: the section `data` without the sheet.
        split: the section `split`; None: folds by the number of videos.
        to: the files to write.
        folds: contents, for some videos, of the file that `split` names; None: no such file.
        failed: videos that cannot be used and are not among the rows, one line each.

    Returns:
        The videos that cannot be used, for `conclude`.

    Raises:
        CaseError: no video can be used.
    """
    sheet, config = to.sheet, to.experiment
    left_out, memory = list(failed), Memory(None)
    with ExitStack() as stack:
        new_sheet, new_config = (stack.enter_context(atomic_path(path)) for path in (sheet, config))
        new_folds = stack.enter_context(atomic_path(Path(str(split["file"])))) if split and folds else None

        def check(videos: Sequence[Video]) -> Checked:
            _write_sheet(videos, new_sheet)
            trial = _experiment(videos, data, split, to)
            if folds is not None and new_folds is not None:
                new_folds.write_text(json.dumps(folds(videos), indent=2) + "\n", encoding="utf-8")
                trial["split"]["file"] = new_folds
            return examine(Surgical(), trial, new_sheet, memory)

        kept, checked = usable(videos, left_out, check, sheet)
        warn([*checked.problems, *checked.warnings])
        write_experiment(_experiment(kept, data, split, to), config, new_config)
    print(f"{sheet}: {len(kept)} videos, {_annotated(kept)} of them annotated")
    for note in checked.notes:
        print(note)
    print(f"{config}: an experiment to start with; its first lines show how")
    return left_out


def _annotated(videos: Sequence[Video]) -> int:
    return sum(video.phases is not None or video.tools is not None for video in videos)


def _experiment(
    videos: Sequence[Video],
    data: Mapping[str, Any],
    split: Mapping[str, Any] | None,
    to: Import,
) -> dict[str, Any]:
    labelled = _annotated(videos)
    if split is None:
        split = {"folds": max(2, min(5, labelled))} | ({"validation": 0} if labelled < 3 else {})
    return {
        "experiment": clean(to.name or to.sheet.stem),
        "system": "surgical",
        "data": {"sheet": to.sheet.as_posix(), **data},
        "split": dict(split),
        "models": {
            "tool": {"kind": "tool"},
            "phase": {"kind": "phase"},
            "mtrcnet_cl": {"kind": "mtrcnet_cl"},
            "tecno": {"kind": "temporal", "features": "phase"},
        },
    }


def _write_sheet(videos: Sequence[Video], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",", lineterminator="\n")
        writer.writerow(["case", "group", "video", "phases", "tools", "split"])
        for one in videos:
            files = [relative(source, path.parent) for source in (one.video, one.phases, one.tools)]
            writer.writerow([clean(one.case), clean(one.case), *files, ""])
