"""Memory that predicting whole volumes takes, counted from the code of inference.py."""

from __future__ import annotations

from math import ceil, prod

from foldwise.forecast import Step
from foldwise.overlap import BEHIND
from foldwise.systems.segmentation.settings import Model, Settings
from foldwise.systems.volumes import cached_grid
from foldwise.volumes.size import Size

# Bytes per voxel and channel of the present image, of the next one, and of copies while it is normalised.
READ_BYTES = 14
# Outputs that become probabilities at once, and bytes that each of them takes with its copies.
CHUNK = 2**21
PART_BYTES = 20
# What the allocator keeps of blocks that were freed, as measured.
KEPT_BYTES = 2**27


def held_bytes(size: Size, settings: Settings, model: Model, step: Step, networks: int) -> float:
    """Bytes held while a case is predicted, the next one read and the last one written.

    Args:
        size: of the case.
        settings: of the experiment.
        model: of the experiment.
        step: of the model.
        networks: whose probabilities are averaged; 0: labels are kept alone, for a validation.
    """
    grid, patch = cached_grid(size, settings.cache), list(model.patch)
    across = "xyz".index(model.slice_axis)
    if model.dimensions == "slab":
        patch = [n if axis == across else ceil(grid[axis]) for axis, n in enumerate(patch)]
    elif model.dimensions != "3d":
        patch[across] = 1
    # Outputs are added up in a slab as thick as a window, across the axis with most windows. Where grids are
    # turned is not known here, so in 3-D the longest axis and the longest edge are taken.
    thick = max(patch) / max(grid) if model.dimensions == "3d" else patch[across] / grid[across]
    names = len(settings.data.targets().names)
    outputs = names + 1
    voxels = prod(max(n, p) for n, p in zip(grid, patch, strict=True))
    slab = voxels * min(1, thick)
    part = max(CHUNK, outputs * slab / patch[across])
    inference = model.inference
    # A weighted window, and outputs of mirror images; the outputs themselves are in the forward pass.
    windows = outputs * prod(patch) * (1 + (2 * inference.batch if inference.mirror else 0))
    forward = (step.forward + 2 * step.largest) * inference.batch / model.training.batch
    held = KEPT_BYTES + 4 * (outputs + 1) * slab + PART_BYTES * part + 4 * windows + forward
    # The image, the next one, and copies while that one is normalised; labels.
    held += voxels * (READ_BYTES * size.channels + 1)
    if networks:
        stored = voxels * names * (1 if networks == 1 else 2)
        held += stored + min(BEHIND, stored + voxels)
    return held
