"""Checks of clips, classes and weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from PIL import Image

from foldwise import looks
from foldwise.check import Findings
from foldwise.files import CaseError, read_json
from foldwise.sheet import Sheet
from foldwise.store import Memory
from foldwise.systems.clips.settings import FROZEN, Model, Settings
from foldwise.systems.clips.sheet import ClipCase, box_from, class_names
from foldwise.video.decode import VideoInfo
from foldwise.video.encoders import weights_of


def check_prompt(case: ClipCase, info: VideoInfo, memory: Memory) -> list[tuple[str, bool]]:
    """Problems of a clip's length, box and mask, each with whether it is only a warning."""
    size = f"{info.width}×{info.height}"
    problems = []
    if info.frames < 2:
        problems.append(f"{case.video}: only one frame; a clip needs at least two")
    try:
        box = box_from(case.box)
        if box is not None and (box[2] > info.width or box[3] > info.height):
            problems.append(f"box {case.box!r} extends beyond the video, which is {size}")
        if case.mask is not None and looks.exists(case.mask) and not looks.is_folder(case.mask):
            width, height = memory.of_source(case.mask, partial(_size, case.mask), "size")
            if (width, height) != (info.width, info.height):
                problems.append(f"{case.mask}: the mask is {width}×{height}, the video {size}")
    except CaseError as error:
        problems.append(str(error))
    except OSError as error:
        problems.append(f"{case.mask}: not readable as an image ({error})")
    return [(text, False) for text in problems]


def _size(image: Path) -> tuple[int, int]:
    with Image.open(image) as opened:
        return opened.size


def check_classes(sheet: Sheet[ClipCase], settings: Settings, found: Findings) -> None:
    """Find patients of several classes, and classes without cases."""
    names = class_names(settings.data)
    for case in sheet.cases:
        if case.label and case.label not in names:
            found.add(case, f"label {case.label!r} is not one of {', '.join(names)} (0 to {len(names) - 1})")
    of_patient: dict[str, ClipCase] = {}
    present = {case.label for case in sheet.cases if case.trains}
    for case in sheet.cases:
        if not case.labelled or case.label not in names:
            continue
        first = of_patient.setdefault(case.group, case)
        if first.label != case.label:
            found.add(
                case,
                f"patient {case.group} is {case.label} here and {first.label} in case {first.name}; each "
                f"patient must have one class",
            )
    for name in names if settings.part is None else ():
        if name not in present:
            found.add_general(f"class {name} has no labelled training case")


def check_weights(settings: Settings) -> list[str]:
    """Missing files of weights, and CLIP models that do not fit the clips."""
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
        if model.encoder is not None:
            wanted.append((f"models.{name}.encoder.weights", weights_of(model.encoder)))
    return problems + [f"{key}: {path}: no such file or folder" for key, path in wanted if not path.exists()]


def _clip_problem(folder: Path, model: Model) -> str:
    """Why a folder is not a CLIP for a model, by its config.json alone; "" if it may be one.

    An archive by OpenAI is only judged when the network is tried.
    """
    if folder.is_file():
        return ""
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else None
    if not isinstance(config, dict):
        return "is not a folder with a model of transformers (config.json, model.safetensors)"
    evl = model.network.plain == "EVL"
    if (kind := config.get("model_type")) not in ("clip", *(["clip_vision_model"] if evl else [])):
        return f"is a model of type {kind!r}, not 'clip'"
    vision = config.get("vision_config", {}) if kind == "clip" else config
    # Defaults of transformers for values missing from a config.
    size, blocks = vision.get("image_size", 224), vision.get("num_hidden_layers", 12)
    if size != model.clip.size:
        return f"takes frames of {size} px, but clip.size is {model.clip.size}"
    if evl and (asked := model.network.arguments.get("blocks", 4)) > blocks:
        return f"has {blocks} blocks, but {asked} are required"
    return ""
