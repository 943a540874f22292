"""Regions of a case: prompts, key frames, agreement with given masks, and the review list."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foldwise.files import CaseError, file_hash
from foldwise.hdf5 import content_of, open_hdf5
from foldwise.systems.clips.cache import cache_clip
from foldwise.systems.clips.regions import RegionFacts, find_regions, read_given
from foldwise.systems.clips.settings import Cache, Regions
from foldwise.video.regions import iou
from foldwise.video.store import open_frames, read
from sam_weights import tiny_weights
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
