"""Find phases and tools in videos with the networks in this folder; needs numpy, onnxruntime, SimpleITK.

    python runner.py FRAMES OUTPUT

FRAMES is a folder of numbered images of one video, PNG or what else SimpleITK reads, as many per second as
plan.json says (`images_fps`), where missing numbers are a gap; or a folder of such folders. OUTPUT gets
<video>.csv: a row per frame with its time, its phase, the tools that are present, and all probabilities.
"""

import csv
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from frames import find_frames, find_videos, read, resized
from numpy import ndarray as Array
from onnxruntime import InferenceSession, get_available_providers


def find_border(frames: list[Array]) -> tuple[slice, slice]:
    """Rows and columns of the picture within a black border."""
    height, width = frames[0].shape[:2]
    bright = np.max([frame.max(2) for frame in frames], axis=0) > 24
    places = [np.flatnonzero(bright.mean(axis) > 0.02) for axis in (1, 0)]
    rows, columns = (slice(p[0], p[-1] + 1) if p.size else slice(0, None) for p in places)
    # A video that is dark almost everywhere has no border.
    small = bright[rows, columns].size < height * width / 4
    return (slice(0, height), slice(0, width)) if small else (rows, columns)


def prepared(plan: dict, paths: list[Path], picture: tuple[slice, slice]) -> Array:
    """Frames (n, 3, height, width) as the networks take them."""
    frames = np.stack([resized(read(path)[picture], plan["size"], plan["interpolation"]) for path in paths])
    y, x = ((have - want) // 2 for have, want in zip(plan["size"], plan["crop"], strict=True))
    frames = frames[:, y : y + plan["crop"][0], x : x + plan["crop"][1]].transpose(0, 3, 1, 2)
    mean, std = (np.array(plan[name], np.float32)[:, None, None] for name in ("mean", "std"))
    return (frames.astype(np.float32) / 255 - mean) / std


def time_of(plan: dict, paths: list[Path]) -> tuple[Array, float, Array]:
    """Seconds of the images by their numbers, the usual step, and which steps are gaps."""
    numbers = np.array([int(re.findall(r"\d+", path.stem)[-1]) for path in paths])
    first = numbers[0] if plan["first_image"] is None else min(plan["first_image"], numbers[0])
    times = (numbers - first) / plan["images_fps"]
    steps = np.diff(times)
    step = 1 / plan["images_fps"] if plan["fps"] else float(np.median(steps)) if steps.size else 0.0
    longest = 1.5 * step if plan["longest_step"] is None else plan["longest_step"]
    return times, step, steps > longest * (1 + 1e-6)


def on_grid(plan: dict, times: Array, step: float, gaps: Array) -> tuple[Array, Array]:
    """Places of a grid in time: the frame that each shows, and the places of the frames."""
    if len(times) < 2 or step <= 0:
        return np.arange(len(times)), np.arange(len(times))
    taken = np.maximum(np.diff(np.rint((times - times[0]) / step)), 1).astype(int)
    # Long gaps are shortened, the more of them the shorter.
    free = max(0, plan["grid"]["places"] - len(times)) // max(1, gaps.sum())
    taken[gaps] = np.minimum(taken[gaps], max(1, min(plan["grid"]["longest_gap"], free)))
    places = np.concatenate([[0], np.cumsum(taken)])
    return np.searchsorted(places, np.arange(places[-1] + 1), side="right") - 1, places


def answers(plan: dict, head: Any, features: Array, paths: list[Path]) -> dict[str, Array]:
    """Logits (n, …) of every frame from the features (n, width) of all."""
    times, step, gaps = time_of(plan, paths)
    if plan["window"] is None:  # the head sees the whole video
        shown, places = on_grid(plan, times, step, gaps)
        found = [part[0][places] for part in head.run(None, {"features": features[shown][None]})]
        return dict(zip(plan["outputs"], found, strict=True))
    # The last frame of each window, and all of the first one's. Windows do not reach beyond a gap.
    runs = np.concatenate([[0], np.cumsum(gaps)])
    starts = np.searchsorted(runs, runs)
    length = min(plan["window"], len(features))
    early = length - 1 if starts[length - 1] == 0 else 0
    ends = np.arange(early, len(features))
    windows = np.maximum(ends[:, None] + np.arange(1 - length, 1), starts[ends][:, None])
    batches = [windows[first : first + 256] for first in range(0, len(windows), 256)]
    parts = [head.run(None, {"features": features[batch]}) for batch in batches]
    found = [
        np.concatenate([part[0][0, :early], *(batch[:, -1] for batch in part)])
        for part in zip(*parts, strict=True)
    ]
    return dict(zip(plan["outputs"], found, strict=True))


def softmax(logits: Array) -> Array:
    """Probabilities that exclude each other."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def predict(plan: dict, networks: list[tuple[Any, Any]], paths: list[Path]) -> tuple[Array, Array]:
    """Mean probabilities of the phases (n, phases) and tools (n, tools) of a video's frames."""
    picture = slice(None), slice(None)
    if plan["cut_border"]:
        places = np.unique(np.linspace(0, len(paths) - 1, 12).astype(int))
        picture = find_border([read(paths[place]) for place in places])
    parts: list[list[Array]] = [[] for _ in networks]
    for first in range(0, len(paths), plan["batch"]):
        frames = prepared(plan, paths[first : first + plan["batch"]], picture)
        for found, (trunk, _) in zip(parts, networks, strict=True):
            found.append(trunk.run(None, {"frames": frames})[0])
    phases, tools = [], []
    for found, (_, head) in zip(parts, networks, strict=True):
        logits = answers(plan, head, np.concatenate(found), paths)
        phases.append(softmax(logits["phase"]) if "phase" in logits else np.zeros((len(paths), 0)))
        both = [1 / (1 + np.exp(-logits[name])) for name in ("tool", "mapped") if name in logits]
        tools.append(np.mean(both, axis=0) if both else np.zeros((len(paths), 0)))
    return np.mean(phases, axis=0), np.mean(tools, axis=0)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, output = (Path(os.path.abspath(word)) for word in sys.argv[1:])  # noqa: PTH100
    here, devices = Path(__file__).parent, get_available_providers()
    plan, failed = json.loads((here / "plan.json").read_text("utf-8")), []
    pairs = [[InferenceSession(here / name, providers=devices) for name in two] for two in plan["networks"]]
    networks = [(trunk, head) for trunk, head in pairs]
    output.mkdir(parents=True, exist_ok=True)
    videos = find_videos(source)
    for folder in videos:
        try:
            paths = find_frames(folder)
            phase, tool = predict(plan, networks, paths)
            times = time_of(plan, paths)[0]
        except Exception as error:  # the other videos go on
            failed.append(f"{folder.name}: {error}")
            continue
        with (output / f"{folder.name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            scores = [f"p({name})" for name in (*plan["phases"], *plan["tools"])]
            writer.writerow(
                ["frame", "seconds", *(["phase"] if plan["phases"] else []), *plan["tools"], *scores]
            )
            for path, time, p, t in zip(paths, times, phase, tool, strict=True):
                named = [plan["phases"][p.argmax()]] if plan["phases"] else []
                present = (t >= plan["threshold"]).astype(int)
                probabilities = (f"{value:.6f}" for value in (*p, *t))
                writer.writerow([path.name, f"{time:.3f}", *named, *present, *probabilities])
    sys.exit("\n".join(failed) or 0)
