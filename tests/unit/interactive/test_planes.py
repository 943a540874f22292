"""The mask of one plane: from extreme points, strokes, and corrections of what was seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from skimage.draw import disk, ellipse, line

from foldwise.systems.interactive.engines.candidates import outline, probability
from foldwise.systems.interactive.engines.planes import Plane

SHAPE = (96, 128)


def mask_of(pixels: tuple[Any, Any]) -> np.ndarray:
    """A mask of pixels as skimage.draw gives them, or of slices."""
    mask = np.zeros(SHAPE, bool)
    mask[pixels] = True
    return mask


def plane_of(image: np.ndarray, seen: np.ndarray | None = None, noise: float = 5, **given: Any) -> Plane:
    """A plane with pixels of 1 mm; nothing is marked or seen unless given."""
    noisy = image + np.random.default_rng(0).normal(0, noise, SHAPE)
    none = np.zeros(SHAPE, bool)
    values = {"inside": none, "outside": none, "box": None, **given}
    return Plane(noisy[None].astype(np.float32), np.ones(2), seen=none if seen is None else seen, **values)


def found_on(plane: Plane) -> np.ndarray:
    return probability(plane)[0] > 0.5


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.mark.parametrize("touched", [[[20, 20], [15, 15]], [[30, 12], [10, 22]], [[41, 0], [0, 31]]])
def test_an_outline_leaves_a_quarter_of_an_ellipse_in_each_corner(touched: list[list[float]]) -> None:
    """The box has 32 × 42 pixels. Between two places where it is touched, a corner of a × b is cut off.

    Of it (1 − π/4) · a · b is outside; for the third one this makes a diagonal shape.
    """
    (top, bottom), (left, right) = touched
    corners = [
        (right + 0.5) * (41.5 - top),
        (31.5 - right) * (41.5 - bottom),
        (31.5 - left) * (bottom + 0.5),
        (left + 0.5) * (top + 0.5),
    ]
    area = 32 * 42 - (1 - np.pi / 4) * sum(corners)
    points = outline(np.array([0, 0]), np.array([31, 41]), np.array(touched, float))
    shifted = np.roll(points, -1, 0)
    shoelace = abs((points[:, 0] * shifted[:, 1] - points[:, 1] * shifted[:, 0]).sum()) / 2
    assert shoelace == pytest.approx(area, rel=2e-3)
    for place in ((-0.5, top), (31.5, bottom), (left, -0.5), (right, 41.5)):
        assert np.abs(points - place).sum(1).min() < 1e-9


def test_extreme_points_of_a_slanted_object_without_contrast_outline_it() -> None:
    """The ellipse in the middle of its box has a Dice of 0.66."""
    truth = mask_of(ellipse(48, 64, 14, 40, rotation=np.pi / 5))
    rows, columns = np.nonzero(truth)
    ends = [rows.argmin(), rows.argmax(), columns.argmin(), columns.argmax()]
    inside = mask_of((rows[ends], columns[ends]))
    box = np.array([[rows.min(), columns.min()], [rows.max(), columns.max()]])
    outside = np.ones(SHAPE, bool)
    outside[box[0, 0] : box[1, 0] + 1, box[0, 1] : box[1, 1] + 1] = False
    found = found_on(plane_of(np.zeros(SHAPE), inside=inside, outside=outside, box=box))
    assert dice(found, truth) > 0.8


@pytest.mark.parametrize("rows", [1, 2])
def test_a_box_thinner_than_a_coarse_pixel_is_filled(rows: int) -> None:
    box = np.array([[40, 4], [39 + rows, 123]])
    outside = np.ones(SHAPE, bool)
    outside[40 : 40 + rows, 4:124] = False
    found = found_on(plane_of(100.0 * ~outside, outside=outside, box=box))
    # What is beyond the box within the same coarse pixels is cut off after the engine has answered.
    assert (found & ~outside).sum() > 0.8 * 120 * rows
    assert found.sum() <= 6 * 120


@pytest.mark.parametrize(("length", "radius"), [(14, 8), (44, 28)])
def test_a_stroke_along_the_middle_says_how_large_an_object_is(length: int, radius: int) -> None:
    """A disc within a larger one; its radius is nearer to half of the stroke's length."""
    small, large = mask_of(disk((48, 64), 8)), mask_of(disk((48, 64), 28))
    stroke = mask_of(line(48, 64 - length // 2, 48, 64 + length // 2))
    found = found_on(plane_of(100.0 * large + 60.0 * small, inside=stroke))
    assert dice(found, mask_of(disk((48, 64), radius))) > 0.95


def test_a_stroke_inside_a_part_that_is_missing_adds_this_part_only() -> None:
    """A thin vessel far from the mask, in lung."""
    main, vessel = mask_of(disk((30, 30), 18)), mask_of(ellipse(70, 100, 4, 12))
    image = -800.0 * ~(main | vessel)
    stroke = mask_of(line(70, 92, 70, 108))
    found = found_on(plane_of(image, seen=main, inside=stroke, middle=stroke))
    assert dice(found, main | vessel) > 0.95


def test_a_stroke_outside_drops_what_it_cuts_off_from_marks_that_were_right() -> None:
    """Two chambers and a bridge between them, all of the same grey value."""
    left, right = mask_of(disk((48, 30), 20)), mask_of(disk((48, 98), 20))
    bridge = mask_of((slice(42, 55), slice(45, 84)))
    seen = left | right | bridge
    outside = mask_of(line(40, 64, 56, 64))
    middle = mask_of(line(48, 20, 48, 40))
    plane = plane_of(100.0 * seen, seen=seen, inside=middle, outside=outside, middle=middle)
    found = found_on(plane)
    assert not (found & right).any()
    assert (found & left).sum() > 0.95 * left.sum()
    # If nothing says which part is right, both stay.
    both = found_on(plane_of(100.0 * seen, seen=seen, outside=outside))
    assert (both & right).sum() > 0.9 * right.sum()
    assert (both & left).sum() > 0.9 * left.sum()
