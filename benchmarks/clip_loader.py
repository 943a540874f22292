"""Clips per second into the training step: frame caches, decoding the files each time, and stored features.

  python benchmarks/clip_loader.py <folder of videos> --folder /tmp/clips [--clip weights/clip]

In one run: builds the caches (JPEG and raw), compares their sizes with the sources, then draws training clips
from each and, like EVL's original loader, by decoding the whole file every time. With --clip it also times a
step of EVL with the frozen transformer, and on stored features; a folder that does not exist receives a
random transformer of ViT-B/16's shape.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate
from transformers import CLIPVisionConfig, CLIPVisionModel

from foldwise.systems.clips.cache import cache_clip
from foldwise.systems.clips.encoding import make_vision
from foldwise.systems.clips.features import write_features
from foldwise.systems.clips.learner import ClipsLearner
from foldwise.systems.clips.settings import CLIP_MEAN, CLIP_STD, Cache, Model
from foldwise.training.steps import batches
from foldwise.video.decode import read_frames
from foldwise.video.sheet import VIDEO_SUFFIXES
from foldwise.video.views import dense_draw, normalised, random_resized_crop

MODEL: dict[str, Any] = {
    "network": {"name": "r2plus1d_18"},
    "clip": {"frames": 8, "every": 8, "size": 112, "rand_augment": None},
}


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("videos", type=Path)
    arguments.add_argument("--folder", type=Path, required=True, help="folder for caches and features")
    arguments.add_argument("--limit", type=int, default=40, help="number of videos to use")
    arguments.add_argument("--seconds", type=float, default=30, help="duration of each measurement")
    arguments.add_argument("--clip", type=Path, help="CLIP weights")
    args = arguments.parse_args()
    videos = [p for p in sorted(args.videos.rglob("*")) if p.suffix.lower() in VIDEO_SUFFIXES]
    videos = videos[:: max(1, len(videos) // args.limit)][: args.limit]
    result: dict[str, Any] = {"videos": len(videos), "source_mib": mib(videos)}
    model = Model.model_validate(MODEL)
    decoder = Decoding(videos, model)
    for encoding in ("jpeg", "raw"):
        paths = [args.folder / encoding / f"v{number}.h5" for number in range(len(videos))]
        begun = time.process_time()
        frames = sum(
            cache_clip(path.stem, video, "a", Cache.model_validate({"encoding": encoding}), path)
            for video, path in zip(videos, paths, strict=True)
        )
        result[encoding] = {
            "cache_mib": mib(paths),
            "frames": frames,
            "cpu_s_to_make": time.process_time() - begun,
        }
        learner = ClipsLearner(model, {"classes": ["a", "b"]})
        items = learner.items([str(path) for path in paths], (0,))
        result[encoding] |= rate(items.__getitem__, args.seconds)
        result[encoding]["clips_per_second_2_workers"] = fed(items, args.seconds)
    result["decoding"] = {
        **rate(decoder.__getitem__, args.seconds),
        "clips_per_second_2_workers": fed(decoder, args.seconds),
    }
    if args.clip:
        result["features"] = features(args, [str(args.folder / "jpeg" / f"v{n}.h5") for n in range(4)])
    print(json.dumps(result, indent=2))


class Decoding:
    """Training clips by decoding the whole file for each, as in the originals."""

    def __init__(self, videos: Sequence[Path], model: Model) -> None:
        self.videos, self.model = videos, model

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        turn, place = divmod(number, len(self.videos))
        order = np.random.default_rng([0, turn]).permutation(len(self.videos))
        random = np.random.default_rng([1, number])
        clip = self.model.clip
        frames = [frame.rgb for frame in read_frames(self.videos[order[place]])]
        numbers = dense_draw(len(frames), clip.frames, int(clip.every), random)
        chosen = torch.from_numpy(np.stack([frames[n] for n in numbers])).permute(0, 3, 1, 2)
        square = random_resized_crop(chosen, clip.size, clip.area, random)
        return {"clip": normalised(square, CLIP_MEAN, CLIP_STD), "label": torch.tensor(0)}


def features(args: argparse.Namespace, caches: Sequence[str]) -> dict[str, float]:
    """Seconds of a training step of EVL with and without stored features, batch 4."""
    if not args.clip.exists():
        config = CLIPVisionConfig(
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            patch_size=16,
        )
        CLIPVisionModel(config).save_pretrained(args.clip)
    values = {
        "network": {"name": "EVL", "weights": str(args.clip)},
        "clip": {"frames": 8, "every": 8, "rand_augment": None, "temporal_views": 1},
    }
    model = Model.model_validate({**values, "features": {"views": 2}})
    vision = make_vision(model)
    # On a CPU, time that other programs do not affect; a GPU's work is not part of the process's time.
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    paths = [args.folder / "features" / Path(path).name for path in caches]
    begun = clock()
    for cache, path in zip(caches, paths, strict=True):
        write_features(cache, model, vision, path)
    timings = {
        "store_s_per_view": (clock() - begun) / (3 * len(paths)),
        "mib_per_view": mib(paths) / (3 * len(paths)),
    }
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name, kind, files in (
        ("step_s_encoding", Model.model_validate(values), caches),
        ("step_s_stored", model, [str(path) for path in paths]),
    ):
        learner = ClipsLearner(kind, {"classes": ["a", "b", "c"]})
        network = learner.network().to(device)
        items = learner.items(files, (0,))
        optimiser = torch.optim.AdamW(network.parameters(), 1e-4)
        times = []
        for step in range(4):
            begun = clock()
            batch = {
                k: v.to(device) for k, v in default_collate([items[4 * step + n] for n in range(4)]).items()
            }
            optimiser.zero_grad()
            learner.loss(network, batch, torch.Generator())["loss"].backward()
            optimiser.step()
            times.append(clock() - begun)
        timings[name] = float(np.median(times[1:]))
    return timings


def rate(draw: Callable[[int], object], seconds: float) -> dict[str, float]:
    """Clips per second in this process, and CPU time per clip, which other programs do not affect."""
    draw(0)
    begun, used, number = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begun < seconds:
        number += 1
        draw(number)
    spent = time.process_time() - used
    return {
        "clips_per_second": number / (time.perf_counter() - begun),
        "cpu_ms_per_clip": 1000 * spent / number,
    }


def fed(items: Any, seconds: float, batch: int = 4) -> float:
    """Clips per second from the training loader with two workers."""
    feed = batches(items, 0, 10**6, batch, 2, pin=False)
    for _ in range(2):
        next(feed)
    begun, number = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        next(feed)
        number += batch
    speed = number / (time.perf_counter() - begun)
    feed.close()
    return speed


def mib(paths: Sequence[Path]) -> float:
    return sum(path.stat().st_size for path in paths) / 2**20


if __name__ == "__main__":
    main()
