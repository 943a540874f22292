"""Generated ultrasound-like clips: a fan of speckle whose class is a band's position and brightness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from videos import write_video

CLASSES = ["high", "low"]


def frames_of(label: str, seed: int, count: int = 8, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """Frames (count, *size, 3) uint8: speckle in a trapezoid, a bright band above or a faint one below."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices(size)
    fan = (np.abs(columns - size[1] / 2) < 6 + 0.45 * rows) & (rows > 2) & (rows < size[0] - 3)
    middle = (0.3 if label == "high" else 0.7) * size[0]
    frames = np.zeros((count, *size, 3), np.uint8)
    for number, frame in enumerate(frames):
        speckle = random.integers(25, 80, size)
        band = np.abs(rows - middle - np.sin(number)) < 4
        frame[fan] = (speckle + (150 if label == "high" else 50) * band)[fan][:, None]
    return frames


def write_clips(folder: Path, cases: int = 6, clips: int = 1) -> Path:
    """Videos of alternating classes, `clips` per patient, and their sheet."""
    suffixes = (("mp4", "libx264"), ("avi", "mpeg4"), ("mov", "libx264"))
    lines = ["case,group,video,label"]
    for number in range(cases):
        label = CLASSES[number % 2]
        for part in range(clips):
            suffix, codec = suffixes[number % 3]
            name = f"k{number}_{part}"
            write_video(folder / f"{name}.{suffix}", frames_of(label, 10 * number + part), codec=codec)
            lines.append(f"{name},p{number},{name}.{suffix},{label}")
    sheet = folder / "clips.csv"
    sheet.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return sheet


def settings_of(sheet: Path, **more: Any) -> dict[str, Any]:
    """An experiment on a sheet with a network of a few channels."""
    return {
        "experiment": "tiny",
        "system": "clips",
        "data": {"sheet": str(sheet), "classes": CLASSES},
        "cache": {"size": 32},
        "split": {"folds": 2, "validation": 0.5},
        "models": {"small": SMALL},
        **more,
    }


SMALL: dict[str, Any] = {
    "network": {
        "name": "FrameAverage",
        "network": {"name": "DenseNet", "init_features": 4, "growth_rate": 4, "block_config": [1, 1]},
    },
    "clip": {"frames": 3, "every": "segments", "size": 32, "area": [0.6, 1], "rand_augment": None},
    "training": {
        "epochs": 1,
        "steps_per_epoch": 2,
        "batch": 2,
        "validate_every": 1,
        "validation": {"samples": 2},
    },
}
