"""Regions of a case: prompts, key frames, agreement with given masks, and the review list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foldwise.files import CaseError, file_hash
from foldwise.hdf5 import content_of, open_hdf5
from foldwise.networks.medsam import MedSAM, load_medsam
from foldwise.systems.clips.cache import cache_clip
from foldwise.systems.clips.given import read_given
from foldwise.systems.clips.regions import RegionFacts, find_regions
from foldwise.systems.clips.settings import Cache, Regions
from foldwise.video.regions import iou
from foldwise.video.store import open_frames, read
from sam_weights import tiny_weights
from tiny_sam_video import save_tiny_network
from videos import write_video

COUNT, SIZE = 9, (64, 96)


def moving_disc() -> np.ndarray:
    """(frames, 64, 96) bool: a disc of radius 12 that moves one pixel per frame to the right."""
    rows, columns = np.indices(SIZE)
    return np.stack([(rows - 32) ** 2 + (columns - 40 - n) ** 2 <= 144 for n in range(COUNT)])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bright moving disc, at half the video's size."""
    folder = tmp_path_factory.mktemp("roi")
    frames = np.full((COUNT, *SIZE, 3), 30, np.uint8)
    frames[moving_disc()] = 210
    write_video(folder / "k.mp4", frames)
    path = folder / "cache" / "k.h5"
    cache_clip("k", folder / "k.mp4", "high", Cache(size=32, encoding="raw"), path)
    return path


def find(
    cache: Path, folder: Path, box: str = "", mask: Path | None = None, **settings: object
) -> RegionFacts:
    wanted = Regions.model_validate({"method": "threshold", "key_every": 4, **settings})
    return find_regions("k", cache, box, mask, wanted, folder / "r" / "k.h5", folder / "r" / "k.json")


def half(masks: np.ndarray) -> np.ndarray:
    return masks[..., ::2, ::2]


class TestPrompts:
    """Boxes from the sheet, a mask, or the fan."""

    def test_box_of_the_sheet(self, cache: Path, tmp_path: Path) -> None:
        facts = find(cache, tmp_path, "20 10 80 56")
        assert (facts.box_source, facts.box) == ("sheet", (10, 5, 40, 28))
        assert facts.keys == [0, 4, 8]
        assert facts.review == ""
        with open_hdf5(tmp_path / "r" / "k.h5") as file:
            masks = file["masks"][()].astype(bool)
            assert file["masks"].dtype == np.uint8
            assert np.isnan(file["score"][()]).all()
        truth = half(moving_disc())
        # Found in three frames, interpolated in six.
        assert min(iou(mask, real) for mask, real in zip(masks, truth, strict=True)) > 0.8
        assert facts.share == pytest.approx(truth.mean(), rel=0.1)

    def test_fan_without_a_prompt(self, cache: Path, tmp_path: Path) -> None:
        facts = find(cache, tmp_path, method="fan")
        assert facts.box_source == "fan"
        with open_hdf5(tmp_path / "r" / "k.h5") as file:
            assert file["masks"][()].min() == 1  # the whole frame is lit

    def test_given_mask_is_prompt_and_measure(self, cache: Path, tmp_path: Path) -> None:
        folder = tmp_path / "given"
        folder.mkdir()
        for number in (0, 8):
            Image.fromarray(moving_disc()[number].astype(np.uint8) * 255).save(folder / f"{number:04}.png")
        before = {path.name: file_hash(path) for path in folder.iterdir()}
        facts = find(cache, tmp_path, mask=folder)
        assert facts.box_source == "mask"
        assert facts.iou is not None
        # In a tight box, Otsu's threshold still finds the disc.
        assert facts.iou > 0.75
        assert facts.review == ""
        assert {path.name: file_hash(path) for path in folder.iterdir()} == before

    @pytest.mark.parametrize(
        ("box", "message"),
        [("0 0 97 10", "extends beyond the video, which is 96×64"), ("1 2 3", "four integers")],
    )
    def test_wrong_box(self, cache: Path, tmp_path: Path, box: str, message: str) -> None:
        with pytest.raises(CaseError, match=message):
            find(cache, tmp_path, box)

    @pytest.mark.parametrize("kind", ["one", "255", "16 bit", "32 bit", "float", "dark palette", "clear"])
    def test_given_mask_of_any_kind(self, cache: Path, tmp_path: Path, kind: str) -> None:
        truth = moving_disc()[0]
        small, path = truth.astype(np.uint8), tmp_path / "m.png"
        if kind == "float":
            path = tmp_path / "m.tif"
            image = Image.fromarray(truth * np.float32(0.4))
        elif kind == "dark palette":
            image = Image.fromarray(small).convert("P")
            image.putpalette([0, 0, 0, 0, 0, 3])
        elif kind == "clear":
            # White everywhere, and transparent outside.
            image = Image.fromarray(np.dstack([np.full((*SIZE, 3), 255, np.uint8), small * 255]))
        else:
            value = {"one": small, "255": small * 255, "16 bit": truth * np.uint16(1)}.get(kind)
            image = Image.fromarray(truth * np.int32(1) if value is None else value)
            path = path if value is not None else tmp_path / "m.tif"
        image.save(path)
        with open_frames(cache) as file:
            given = read_given(path, file, "k")
        assert list(given) == [0]
        assert (given[0] == truth[1::2, 1::2]).all()

    def test_mask_of_another_size(self, cache: Path, tmp_path: Path) -> None:
        Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "m.png")
        with pytest.raises(CaseError, match=r"case k: .*the mask is 5×5, the video 96×64"):
            find(cache, tmp_path, mask=tmp_path / "m.png")


