"""What all networks over the frames of a whole video share.

Each takes features (B, n, width) of frames on a regular time grid, and returns logits (stages, B, n,
classes); the loss is the mean over the stages, and the last one is the result. `mode` says what an output may
depend on:

* online: only its own frame and earlier ones, as during an operation;
* offline: the whole video, as in a review afterwards. Scores of the two modes are not comparable.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Mode = Literal["online", "offline"]


def clip_windows(run: np.ndarray, frames: int, mode: Mode, every: int = 1) -> np.ndarray:
    """Frames that a clip network sees for each frame of a video, (n, frames).

    Args:
        run: (n,) increasing, equal for frames without a gap between them; no clip crosses a gap.
        frames: frames of a clip.
        mode: online: the clip ends at the frame; offline: the frame is in its middle (with an even number,
            the first of the later half). Beyond the run, its first or last frame is repeated.
        every: distance of two frames of a clip.
    """
    steps = np.arange(frames) - (frames - 1 if mode == "online" else frames // 2)
    first, end = (np.searchsorted(run, run, side=side)[:, None] for side in ("left", "right"))
    return (np.arange(len(run))[:, None] + every * steps).clip(first, end - 1)
