"""The forecast of memory for predictions."""

from typing import Any

import pytest

from foldwise.forecast import TORCH_MIB, Step
from foldwise.overlap import BEHIND
from foldwise.settings import validate
from foldwise.systems.segmentation.held import KEPT_BYTES, held_bytes
from foldwise.systems.segmentation.settings import Settings
from foldwise.systems.segmentation.system import Segmentation
from foldwise.volumes.size import Size

NOTHING = Step(0, 0, 0, 0)


def settings(classes: int, **model: Any) -> Settings:
    labels = {f"c{n}": n for n in range(1, 1 + classes)}
    values = {
        "experiment": "x",
        "data": {"sheet": "x.csv", "labels": labels},
        "models": {"unet": {"patch": [96, 96, 96], **model}},
    }
    return validate(Settings, values)


def scan(*shape: int, channels: int = 1) -> Size:
    return Size(shape, (0.8, 0.8, 1.0), channels, True)


@pytest.mark.parametrize("stage", ["test", "ensemble", "predict"])
def test_118_classes_of_a_chest_ct_fit_into_32_gib(stage: str) -> None:
    """With a forward pass of 1.5 GiB: the outputs of two windows, and as much again."""
    many = settings(118)
    mib = Segmentation().footprint.model_mib(
        stage, many, "unet", [scan(512, 512, 300)], Step(10**7, 0, 0, 3 * 2**29)
    )
    assert 16 * 1024 < mib <= 32 * 1024


def test_what_is_held_by_hand() -> None:
    """A scan of 100×200×50 voxels, patches of 20×20×20, three classes and background."""
    size, known = scan(100, 200, 50, channels=2), settings(3, patch=[20, 20, 20])
    voxels, slab = 10**6, 10**5
    images = 2 * (4 + 10) * voxels
    sums = slab * (4 * 4 + 4)
    windows = 4 * 4 * 20**3
    parts = 20 * 2**21
    one = images + voxels + sums + windows + parts + KEPT_BYTES
    model = known.models["unet"]
    assert held_bytes(size, known, model, NOTHING, 0) == one
    # Probabilities of this case, and all of the last one.
    assert held_bytes(size, known, model, NOTHING, 1) == one + 3 * voxels + 4 * voxels
    assert held_bytes(size, known, model, NOTHING, 5) == one + 6 * voxels + 7 * voxels
    flat = settings(3, patch=[20, 20, 1], dimensions="2d", slice_axis="z")
    sums, windows = voxels // 50 * (4 * 4 + 4), 4 * 4 * 20**2
    assert held_bytes(size, flat, flat.models["unet"], NOTHING, 0) == (
        images + voxels + sums + windows + parts + KEPT_BYTES
    )


def test_a_large_case_is_not_held_beside_the_next_one() -> None:
    known = settings(100)
    size = scan(512, 512, 300)
    beside = held_bytes(size, known, known.models["unet"], NOTHING, 1) - held_bytes(
        size, known, known.models["unet"], NOTHING, 0
    )
    assert beside == 100 * size.voxels + BEHIND


def test_a_scan_is_prepared_and_one_exported_while_one_is_predicted() -> None:
    known, size = settings(1), scan(256, 256, 100)
    footprint = Segmentation().footprint
    mib = {
        stage: footprint.model_mib(stage, known, "unet", [size], NOTHING)
        for stage in ("test", "ensemble", "predict")
    }
    assert TORCH_MIB < mib["test"] <= mib["ensemble"]
    assert mib["predict"] - mib["ensemble"] > 40 * size.voxels / 2**20
