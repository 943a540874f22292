"""Regions of a clip without a network: the ultrasound fan, the object in a box, the frames between keys."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage
from skimage import filters, measure, morphology

Box = tuple[int, int, int, int]
# The fan is searched on pictures of about this size, in pixels, which limits its precision.
FAN_SIZE = 256
# Scanners show black as nearly 0; speckle within the fan exceeds this at some time.
FAN_LEVEL = 12
# Parts of the fan beyond a shadow have at least this share of the change of its largest part.
FAN_SHARE = 0.05
# Grey values between the darkest and the brightest part of a box that contains more than noise.
LEAST_CONTRAST = 10


def find_fan(frames: np.ndarray) -> np.ndarray:
    """The area of a scanner's echoes: the sector or rectangle that changes, without text, rulers and logos.

    Over time most of the fan lights up, and little else changes. The brightest value of each pixel is
    thresholded, thin bridges to text are opened, and the components with most of the change are kept; a
    fan is nearly convex, so their convex hull includes its shadows.

    Args:
        frames: (n, height, width, 3) uint8, spread over the clip.

    Returns:
        (height, width) bool; empty if nothing lights up.
    """
    grey = frames.max(axis=-1)
    height, width = grey.shape[1:]
    step = max(1, min(height, width) // FAN_SIZE)
    small = grey[:, ::step, ::step]
    lit = filters.gaussian(small.max(axis=0).astype(np.float32), 1) > FAN_LEVEL
    radius = max(1, round(0.012 * min(small.shape[1:])))
    lit = morphology.opening(morphology.closing(lit, morphology.disk(radius)), morphology.disk(radius))
    # A still image has no change; only its brightness is available.
    change = small.astype(np.float32).std(axis=0) if len(small) > 1 else small[0].astype(np.float32)
    labels = measure.label(lit, connectivity=1)
    sums = np.bincount(labels.ravel(), weights=change.ravel())[1:]
    if not len(sums) or sums.max() == 0:
        return np.zeros((height, width), bool)
    kept = np.isin(labels, 1 + np.flatnonzero(sums >= FAN_SHARE * sums.max()))
    hull = morphology.convex_hull_image(kept)
    return np.repeat(np.repeat(hull, step, axis=0), step, axis=1)[:height, :width]


def object_in_box(image: np.ndarray, box: Box) -> np.ndarray:
    """The brighter part of a box: smoothed, thresholded by Otsu (1979), its largest component filled.

    Args:
        image: (height, width, 3) uint8.
        box: x0, y0, x1, y1 in pixels, the last ones excluded.

    Returns:
        (height, width) bool; empty if the box has no contrast.
    """
    x0, y0, x1, y1 = box
    mask = np.zeros(image.shape[:2], bool)
    inside = image[y0:y1, x0:x1].max(axis=-1).astype(np.float32)
    if inside.size == 0:
        return mask
    smooth = filters.gaussian(inside, max(1.0, 0.01 * min(inside.shape)))
    if np.ptp(smooth) < LEAST_CONTRAST:
        return mask
    bright = _largest_component(smooth > filters.threshold_otsu(smooth))
    mask[y0:y1, x0:x1] = ndimage.binary_fill_holes(bright)
    return mask


def box_of(mask: np.ndarray) -> Box | None:
    """The smallest box x0, y0, x1, y1 (the last ones excluded) around a mask; None for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def padded_box(box: Box, margin: float, height: int, width: int) -> Box:
    """A box with a margin on every side, as a share of its longer edge, within the frame."""
    extra = round(margin * max(box[2] - box[0], box[3] - box[1]))
    return (
        max(0, box[0] - extra),
        max(0, box[1] - extra),
        min(width, box[2] + extra),
        min(height, box[3] + extra),
    )


def key_frames(count: int, every: int) -> list[int]:
    """Frames on which a region is searched: each `every`-th, and the last."""
    return sorted({*range(0, count, every), count - 1})


def stretches(count: int, empty: Sequence[int]) -> list[range]:
    """The runs of frames, of `count`, between those in which there is nothing to see."""
    edges = [-1, *sorted(empty), count]
    return [range(a + 1, b) for a, b in itertools.pairwise(edges) if b > a + 1]


def propagate(found: Mapping[int, np.ndarray], count: int) -> np.ndarray:
    """Masks of all frames from those of some, by shape-based interpolation (Raya and Udupa 1990).

    Between two frames the signed distances to the outlines are averaged, weighted by the distance in time;
    before the first and after the last, its mask is repeated. Empty masks are skipped.

    Args:
        found: frame → (height, width) bool; at least one.
        count: total number of frames.

    Returns:
        (count, height, width) bool.
    """
    shape = next(iter(found.values())).shape
    masks = np.zeros((count, *shape), bool)
    keys = [key for key in sorted(found) if found[key].any()]
    if not keys:
        return masks
    masks[: keys[0] + 1], masks[keys[-1] :] = found[keys[0]], found[keys[-1]]
    distances = {keys[0]: _signed_distance(found[keys[0]])}
    for left, right in itertools.pairwise(keys):
        distances[right] = _signed_distance(found[right])
        masks[left], masks[right] = found[left], found[right]
        for frame in range(left + 1, right):
            share = (frame - left) / (right - left)
            masks[frame] = (1 - share) * distances[left] + share * distances[right] > 0
        del distances[left]
    return masks


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def spread(count: int, wanted: int) -> Sequence[int]:
    """At most `wanted` frame numbers, spread evenly from the first frame to the last."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, wanted))})


def _signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance to the outline in pixels, positive inside."""
    inside = np.asarray(ndimage.distance_transform_edt(mask), np.float32)
    return inside - np.asarray(ndimage.distance_transform_edt(~mask), np.float32)


def _largest_component(mask: np.ndarray) -> np.ndarray:
    labels = measure.label(mask, connectivity=1)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax()) & mask