class TestReview:
    """Cases that a person must review."""

    def test_disagreement(self, cache: Path, tmp_path: Path) -> None:
        """The given mask is elsewhere; the box of the sheet leads to the disc."""
        other = np.zeros(SIZE, np.uint8)
        other[50:60, 4:20] = 255
        Image.fromarray(other).save(tmp_path / "m.png")
        facts = find(cache, tmp_path, "20 10 80 56", tmp_path / "m.png")
        assert facts.iou == 0
        assert facts.review == "the new region and the given mask disagree: IoU 0.00"
        accepted = find(cache, tmp_path, "20 10 80 56", tmp_path / "m.png", agreement=0)
        assert accepted.review == ""

    def test_nothing_found(self, cache: Path, tmp_path: Path) -> None:
        facts = find(cache, tmp_path, "2 2 12 12")
        assert facts.review == "no region found"
        with open_hdf5(tmp_path / "r" / "k.h5") as file:
            assert not file.attrs["region_found"]


class TestFile:
    """The frame cache with masks."""

    def test_frames_are_the_caches(self, cache: Path, tmp_path: Path) -> None:
        folder = cache.parent.parent
        find_regions(
            "k", cache, "", None, Regions(method="fan"), folder / "r" / "k.h5", folder / "r" / "k.json"
        )
        with open_hdf5(folder / "r" / "k.h5") as regions, open_hdf5(cache) as file:
            assert np.array_equal(read(regions, [0, 5]), read(file, [0, 5]))
            assert regions.attrs["content"] != file.attrs["content"]
            assert json.loads(regions.attrs["provenance"])["method"] == "fan"
        moved = folder.rename(folder.with_name("elsewhere"))
        with open_hdf5(moved / "r" / "k.h5") as regions:
            assert read(regions, [3]).shape == (1, 32, 48, 3)
        moved.rename(folder)

    def test_content_follows_the_masks(self, cache: Path, tmp_path: Path) -> None:
        contents = []
        for box in ("20 10 80 56", "20 10 80 56", "30 10 60 56"):
            find(cache, tmp_path, box)
            contents.append(content_of(tmp_path / "r" / "k.h5"))
        assert contents[0] == contents[1] != contents[2]


