"""Regions of a case: found in key frames, propagated through the clip, and compared with a given mask.

The file of a case (HDF5) is its frame cache with masks: `masks` (n, height, width) uint8, 0 or 1, on the
cache's frames; `score` (n,) float32, the network's own estimate of a key frame's IoU, NaN elsewhere. The
frames are links into the cache. Further attributes: region_box (x0, y0, x1, y1 around all
frames' masks), region_found, provenance (JSON).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from PIL import Image

from foldwise.files import CaseError, atomic_path, write_json
from foldwise.hdf5 import create_hdf5
from foldwise.systems.clips.settings import Regions
from foldwise.systems.clips.sheet import box_from
from foldwise.video.images import image_files
from foldwise.video.regions import (
    Box,
    box_of,
    find_fan,
    iou,
    key_frames,
    object_in_box,
    propagate,
    spread,
)
from foldwise.video.store import open_frames, read

# Number of frames from which the fan is found.
FAN_FRAMES = 24
# From an image and a box to a mask and a score.
Finder = Callable[[np.ndarray, Box], tuple[np.ndarray, float]]


@dataclass(frozen=True)
class RegionFacts:
    """Facts about a case's region.

    Attributes:
        case: its name.
        method: as named in the settings.
        model: hash of the network's weights, or "".
        box_source: sheet, mask or fan.
        box: prompt for the first key frame, x0, y0, x1, y1 in pixels of the cached frames; None without one.
        keys: frames in which the region was searched.
        score: mean of the network's own estimates, or None.
        share: mean share of the frame that the region covers.
        iou: mean IoU with the given mask in the frames that have one, or None.
        review: why a person should check it; "" if accepted.
    """

    case: str
    method: str
    model: str
    box_source: str
    box: Box | None
    keys: list[int]
    score: float | None
    share: float
    iou: float | None
    review: str


def find_regions(
    case: str, cache: Path, box: str, mask: Path | None, settings: Regions, path: Path, facts: Path
) -> RegionFacts:
    """Find a case's region in all frames, and write its file and the facts about it.

    Args:
        case: its name.
        cache: its frames.
        box: "x0 y0 x1 y1" in pixels of the video, or "".
        mask: a given mask, an image or a folder of images by frame number; never changed.
        settings: the method and its values.
        path: HDF5 file to write.
        facts: JSON file to write.

    Raises:
        CaseError: a box or mask does not fit the video, or the weights are missing.
    """
    finder, model = make_finder(settings)
    with open_frames(cache) as file:
        given = read_given(mask, file, case) if mask is not None else {}
        count = int(file.attrs["frames"])
        found: dict[int, np.ndarray] = {}
        scores: dict[int, float] = {}
        if settings.method == "fan":
            source, keys = "fan", [0]
            found[0] = fan_of(file)
            first = box_of(found[0])
        else:
            source, boxes = _boxes(file, box, given, case)
            keys = key_frames(count, settings.key_every)
            first = boxes(keys[0])
            for key in keys:
                if (prompt := boxes(key)) is not None:
                    found[key], scores[key] = finder(read(file, [key])[0], prompt)
        empty = np.zeros((int(file.attrs["height"]), int(file.attrs["width"])), bool)
        masks = propagate(found or {0: empty}, count)
        agreement = float(np.mean([iou(masks[n], g) for n, g in given.items()])) if given else None
        share = float(masks.mean())
        known = [score for score in scores.values() if np.isfinite(score)]
        found_facts = RegionFacts(
            case=case,
            method=settings.method,
            model=model,
            box_source=source,
            box=first,
            keys=keys,
            score=float(np.mean(known)) if known else None,
            share=share,
            iou=agreement,
            review=_review(share, agreement, settings),
        )
        _write(path, cache, file, masks, scores, found_facts)
    write_json(facts, asdict(found_facts))
    return found_facts


def make_finder(settings: Regions) -> tuple[Finder, str]:
    """The function that finds an object in a box, and the hash of its weights ("" without any)."""
    if settings.method != "medsam":
        return (lambda image, box: (object_in_box(image, box), float("nan"))), ""
    # Imported only here, since torch and transformers take seconds to import.
    from foldwise.networks.local_weights import weights_digest
    from foldwise.networks.medsam import MedSAM, load_medsam

    assert settings.weights is not None
    network = load_medsam(settings.weights)
    digest = bytes(weights_digest(network.state_dict()).tolist()).hex()
    return MedSAM(network), digest


def read_given(path: Path, file: h5py.File, case: str) -> dict[int, np.ndarray]:
    """A given mask on the cached frames: frame → (height, width) bool.

    Args:
        path: an image, which is for the first frame, or a folder of images by frame number.
        file: the frame cache.
        case: for messages.

    Raises:
        CaseError: not an image, not of the video's size, or no mask of a cached frame.
    """
    height, width = int(file.attrs["height"]), int(file.attrs["width"])
    source = (int(file.attrs["source_width"]), int(file.attrs["source_height"]))
    places = {int(number): place for place, number in enumerate(file["number"][()])}
    files = image_files(path) if path.is_dir() else {int(file["number"][0]): path}
    masks = {}
    for number, image_path in files.items():
        if number not in places:
            continue
        try:
            with Image.open(image_path) as image:
                if image.size != source:
                    raise CaseError(
                        f"case {case}: {image_path}: the mask is {image.size[0]}×{image.size[1]}, the video "
                        f"{source[0]}×{source[1]}"
                    )
                whole = Image.fromarray(_marked(image))
                masks[places[number]] = np.asarray(whole.resize((width, height), Image.Resampling.NEAREST))
        except OSError as error:
            raise CaseError(f"case {case}: {image_path}: not readable as an image ({error})") from error
    if not masks:
        raise CaseError(f"case {case}: {path}: has no mask of a cached frame")
    return masks


def _marked(image: Image.Image) -> np.ndarray:
    """Marked pixels of a mask of any depth: those that are not 0 or black and not transparent."""
    if image.mode.startswith(("I", "F")):
        return np.asarray(image) > 0
    # Not as grey values: dark colours of a palette would become 0.
    colours = np.asarray(image.convert("RGBA"))
    return np.asarray(colours[..., :3].any(-1) & (colours[..., 3] > 0))


def _boxes(
    file: h5py.File, box: str, given: dict[int, np.ndarray], case: str
) -> tuple[str, Callable[[int], Box | None]]:
    """The source of the prompts, and a function from a frame to its box."""
    if (wanted := box_from(box)) is not None:
        scaled = _scaled(wanted, file, case)
        return "sheet", lambda frame: scaled
    if given:
        by_frame = {frame: box_of(mask) for frame, mask in given.items()}
        return "mask", lambda frame: by_frame[min(by_frame, key=lambda known: abs(known - frame))]
    outline = box_of(fan_of(file))
    return "fan", lambda frame: outline


def fan_of(file: h5py.File) -> np.ndarray:
    """The scanner's image area, (height, width) bool; empty if nothing lights up."""
    return find_fan(read(file, spread(int(file.attrs["frames"]), FAN_FRAMES)))


