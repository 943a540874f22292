"""Synthetic operations for tests: videos whose colours show phase and tools, annotated like Cholec80."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from foldwise.systems.surgical.annotations import write_phases, write_tools
from videos import write_video

PHASES = ("Preparation", "CalotTriangleDissection", "ClippingCutting")
TOOLS = ("Grasper", "Hook")
FPS = 5
NETWORK: dict[str, Any] = {
    "backbone": {"name": "shufflenet_v2_x0_5"},
    "window": 3,
    "crop": [28, 36],
    "hidden": 8,
    "training": {"epochs": 3, "steps_per_epoch": 2, "batch": 2, "validation": {"samples": 2}},
}
MODELS = {
    "cl": {**NETWORK, "kind": "mtrcnet_cl"},
    "tecno": {"kind": "temporal", "features": "cl", "training": {"epochs": 2}},
}


def operation(seed: int, seconds: int = 24) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames (n, 32, 40, 3) 5 per second, phases (n,), tools (n, 2); red: phase, green and blue: tools."""
    random = np.random.default_rng(seed)
    count = seconds * FPS
    cuts = sorted(random.choice(np.arange(count // 6, count - count // 6), 2, replace=False))
    phases = np.digitize(np.arange(count), cuts)
    tools = (random.random((seconds, 2)) < 0.5).repeat(FPS, 0).astype(int)
    frames = np.zeros((count, 32, 40, 3), np.uint8)
    frames[..., 0] = 60 + 80 * phases[:, None, None]
    frames[:, :16, :, 1] = 220 * tools[:, 0, None, None]
    frames[:, 16:, :, 2] = 220 * tools[:, 1, None, None]
    return frames, phases, tools


def write_operations(folder: Path, count: int, seconds: int = 24) -> Path:
    """Write a sheet of operations with tool rows once per second, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["case,group,video,phases,tools,split"]
    for number in range(count):
        frames, phases, tools = operation(number, seconds)
        name = f"op{number}"
        write_video(folder / f"{name}.mp4", frames, fps=FPS)
        write_phases(folder / f"{name}-phase.txt", np.arange(len(phases)), [PHASES[p] for p in phases])
        write_tools(folder / f"{name}-tool.txt", np.arange(0, len(tools), FPS), TOOLS, tools[::FPS])
        lines.append(f"{name},{name},{name}.mp4,{name}-phase.txt,{name}-tool.txt,")
    sheet = folder / "operations.csv"
    sheet.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return sheet


def data_settings(sheet: Path) -> dict[str, Any]:
    """The section `data` of these operations."""
    return {"sheet": str(sheet), "phases": list(PHASES), "tools": list(TOOLS), "annotation_fps": FPS}


def settings_of(sheet: Path) -> dict[str, Any]:
    """An experiment on these operations, with a model of one step and a temporal one on its features."""
    return {
        "experiment": "tiny",
        "system": "surgical",
        "data": data_settings(sheet),
        "cache": {"size": [32, 40]},
        "split": {"folds": 2},
        "models": MODELS,
    }