def test_medsam(cache: Path, tmp_path: Path) -> None:
    """The network is applied to key frames with the scaled box; its weights and scores are recorded."""
    torch.save(tiny_weights(), tmp_path / "medsam.pth")
    facts = find(cache, tmp_path, "20 10 80 56", method="medsam", weights=tmp_path / "medsam.pth", smallest=0)
    assert len(facts.model) == 64
    assert facts.score is not None
    with open_hdf5(tmp_path / "r" / "k.h5") as file:
        scores = file["score"][()]
    assert np.isfinite(scores).tolist() == [n in (0, 4, 8) for n in range(COUNT)]
    assert facts.score == pytest.approx(float(scores[[0, 4, 8]].mean()))


def test_key_frames_at_once(tmp_path: Path) -> None:
    """A batch gives what single images give; sums in another order may differ in the last bits."""
    torch.save(tiny_weights(), tmp_path / "medsam.pth")
    network = MedSAM(load_medsam(tmp_path / "medsam.pth"))
    images = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), np.uint8)
    boxes = [(20, 10, 80, 56), (0, 0, 40, 30), (5, 5, 90, 60)]
    for found, image, box in zip(network.batch(list(images), boxes), images, boxes, strict=True):
        alone = network(image, box)
        assert found.score == pytest.approx(alone.score, rel=1e-4)
        assert (found.mask != alone.mask).mean() < 1e-3


def test_followed_through_the_clip(cache: Path, tmp_path: Path) -> None:
    weights = save_tiny_network(tmp_path / "sam2")
    wanted: Any = {"method": "sam2_video", "weights": weights, "smallest": 0}
    facts = find(cache, tmp_path, "20 10 80 56", **wanted)
    assert (facts.box_source, facts.keys, len(facts.model)) == ("sheet", [0], 64)
    folder = tmp_path / "given"
    folder.mkdir()
    for number in range(COUNT):
        # Nothing to see in frames 0 and 5.
        seen = moving_disc()[number] if number not in (0, 5) else np.zeros(SIZE, bool)
        if number in (0, 3, 5, 7):
            Image.fromarray(seen.astype(np.uint8) * 255).save(folder / f"{number}.png")
    facts = find(cache, tmp_path, mask=folder, **wanted)
    assert (facts.box_source, facts.keys, facts.empty, facts.iou) == ("mask", [3, 7], [0, 5], None)
    with open_hdf5(tmp_path / "r" / "k.h5") as file:
        masks, scores = file["masks"][()].astype(bool), file["score"][()]
    assert not masks[[0, 5]].any()
    assert iou(masks[3], moving_disc()[3, 1::2, 1::2]) == 1
    assert np.isnan(scores).tolist() == [n in (3, 7) for n in range(COUNT)]


