"""The fan, the object in a box, and masks between key frames, without a network."""

from __future__ import annotations

import numpy as np
import pytest

from foldwise.video.regions import (
    box_of,
    find_fan,
    iou,
    key_frames,
    object_in_box,
    padded_box,
    propagate,
    spread,
)


def disc(shape: tuple[int, int], y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.indices(shape)
    return np.asarray((rows - y) ** 2 + (columns - x) ** 2 <= radius**2)


def sector(shape: tuple[int, int] = (120, 160)) -> np.ndarray:
    """A convex probe's sector: 80° wide from an apex above the frame."""
    rows, columns = np.indices(shape)
    y, x = rows + 30.0, columns - 80.0
    distance, angle = np.hypot(y, x), np.abs(np.arctan2(x, y))
    return np.asarray((angle < np.radians(40)) & (distance > 45) & (distance < 140))


class TestFan:
    """The area that a scanner shows."""

    def test_sector_without_its_text(self) -> None:
        random = np.random.default_rng(0)
        fan = sector()
        frames = np.zeros((8, 120, 160, 3), np.uint8)
        frames[:, fan] = random.integers(30, 120, (8, fan.sum(), 1), np.uint8)
        frames[:, 70:110, 70:80] = 2  # an acoustic shadow, and a patient's name that never changes
        frames[:, 4:12, 2:40] = random.integers(0, 2, (8, 38, 1), np.uint8) * 255
        frames[1:, 4:12, 2:40] = frames[0, 4:12, 2:40]
        found = find_fan(frames)
        assert found.shape == fan.shape
        assert not found[4:12, 2:40].any()
        assert iou(found, fan) > 0.9
        assert found[70:110, 70:80].mean() > 0.95

    def test_black_video_has_none(self) -> None:
        assert not find_fan(np.zeros((3, 40, 50, 3), np.uint8)).any()

    def test_a_large_frame_is_searched_at_less_resolution(self) -> None:
        frames = np.zeros((3, 601, 803, 3), np.uint8)
        frames[:, 100:500, 200:700] = np.random.default_rng(0).integers(50, 200, (3, 400, 500, 1), np.uint8)
        found = find_fan(frames)
        assert found.shape == (601, 803)
        expected = np.zeros((601, 803), bool)
        expected[100:500, 200:700] = True
        assert iou(found, expected) > 0.95


class TestObject:
    """The substitute for a network."""

    def test_bright_disc_in_the_box(self) -> None:
        image = np.full((60, 80, 3), 40, np.uint8)
        wanted = disc((60, 80), 30, 40, 10)
        image[wanted] = 200
        image[2:12, 2:12] = 255  # outside the box
        image[30, 40] = 0  # a hole
        found = object_in_box(image, (25, 15, 56, 46))
        assert iou(found, wanted) > 0.9
        assert found[30, 40]
        assert not found[:12].any()

    def test_nothing_to_see(self) -> None:
        assert not object_in_box(np.full((20, 20, 3), 9, np.uint8), (2, 2, 12, 12)).any()


class TestPropagation:
    """Masks between key frames."""

    def test_growing_disc(self) -> None:
        """The distance to a disc's outline is radius − distance, so radii are interpolated."""
        found = {0: disc((60, 60), 30, 30, 6), 4: disc((60, 60), 30, 30, 18)}
        masks = propagate(found, 6)
        assert masks.shape == (6, 60, 60)
        assert np.array_equal(masks[0], found[0])
        assert np.array_equal(masks[4], found[4])
        assert np.array_equal(masks[5], found[4])
        for frame, radius in ((1, 9), (2, 12), (3, 15)):
            assert iou(masks[frame], disc((60, 60), 30, 30, radius)) > 0.93

    def test_moving_disc(self) -> None:
        masks = propagate({0: disc((60, 60), 20, 20, 8), 2: disc((60, 60), 24, 28, 8)}, 3)
        assert np.argwhere(masks[1]).mean(axis=0) == pytest.approx([22, 24], abs=0.3)

    def test_empty_keys_are_passed_over(self) -> None:
        mask = disc((20, 20), 10, 10, 4)
        masks = propagate({0: np.zeros((20, 20), bool), 3: mask, 6: np.zeros((20, 20), bool)}, 8)
        assert all(np.array_equal(frame, mask) for frame in masks)
        assert not propagate({0: np.zeros((5, 5), bool)}, 3).any()


def test_boxes() -> None:
    mask = np.zeros((10, 12), bool)
    assert box_of(mask) is None
    mask[2:5, 3:9] = True
    assert box_of(mask) == (3, 2, 9, 5)
    # A third of the longer edge 6 is 2 pixels, clipped at the frame.
    assert padded_box((3, 2, 9, 5), 1 / 3, 10, 12) == (1, 0, 11, 7)


def test_numbers_of_frames() -> None:
    assert key_frames(10, 4) == [0, 4, 8, 9]
    assert key_frames(9, 4) == [0, 4, 8]
    assert spread(10, 3) == [0, 4, 9]
    assert spread(2, 5) == [0, 1]


@pytest.mark.parametrize(
    ("a", "b", "expected"), [([1, 1, 0], [0, 1, 1], 1 / 3), ([0, 0], [0, 0], 1), ([1], [0], 0)]
)
def test_iou(a: list[int], b: list[int], expected: float) -> None:
    assert iou(np.array(a, bool), np.array(b, bool)) == pytest.approx(expected)
