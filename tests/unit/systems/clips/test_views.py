"""The frames of a clip, their views, and equal changes of all frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foldwise.video.views import (
    dense_draw,
    dense_views,
    normalised,
    rand_augment,
    random_resized_crop,
    segment_draw,
    segment_views,
    spatial_views,
)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class TestDense:
    """Frames at a fixed step."""

    def test_start_is_any_that_fits(self) -> None:
        # 4 frames, 3 apart, span 10 of 12 frames: the starts 0, 1 and 2.
        drawn = {tuple(dense_draw(12, 4, 3, random(seed))) for seed in range(50)}
        assert drawn == {(0, 3, 6, 9), (1, 4, 7, 10), (2, 5, 8, 11)}

    def test_short_video_repeats_its_last_frame(self) -> None:
        assert list(dense_draw(5, 4, 2, random())) == [0, 2, 4, 4]
        assert dense_views(5, 4, 2, 2).tolist() == [[0, 2, 4, 4], [0, 2, 4, 4]]

    def test_views_spread_evenly(self) -> None:
        # 2 frames, 4 apart, span 5 of 14 frames: starts 0 to 9; of three views 0, round(4.5) = 4 and 9.
        assert dense_views(14, 2, 4, 3).tolist() == [[0, 4], [4, 8], [9, 13]]
        assert dense_views(14, 2, 4, 1).tolist() == [[4, 8]]


class TestSegments:
    """One frame from each equal part."""

    def test_draws_from_each_part_with_both_ends(self) -> None:
        # (9 − 1) / 4 = 2: edges 0, 2, 4, 6, 8.
        drawn = np.array([segment_draw(9, 4, random(seed)) for seed in range(200)])
        assert [sorted(set(column)) for column in drawn.T] == [[0, 1, 2], [2, 3, 4], [4, 5, 6], [6, 7, 8]]

    def test_views_take_each_their_place_in_the_parts(self) -> None:
        assert segment_views(9, 4, 1).tolist() == [[1, 3, 5, 7]]
        # A quarter and three quarters of each part of length 2, halves up.
        assert segment_views(9, 4, 2).tolist() == [[1, 3, 5, 7], [2, 4, 6, 8]]

    @given(count=st.integers(2, 60), frames=st.integers(1, 20), views=st.integers(1, 4))
    def test_in_order_and_within(self, count: int, frames: int, views: int) -> None:
        for numbers in [*segment_views(count, frames, views), segment_draw(count, frames, random(count))]:
            assert len(numbers) == frames
            assert numbers.min() >= 0
            assert numbers.max() < count
            assert (np.diff(numbers) >= 0).all()


class TestSpace:
    """Squares of frames."""

    def test_views_along_the_longer_side(self) -> None:
        columns = torch.arange(12.0).expand(2, 1, 4, 12)
        squares = spatial_views(columns, 4, 3)
        assert [square[0, 0, 0].tolist() for square in squares] == [
            [0, 1, 2, 3],
            [4, 5, 6, 7],
            [8, 9, 10, 11],
        ]
        assert torch.equal(spatial_views(columns, 4, 1)[0], squares[1])
        upright = spatial_views(columns.transpose(-1, -2), 4, 3)
        assert torch.equal(upright[2], squares[2].transpose(-1, -2))

    def test_a_square_has_equal_views(self) -> None:
        clip = torch.rand(2, 3, 16, 16)
        first, *others = spatial_views(clip, 8, 3)
        assert first.shape == (2, 3, 8, 8)
        assert all(torch.equal(first, other) for other in others)

    def test_crop_is_the_same_of_all_frames(self) -> None:
        frame = torch.randint(0, 256, (1, 3, 20, 30), dtype=torch.uint8)
        cropped = random_resized_crop(frame.expand(4, -1, -1, -1), 8, (0.1, 0.5), random(3))
        assert cropped.shape == (4, 3, 8, 8)
        assert all(torch.equal(cropped[0], other) for other in cropped)
        again = random_resized_crop(frame.expand(4, -1, -1, -1), 8, (0.1, 0.5), random(3))
        assert torch.equal(cropped, again)

    def test_crop_takes_the_area_asked_for(self) -> None:
        # On a horizontal and a vertical ramp the mean step gives the part's width and height.
        ramp = torch.arange(200.0)
        clip = torch.stack([ramp.expand(200, 200), ramp[:, None].expand(200, 200)])[None]
        areas = []
        for seed in range(40):
            part = random_resized_crop(clip, 50, (0.2, 0.3), random(seed))[0]
            wide = float((part[0, :, 1:] - part[0, :, :-1])[:, 5:-5].mean()) * 50
            high = float((part[1, 1:] - part[1, :-1])[5:-5].mean()) * 50
            areas.append(wide * high / 200**2)
            assert 0.7 < wide / high < 1.4
        assert 0.18 < min(areas) < 0.23 < 0.27 < max(areas) < 0.32


class TestRandAugment:
    """Torchvision's RandAugment on a clip."""

    def test_same_draw_for_all_frames(self) -> None:
        frame = torch.randint(0, 256, (1, 3, 24, 24), dtype=torch.uint8)
        changed = 0
        for seed in range(6):
            augmented = rand_augment(frame.expand(3, -1, -1, -1), 2, 20, seed)
            assert torch.equal(augmented[0], augmented[1])
            assert torch.equal(augmented[0], augmented[2])
            changed += not torch.equal(augmented[0], frame[0])
        assert changed >= 4

    def test_depends_on_the_seed_alone(self) -> None:
        clip = torch.randint(0, 256, (2, 3, 24, 24), dtype=torch.uint8)
        torch.manual_seed(5)
        first, state = rand_augment(clip, 2, 20, 7), torch.random.get_rng_state()
        torch.manual_seed(6)
        assert torch.equal(rand_augment(clip, 2, 20, 7), first)
        torch.manual_seed(5)
        assert torch.equal(torch.random.get_rng_state(), state)


def test_normalised() -> None:
    clip = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    clip[:, 1] = 255
    values = normalised(clip, (0.5, 0.5, 0.25), (0.5, 0.25, 0.25))
    assert values.shape == (3, 2, 4, 4)
    assert values[:, 0, 0, 0].tolist() == pytest.approx([-1, 2, -1])
