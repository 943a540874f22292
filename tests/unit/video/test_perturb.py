"""Changes of ultrasound pictures: values by hand, beams of known sectors, and the statistics of speckle."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from foldwise.video.perturb import SHADOW_DB, Area, area_of, attenuation, gain, shadow, speckle

SEED = [0, 7]


def sector(height: int = 200, width: int = 240, *, apex: int = -40, half: float = 0.6) -> np.ndarray:
    """A convex probe's picture: the beams of ± `half` rad, from 60 to 230 pixels below their common point."""
    rows, columns = np.indices((height, width))
    radius, angle = np.hypot(columns - width / 2, rows - apex), np.arctan2(columns - width / 2, rows - apex)
    return (abs(angle) < half) & (radius > 60) & (radius < 230)


def rectangle() -> np.ndarray:
    mask = np.zeros((40, 30), bool)
    mask[5:36, 4:25] = True
    return mask


def grey(value: int, count: int = 2, shape: tuple[int, int] = (40, 30)) -> np.ndarray:
    return np.full((count, *shape, 3), value, np.uint8)


class TestArea:
    """Depth along beams, and their order from left to right."""

    def test_a_linear_probe_has_parallel_beams(self) -> None:
        area = area_of(rectangle())
        assert area.depth[5, 10] == 0
        assert area.depth[20, 4] == area.depth[20, 24] == 0.5
        assert area.depth[35, 24] == 1
        assert area.across[9, [4, 14, 24]].tolist() == [0, 0.5, 1]

    def test_a_sector_s_beams_meet_above_it(self) -> None:
        mask = sector()
        area = area_of(mask)
        rows, columns = np.indices(mask.shape)
        radius, angle = np.hypot(columns - 120, rows + 40), np.arctan2(columns - 120, rows + 40)
        depth = (radius - radius[mask].min()) / np.ptp(radius[mask])
        assert abs(area.depth - depth)[mask].max() < 0.02
        assert abs(area.across - (angle + 0.6) / 1.2)[mask].max() < 0.02

    def test_without_echoes_it_is_the_whole_frame(self) -> None:
        area = area_of(np.zeros((10, 12), bool))
        assert area.mask.all()
        assert area.depth[[0, 9], 3].tolist() == [0, 1]


class TestChanges:
    """60 dB over 255 grey values: 6 dB are 25.5 of them."""

    area = area_of(rectangle())

    def test_gain(self) -> None:
        frames = grey(100)
        frames[:, 20, 10] = 0
        frames[0, 21, 10] = (250, 10, 100)
        louder = gain(frames, self.area, 6, 60)
        assert louder[0, 20, 12].tolist() == [126] * 3, "125.5, rounded to even"
        assert louder[0, 20, 10].tolist() == [0] * 3, "black stays black"
        assert louder[0, 0, 0].tolist() == [100] * 3, "outside the image area"
        assert louder[0, 21, 10].tolist() == [255, 36, 126]
        assert gain(frames, self.area, -6, 60)[0, 21, 10].tolist() == [224, 0, 74]
        assert gain(frames, self.area, -6, 120)[0, 20, 12].tolist() == [87] * 3
        assert frames[0, 20, 12].tolist() == [100] * 3, "the frames themselves are unchanged"

    def test_attenuation_grows_with_depth(self) -> None:
        lost = attenuation(grey(200), self.area, 12, 60)[1, :, 10, 0]
        assert lost[[5, 20, 35]].tolist() == [200, 174, 149]  # 0, 25.5 and 51 grey values less
        assert (np.diff(lost[5:36].astype(int)) <= 0).all()

    def test_a_shadow_is_a_dark_sector_below_a_depth(self) -> None:
        area = area_of(sector())
        frames = grey(255, 3, (200, 240))
        narrow, wide = (shadow(frames, area, width, 60, SEED) for width in (0.1, 0.3))
        assert (narrow == narrow[0]).all(), "the same in all frames"
        for width, changed in ((0.1, narrow), (0.3, wide)):
            dark = changed[0, ..., 0] < 255
            assert np.ptp(area.across[dark]) == pytest.approx(width, abs=0.02)
            assert 0.1 <= area.depth[dark].min() <= 0.5
            assert area.depth[dark].max() > 0.99
            assert changed.min() == 255 - round(255 * SHADOW_DB / 60)
        assert (wide <= narrow).all(), "a wider one contains a narrower one"
        assert not np.array_equal(narrow, shadow(frames, area, 0.1, 60, [0, 8]))

    @pytest.mark.parametrize(("contrast", "in_db"), [(1, 5.57), (0.25, 1.10)])
    def test_speckle_has_its_known_deviation(self, contrast: float, in_db: float) -> None:
        """Rayleigh's amplitude on a logarithmic scale has 5.57 dB; little noise has 10 / ln 10 · contrast."""
        area = Area(np.ones((160, 160), bool), np.zeros((160, 160)), np.zeros((160, 160)))
        frames = grey(128, 2, (160, 160))
        noisy = speckle(frames, area, contrast, 60, SEED, [3, 4], 3)[..., 0].astype(float)
        db = (noisy - 128) * 60 / 255
        assert db.std() == pytest.approx(in_db, rel=0.08)
        assert (10 ** (db / 10)).mean() == pytest.approx(1, abs=0.06)
        # Noise that is smoothed by a Gaussian of this width falls to half at the width over √2: 2.1 pixels.
        spectrum = abs(np.fft.fft2(db[0] - db[0].mean())) ** 2
        near = np.fft.ifft2(spectrum).real[0] / np.fft.ifft2(spectrum).real[0, 0]
        assert near[1] > 0.5 > near[3]

    def test_every_frame_has_its_own_speckle(self) -> None:
        frames = grey(128, 4)
        noisy = speckle(frames, self.area, 0.5, 60, SEED, [3, 4, 4, 9], 2)
        assert np.array_equal(noisy[1], noisy[2]), "the same frame, twice"
        assert not np.array_equal(noisy[0], noisy[1])
        assert np.array_equal(noisy[3], speckle(frames, self.area, 0.5, 60, SEED, [9] * 4, 2)[0])
        outside = ~self.area.mask
        assert (noisy[:, outside] == 128).all()

    def test_larger_grains_are_smoother(self) -> None:
        area = Area(np.ones((80, 80), bool), np.zeros((80, 80)), np.zeros((80, 80)))
        fine, coarse = (
            speckle(grey(128, 1, (80, 80)), area, 0.5, 60, SEED, [0], grain)[0, ..., 0].astype(float)
            for grain in (1.5, 6)
        )
        assert abs(ndimage.sobel(coarse)).mean() < 0.6 * abs(ndimage.sobel(fine)).mean()

    def test_nothing_changes_without_strength(self) -> None:
        frames = grey(77)
        for same in (
            gain(frames, self.area, 0, 60),
            attenuation(frames, self.area, 0, 60),
            shadow(frames, self.area, 0, 60, SEED),
            speckle(frames, self.area, 0, 60, SEED, [0, 1], 3),
        ):
            assert np.array_equal(same, frames)
