"""Regions of a case: found in key frames and propagated, or followed by a network; compared with given masks.

The file of a case (HDF5) is its frame cache with masks: `masks` (n, height, width) uint8, 0 or 1, on the
cache's frames; `score` (n,) float32, the network's own estimate of the IoU, NaN without one. The
frames are links into the cache. Further attributes: region_box (x0, y0, x1, y1 around all
frames' masks), region_found, provenance (JSON).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import h5py
import hdf5plugin
import numpy as np

from foldwise.files import CaseError, atomic_path, write_json
from foldwise.hdf5 import create_hdf5
from foldwise.systems.clips.given import read_given
from foldwise.systems.clips.settings import Regions
from foldwise.systems.clips.sheet import box_from
from foldwise.video.regions import (
    Box,
    box_of,
    find_fan,
    iou,
    key_frames,
    object_in_box,
    propagate,
    spread,
    stretches,
)
from foldwise.video.store import open_frames, read

# Number of frames from which the fan is found.
FAN_FRAMES = 24


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
        empty: frames whose given mask is empty: there is nothing to see, so the region is empty, too.
        score: mean of the network's own estimates, or None.
        share: mean share of the frame that the region covers.
        iou: mean IoU with the given masks that mark something and prompted no network, or None.
        review: why a person should check it; "" if accepted.
    """

    case: str
    method: str
    model: str
    box_source: str
    box: Box | None
    keys: list[int]
    empty: list[int]
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
    with open_frames(cache) as file:
        given = read_given(mask, file, case) if mask is not None else {}
        empty = sorted(frame for frame, one in given.items() if not one.any())
        found = _search(file, box, given, settings, case)
        found.masks[empty] = False
        # Given masks that prompted a network measure nothing.
        marked = [n for n, one in given.items() if one.any() and n not in found.prompted]
        agreement = float(np.mean([iou(found.masks[n], given[n]) for n in marked])) if marked else None
        # Frames in which there is nothing to see do not make a region small.
        shown = np.delete(found.masks, empty, axis=0)
        share = float(shown.mean()) if len(shown) else 0.0
        known = [score for score in found.scores.values() if np.isfinite(score)]
        found_facts = RegionFacts(
            case=case,
            method=settings.method,
            model=found.model,
            box_source=found.source,
            box=found.box,
            keys=found.keys,
            empty=empty,
            score=float(np.mean(known)) if known else None,
            share=share,
            iou=agreement,
            review="" if given and len(empty) == len(given) else _review(share, agreement, settings),
        )
        _write(path, cache, file, found.masks, found.scores, found_facts, share >= settings.smallest)
    write_json(facts, asdict(found_facts))
    return found_facts


@dataclass(frozen=True)
class _Found:
    """Masks of all frames, and how they were found; see `RegionFacts`."""

    masks: np.ndarray
    source: str
    box: Box | None
    keys: list[int]
    scores: dict[int, float] = field(default_factory=dict)
    prompted: frozenset[int] = frozenset()
    model: str = ""


def _search(
    file: h5py.File, box: str, given: Mapping[int, np.ndarray], settings: Regions, case: str
) -> _Found:
    """Find the region in all frames; what is found in frames whose given mask is empty does not count."""
    count = int(file.attrs["frames"])
    if settings.method == "fan":
        fan = fan_of(file)
        return _Found(np.repeat(fan[None], count, axis=0), "fan", box_of(fan), [0])
    source, boxes = _boxes(file, box, given, case)
    parts = stretches(count, [frame for frame, one in given.items() if not one.any()])
    network, model = load_network(settings)
    if settings.method in ("sam2_video", "edgetam_video"):
        return _followed(file, source, boxes, given, parts, network, model)
    keys = [part.start + key for part in parts for key in key_frames(len(part), settings.key_every)]
    prompted = [(key, prompt) for key in keys if (prompt := boxes(key)) is not None]
    found: dict[int, np.ndarray] = {}
    scores: dict[int, float] = {}
    # On a CPU, several images at once take more memory and no less time.
    at_once = settings.batch if network is not None and network.device.type == "cuda" else 1
    for begin in range(0, len(prompted), at_once):
        some = prompted[begin : begin + at_once]
        images = read(file, [key for key, _ in some])
        if network is None:
            results = [(object_in_box(image, b), np.nan) for image, (_, b) in zip(images, some, strict=True)]
        else:
            results = network.batch(images, [b for _, b in some])
        for (key, _), (one, score) in zip(some, results, strict=True):
            found[key], scores[key] = one, score
    masks = _nothing(file)
    for part in parts:
        inside = {key - part.start: found[key] for key in part if key in found}
        if inside:
            masks[part.start : part.stop] = propagate(inside, len(part))
    return _Found(masks, source, boxes(keys[0]) if keys else None, keys, scores, model=model)


