"""Classify clips with the networks in this folder; needs numpy, onnxruntime and SimpleITK.

    python runner.py FRAMES OUTPUT.csv

FRAMES is a folder of numbered images of one video, PNG or what else SimpleITK reads: all of its frames, or as
many per second as plan.json says (`fps`); or a folder of such folders. OUTPUT.csv gets a row per video with
its class and the probabilities of all classes.
"""

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from frames import find_frames, find_videos, read, resized
from numpy import ndarray as Array
from onnxruntime import InferenceSession, get_available_providers


def frames_of_views(plan: dict, count: int) -> Array:
    """Numbers of the frames (views, frames) of the clips spread over a video of so many frames."""
    frames, views, every = plan["frames"], plan["temporal_views"], plan["every"]
    if every == "segments":
        places = np.arange(frames)[None] + (np.arange(views)[:, None] + 0.5) / views
        return np.floor((count - 1) / frames * places + 0.5).astype(int)
    room = max(count - (every * (frames - 1) + 1), 0)
    starts = [room // 2] if views == 1 else [round(room * view / (views - 1)) for view in range(views)]
    return np.minimum(np.array(starts)[:, None] + every * np.arange(frames), count - 1)


def prepared(plan: dict, path: Path) -> list[Array]:
    """Squares (3, size, size) of a frame as the networks take them, one for each spatial view."""
    frame, size, shorter = read(path), plan["size"], plan["shorter"]
    if shorter is not None and min(frame.shape[:2]) > shorter:
        scale = shorter / min(frame.shape[:2])
        smaller = round(frame.shape[0] * scale), round(frame.shape[1] * scale)
        frame = resized(frame, smaller, plan["interpolation"])
    scale = size / min(frame.shape[:2])
    height, width = (max(size, round(n * scale)) for n in frame.shape[:2])
    frame = resized(frame, (height, width), bits=None)
    room, views = max(height, width) - size, plan["spatial_views"]
    starts = [room // 2] if views == 1 else [round(room * view / (views - 1)) for view in range(views)]
    tall = height > width
    squares = [
        frame[s : s + size] if tall else frame[:, s : s + size] for s in (starts if room else [0] * views)
    ]
    mean, std = (np.array(plan[name], np.float32)[:, None, None] for name in ("mean", "std"))
    return [(square.transpose(2, 0, 1).astype(np.float32) / 255 - mean) / std for square in squares]


def predict(plan: dict, networks: list[Any], paths: list[Path]) -> Array:
    """Mean probabilities (classes,) over views and networks."""
    if len(paths) < 2:
        raise ValueError("a clip needs at least two images")
    total: list[Array] = []
    for numbers in frames_of_views(plan, len(paths)):
        squares = {number: prepared(plan, paths[number]) for number in set(numbers.tolist())}
        clips = np.stack([squares[number] for number in numbers.tolist()])  # (frames, views, 3, size, size)
        for network in networks:
            for clip in clips.transpose(1, 2, 0, 3, 4):
                logits = network.run(None, {"clips": np.ascontiguousarray(clip[None])})[0][0]
                powers = np.exp(logits - logits.max())
                total.append(powers / powers.sum())
    return np.mean(total, axis=0)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, output = (Path(os.path.abspath(word)) for word in sys.argv[1:])  # noqa: PTH100
    here, devices = Path(__file__).parent, get_available_providers()
    plan, failed = json.loads((here / "plan.json").read_text("utf-8")), []
    networks = [InferenceSession(here / name, providers=devices) for name in plan["networks"]]
    videos = find_videos(source)
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "class", *(f"p({name})" for name in plan["classes"])])
        for folder in videos:
            try:
                found = predict(plan, networks, find_frames(folder))
            except Exception as error:  # the other videos go on
                failed.append(f"{folder.name}: {error}")
                continue
            values = [f"{value:.6f}" for value in found]
            writer.writerow([folder.name, plan["classes"][found.argmax()], *values])
    sys.exit("\n".join(failed) or 0)
