"""What is wrong with clips, classes and weights, and how much memory and disk they will take."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from foldwise.check import Checked, Findings, Produced, check_groups, present_files
from foldwise.files import CaseError, read_json
from foldwise.forecast import table
from foldwise.sheet import Sheet
from foldwise.systems.clips.forecast import case_mib, disk_mib, model_mib
from foldwise.systems.clips.settings import FROZEN, Model, Settings
from foldwise.systems.clips.sheet import ClipCase, box_from, class_names, class_sentences, read_sheet
from foldwise.video.decode import VideoInfo, probe

# Headers wait for the disk, most of all on network file systems.
THREADS = 16


@dataclass(frozen=True)
class CheckedClips(Checked):
    """What a check found.

    Attributes:
        videos: case → what its video says of itself, for those that could be read.
    """

    videos: Mapping[str, VideoInfo]


def check(
    sheet: Sheet[ClipCase], settings: Settings, produced: Produced = lambda path: False
) -> CheckedClips:
    """Check a sheet, the videos' headers, and the classes' files.

    Args:
        sheet: as read.
        settings: of the experiment.
        produced: says of a missing file whether the workflow makes it itself.

    Raises:
        CaseError: the classes' own files are wrong.
    """
    found = Findings(sheet)
    names = class_names(settings.data)
    class_sentences(settings.data)
    present = present_files(sheet, produced, found)
    with ThreadPoolExecutor(THREADS) as pool:
        wanted = [case for case in sheet.cases if case.video in present]
        read = dict(zip((case.name for case in wanted), pool.map(_probe, wanted), strict=True))
    videos = {}
    for case in wanted:
        info = read[case.name]
        if isinstance(info, str):
            found.add(case, info)
            continue
        videos[case.name] = info
        if info.frames < 2:
            found.add(case, f"{case.video}: one frame only; a clip has at least two")
        _check_prompt(case, info, found)
    for case in sheet.cases:
        if case.label and case.label not in names:
            found.add(case, f"label {case.label!r} is none of {', '.join(names)} (0 to {len(names) - 1})")
    _check_classes(sheet, names, settings, found)
    _check_twins(sheet, found)
    check_groups(sheet.cases, settings.split, found)
    for text in _weights(settings):
        found.add_general(text)
    return CheckedClips(found.problems, found.warnings, videos)


def examine(settings: Settings, counts: Path) -> tuple[dict[str, Any], str]:
    """Check everything, and forecast memory and disk.

    Args:
        settings: of the experiment.
        counts: JSON that remembers what networks hold.

    Returns:
        Facts for check.json, and a table to print.

    Raises:
        CaseError: everything that is wrong.
    """
    # Only here: the layout itself checks.
    from foldwise.systems.clips.layout import Layout

    sheet = read_sheet(settings.data)
    checked = check(sheet, settings)
    checked.refuse(settings.data.sheet)
    layout = Layout(settings, sheet, checked)
    cases: dict[str, dict[str, Any]] = {}
    for case in sheet.cases:
        info = checked.videos[case.name]
        cases[case.name] = {
            "group": case.group,
            "labelled": case.labelled,
            "split": case.split,
            "class": case.label,
            "frames": info.frames,
            "fps": info.fps,
            "size": [info.width, info.height],
            "mib": {stage: case_mib(stage, info, settings) for stage in layout.stages},
            "disk_mib": disk_mib(info, settings),
            "regions": layout.regions if settings.prepare.regions else None,
        }
    peaks = []
    for stage in layout.stages:
        name = max(cases, key=lambda name: cases[name]["mib"][stage])
        peaks.append((stage, cases[name]["mib"][stage], name))
    models = {
        name: {stage: model_mib(stage, model, layout.step(name)) for stage in ("train", "test", "ensemble")}
        for name, model in settings.models.items()
    }
    peaks += [(stage, mib, f"model {name}") for name, made in models.items() for stage, mib in made.items()]
    disk = sum(sum(facts["disk_mib"].values()) for facts in cases.values())
    counted = Counter(case.label for case in sheet.cases if case.labelled)
    classes = ", ".join(f"{name} {counted[name]}" for name in class_names(settings.data))
    facts = {"cases": cases, "models_mib": models, "warnings": list(checked.warnings)}
    return facts, f"{table(peaks, disk, len(cases))}\nclips of each class: {classes}"


def _probe(case: ClipCase) -> VideoInfo | str:
    try:
        return probe(case.video)
    except CaseError as error:
        return str(error)


def _check_prompt(case: ClipCase, info: VideoInfo, found: Findings) -> None:
    try:
        box = box_from(case.box)
        if box is not None and (box[2] > info.width or box[3] > info.height):
            found.add(case, f"box {case.box!r} reaches beyond the video, which is {info.width}×{info.height}")
        if case.mask is not None and case.mask.is_file():
            with Image.open(case.mask) as image:
                if image.size != (info.width, info.height):
                    size = f"{image.size[0]}×{image.size[1]}"
                    found.add(case, f"{case.mask}: the mask is {size}, the video {info.width}×{info.height}")
    except CaseError as error:
        found.add(case, str(error))
    except OSError as error:
        found.add(case, f"{case.mask}: not readable as an image ({error})")


def _check_classes(sheet: Sheet[ClipCase], names: list[str], settings: Settings, found: Findings) -> None:
    """One class for a patient; no class without cases; a warning where a fold must lack a class."""
    of_patient: dict[str, ClipCase] = {}
    patients = defaultdict(set)
    for case in sheet.cases:
        if not case.labelled or case.label not in names:
            continue
        first = of_patient.setdefault(case.group, case)
        if first.label != case.label:
            found.add(
                case,
                f"patient {case.group} is {case.label} here and {first.label} in case {first.name}; a "
                f"patient has one class",
            )
        if case.trains:
            patients[case.label].add(case.group)
    for name in names:
        if not patients[name]:
            found.add_general(f"class {name} has no labelled training case")
        elif len(patients[name]) < settings.split.folds and settings.split.file is None:
            first = next(case for case in sheet.cases if case.label == name)
            few = f"class {name} has {len(patients[name])} patient(s) for {settings.split.folds} folds"
            found.add(first, f"{few}: some folds have none to be tested on", warning=True)


def _check_twins(sheet: Sheet[ClipCase], found: Findings) -> None:
    """A video under two names could be learnt from and tested on."""
    of_video: dict[str, ClipCase] = {}
    for case in sheet.cases:
        first = of_video.setdefault(os.path.normpath(case.video), case)
        if first is not case:
            found.add(case, f"{case.video}: is the video of case {first.name}, too")


def _weights(settings: Settings) -> list[str]:
    """Files of weights that are not there, and CLIPs that are made for other clips."""
    regions = settings.prepare.regions
    wanted = [("prepare.regions.weights", regions.weights)] if regions and regions.weights else []
    problems = []
    for name, model in settings.models.items():
        if model.pretrained is not None:
            wanted.append((f"models.{name}.pretrained.file", model.pretrained.file))
        if model.network.plain in FROZEN:
            key, folder = f"models.{name}.network.weights", Path(model.network.arguments["weights"])
            wanted.append((key, folder))
            if folder.exists() and (problem := _clip_problem(folder, model)):
                problems.append(f"{key}: {folder}: {problem}")
    return problems + [f"{key}: {path}: no such file or folder" for key, path in wanted if not path.exists()]


def _clip_problem(folder: Path, model: Model) -> str:
    """Why a folder is no CLIP for a model, by its config.json alone; "" if it may be one."""
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else None
    if not isinstance(config, dict):
        return "is no folder with a model of transformers (config.json, model.safetensors)"
    evl = model.network.plain == "EVL"
    if (kind := config.get("model_type")) not in ("clip", *(["clip_vision_model"] if evl else [])):
        return f"is a model of type {kind!r}, not 'clip'"
    vision = config.get("vision_config", {}) if kind == "clip" else config
    # What transformers takes where a config is silent.
    size, blocks = vision.get("image_size", 224), vision.get("num_hidden_layers", 12)
    if size != model.clip.size:
        return f"takes frames of {size} px, and clip.size is {model.clip.size}"
    if evl and (asked := model.network.arguments.get("blocks", 4)) > blocks:
        return f"has {blocks} blocks, {asked} are asked for"
    return ""