def _followed(
    file: h5py.File,
    source: str,
    boxes: Callable[[int], Box | None],
    given: Mapping[int, np.ndarray],
    parts: Sequence[range],
    network: Any,
    model: str,
) -> _Found:
    """Follow the object from the given masks, or from the box in the first frame that may show it."""
    prompts: dict[int, Any] = {}
    if source == "mask":
        prompts = {frame: one for frame, one in given.items() if one.any()}
    elif parts and (prompt := boxes(parts[0].start)) is not None:
        prompts = {parts[0].start: prompt}
    if not prompts:
        return _Found(_nothing(file), source, None, [], model=model)
    masks, scores = network(_Frames(file), prompts)
    asked = frozenset(prompts) if source == "mask" else frozenset[int]()
    estimates = {frame: float(score) for frame, score in enumerate(scores)}
    return _Found(masks, source, boxes(min(prompts)), sorted(prompts), estimates, asked, model)


def _nothing(file: h5py.File) -> np.ndarray:
    return np.zeros([int(file.attrs[name]) for name in ("frames", "height", "width")], bool)


class _Frames(Sequence[np.ndarray]):
    """Frames of a cache, each read when it is asked for."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file

    def __len__(self) -> int:
        return int(self._file.attrs["frames"])

    def __getitem__(self, frame: Any) -> Any:
        return read(self._file, [frame])[0]


def load_network(settings: Regions) -> tuple[Any, str]:
    """The network of a method and the hash of its weights, loaded once; None and "" without one."""
    return _loaded(settings.method, settings.weights) if settings.weights else (None, "")


@lru_cache(maxsize=1)
def _loaded(method: str, weights: Path) -> tuple[Any, str]:
    # Imported only here, since torch and transformers take seconds to import.
    from foldwise.networks.local_weights import weights_digest

    model = read_network(method, weights)
    digest = bytes(weights_digest(model.state_dict()).tolist()).hex()
    if method == "medsam":
        from foldwise.networks.medsam import MedSAM

        return MedSAM(model), digest
    from foldwise.networks.sam_video import VideoSAM

    return VideoSAM(model, cast("Any", method)), digest


def read_network(method: str, weights: Path) -> Any:
    """The network of a method from its weights.

    Raises:
        CaseError: not such weights.
    """
    if method == "medsam":
        from foldwise.networks.medsam import load_medsam

        return load_medsam(weights)
    from foldwise.networks.sam_video import load_video_sam

    return load_video_sam(weights, cast("Any", method))


def _boxes(
    file: h5py.File, box: str, given: Mapping[int, np.ndarray], case: str
) -> tuple[str, Callable[[int], Box | None]]:
    """The source of the prompts, and a function from a frame to its box."""
    if (wanted := box_from(box)) is not None:
        scaled = _scaled(wanted, file, case)
        return "sheet", lambda frame: scaled
    if given:
        by_frame = {frame: box_of(mask) for frame, mask in given.items()}

        def nearest(frame: int) -> Box | None:
            """The box of the nearest mask that marks something, without an empty one in between."""
            for known in sorted(by_frame, key=lambda known: abs(known - frame)):
                between = range(min(known, frame), max(known, frame) + 1)
                if all(by_frame.get(each, known) is not None for each in between):
                    return by_frame[known]
            return None

        return "mask", nearest
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
    path: Path,
    cache: Path,
    file: h5py.File,
    masks: np.ndarray,
    scores: dict[int, float],
    facts: RegionFacts,
    is_found: bool,
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
        "region_found": is_found and bool(stored.any()),
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