def _scaled(box: Box, file: h5py.File, case: str) -> Box:
    """A box of the video, in pixels of the cached frames."""
    source = (int(file.attrs["source_width"]), int(file.attrs["source_height"]))
    if box[2] > source[0] or box[3] > source[1]:
        raise CaseError(f"case {case}: box {box} extends beyond the video, which is {source[0]}×{source[1]}")
    x, y = int(file.attrs["width"]) / source[0], int(file.attrs["height"]) / source[1]
    return round(box[0] * x), round(box[1] * y), max(1, round(box[2] * x)), max(1, round(box[3] * y))


def _review(share: float, agreement: float | None, settings: Regions) -> str:
    if share < settings.smallest:
        return "no region found"
    if agreement is not None and agreement < settings.agreement:
        return f"the new region and the given mask disagree: IoU {agreement:.2f}"
    return ""


def _write(
    path: Path, cache: Path, file: h5py.File, masks: np.ndarray, scores: dict[int, float], facts: RegionFacts
) -> None:
    stored = masks.astype(np.uint8)
    score = np.full(len(stored), np.nan, np.float32)
    score[list(scores)] = list(scores.values())
    whole = box_of(np.asarray(stored.any(axis=0))) if facts.share > 0 else None
    digest = hashlib.sha256(str(file.attrs["content"]).encode())
    digest.update(np.ascontiguousarray(stored).data)
    own: dict[str, Any] = {
        "content": digest.hexdigest(),
        "region_box": np.array(whole or (0, 0, stored.shape[2], stored.shape[1]), np.int64),
        "region_found": not facts.review.startswith("no region"),
        "provenance": json.dumps(asdict(facts)),
    }
    with atomic_path(path) as temporary, create_hdf5(temporary) as output:
        for name in file:
            # The cache's folder is next to this one's: the link stays valid when both are moved.
            output[name] = h5py.ExternalLink(os.path.relpath(cache, path.parent), f"/{name}")
        output.create_dataset(
            "masks",
            data=stored,
            chunks=(1, *stored.shape[1:]),
            compression=hdf5plugin.Blosc2(cname="lz4hc", clevel=5, filters=hdf5plugin.Blosc2.BITSHUFFLE),
        )
        output["score"] = score
        output.attrs.update({**dict(file.attrs), **own})