class TestGivenMasks:
    """Which frame a mask is for, and whether it marks anything."""

    @staticmethod
    def write(folder: Path, masks: dict[int, np.ndarray]) -> Path:
        folder.mkdir()
        for number, mask in masks.items():
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"frame_{number:06}.png")
        return folder

    def test_numbered_from_one(self, cache: Path, tmp_path: Path) -> None:
        folder = self.write(tmp_path / "m", {n + 1: mask for n, mask in enumerate(moving_disc())})
        with open_frames(cache) as file:
            given = read_given(folder, file, "k")
        assert sorted(given) == list(range(COUNT))
        assert all((given[n] == moving_disc()[n, 1::2, 1::2]).all() for n in range(COUNT))

    def test_a_mask_without_a_frame(self, cache: Path, tmp_path: Path) -> None:
        folder = self.write(tmp_path / "m", {n: moving_disc()[0] for n in (0, 4, 9)})
        with pytest.raises(CaseError, match=r"case k: .*frame_000009\.png: a mask without a frame: .*0 to 8"):
            find(cache, tmp_path, mask=folder)

    def test_from_one_where_the_cache_holds_some_frames(self, tmp_path: Path) -> None:
        frames = np.full((COUNT, *SIZE, 3), 30, np.uint8)
        write_video(tmp_path / "k.mp4", frames, fps=25)
        cache_clip("k", tmp_path / "k.mp4", "high", Cache(fps=5), tmp_path / "k.h5")
        with open_frames(tmp_path / "k.h5") as file:
            assert file["number"][()].tolist() == [0, 5]
            from_one = self.write(tmp_path / "one", {n + 1: moving_disc()[0] for n in range(COUNT)})
            with pytest.raises(CaseError, match=r"numbered 1 to 9, .* number the masks from 0"):
                read_given(from_one, file, "k")
            from_zero = self.write(tmp_path / "zero", dict.fromkeys(range(COUNT), moving_disc()[0]))
            assert sorted(read_given(from_zero, file, "k")) == [0, 1]

    def test_nothing_to_see(self, cache: Path, tmp_path: Path) -> None:
        """No region is made up in a frame whose mask is empty, nor beyond it; the case is accepted."""
        disc, nothing = moving_disc(), np.zeros(SIZE, bool)
        folder = self.write(tmp_path / "m", {0: disc[0], 3: disc[3], 4: nothing, 8: nothing})
        facts = find(cache, tmp_path, mask=folder)
        with open_hdf5(tmp_path / "r" / "k.h5") as file:
            masks = file["masks"][()].astype(bool)
            assert file.attrs["region_found"]
        assert masks.any((1, 2)).tolist() == [True] * 4 + [False] * 5
        assert min(iou(masks[n], half(disc)[n]) for n in range(4)) > 0.75
        assert (facts.empty, facts.review) == ([4, 8], "")
        # The IoU of the masks that mark something, and the share of the frames that may show it.
        shown = [n for n in range(COUNT) if n not in (4, 8)]
        assert facts.share == pytest.approx(masks[shown].mean())
        assert facts.iou == pytest.approx(np.mean([iou(masks[n], half(disc)[n]) for n in (0, 3)]), abs=0.1)

    def test_a_box_holds_on_both_sides(self, cache: Path, tmp_path: Path) -> None:
        folder = self.write(tmp_path / "m", {4: np.zeros(SIZE, bool)})
        find(cache, tmp_path, "20 10 80 56", folder)
        with open_hdf5(tmp_path / "r" / "k.h5") as file:
            masks = file["masks"][()].astype(bool)
        assert masks.any((1, 2)).tolist() == [n != 4 for n in range(COUNT)]

    @pytest.mark.parametrize("method", ["threshold", "fan"])
    def test_all_empty(self, cache: Path, tmp_path: Path, method: str) -> None:
        folder = self.write(tmp_path / "m", dict.fromkeys(range(COUNT), np.zeros(SIZE, bool)))
        facts = find(cache, tmp_path, mask=folder, method=method)
        assert (facts.share, facts.iou, facts.review) == (0, None, "")
        with open_hdf5(tmp_path / "r" / "k.h5") as file:
            assert not file["masks"][()].any()
            assert not file.attrs["region_found"]

    def test_jpeg(self, cache: Path, tmp_path: Path) -> None:
        Image.fromarray(moving_disc()[0].astype(np.uint8) * 255).save(tmp_path / "m.jpg", quality=75)
        with open_frames(cache) as file:
            [given] = read_given(tmp_path / "m.jpg", file, "k").values()
        assert iou(given, moving_disc()[0, 1::2, 1::2]) > 0.97

    @pytest.mark.parametrize("mode", ["L", "RGB"])
    def test_a_photograph_is_no_mask(self, cache: Path, tmp_path: Path, mode: str) -> None:
        ramp = np.broadcast_to(np.linspace(0, 255, SIZE[1]).astype(np.uint8), SIZE)
        Image.fromarray(ramp.copy()).convert(mode).save(tmp_path / "m.png")
        with pytest.raises(CaseError, match=r"k: .*m\.png: not a mask of two values: \d+ % of"):
            find(cache, tmp_path, mask=tmp_path / "m.png")
