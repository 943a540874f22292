"""Planning against nnU-Net's published rules, and its plan file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from foldwise.files import CaseError
from foldwise.plan import merged, with_plan
from foldwise.settings import validate
from foldwise.systems.segmentation.planning import (
    Fingerprint,
    complete,
    plan_model,
    plan_text,
    read_fingerprint,
    target_spacing,
    topology,
    training_gib,
)
from foldwise.systems.segmentation.settings import Model, Plan, Settings
from foldwise.volumes.crop import crop_case
from foldwise.volumes.settings import Cache, Crop
from foldwise.volumes.targets import Targets
from foldwise.volumes.volume import Volume, write_volume

ONE = Targets({"a": 1})
GREY = [{"percentile_0.5": -900.0, "percentile_99.5": 300.0, "mean": -200.0, "std": 150.0}]


# Lesions of 10 to 30 mm across, 5 to 15 mm high.
LESIONS = np.linspace((10, 10, 5), (30, 30, 15), 21)


def fingerprint(
    shape: Any, spacing: Any, ct: bool = False, cases: int = 60, nonzero: float = 1.0
) -> Fingerprint:
    shapes, spacings = np.full((cases, 3), shape), np.full((cases, 3), spacing)
    return Fingerprint(cases, shapes, spacings, list(GREY), ct, nonzero, LESIONS)


def test_the_hippocampus_is_planned_as_nnunet_plans_it() -> None:
    """Patch, levels, features and batch of nnU-Net v2.8 on the 45 volumes (3d_fullres)."""
    planned = plan_model(
        fingerprint((36, 51, 36), 1.0, cases=45), (1, 1, 1), {}, Targets({"a": 1, "p": 2}), 1, 4
    )
    assert planned["patch"] == [40, 56, 40]
    assert planned["training"] == {"batch": 2}
    assert planned["network"]["filters"] == [32, 64, 128, 256]
    assert planned["network"]["strides"] == [[1, 1, 1]] + 3 * [[2, 2, 2]]
    assert planned["network"]["kernel_size"] == 4 * [[3, 3, 3]]
    assert planned["intensity"] == [{"clip": None, "scale": "zscore"}]


def test_levels_of_thick_slices() -> None:
    """nnU-Net's prostate: planes are halved first, with flat kernels, until voxels are nearly cubes."""
    levels = topology([320, 320, 20], [0.62, 0.62, 3.6])
    assert levels.kernels[:3] == [[3, 3, 1], [3, 3, 1], [3, 3, 3]]
    assert levels.strides[:4] == [[1, 1, 1], [2, 2, 1], [2, 2, 1], [2, 2, 2]]
    # 20 slices are halved twice: below 8 there would be fewer than 4.
    assert np.prod(levels.strides, axis=0)[2] == 4


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.7, 0.7, 5), (3, 0.5, 0.5)])
@pytest.mark.parametrize("patch", [(8, 8, 8), (128, 96, 64), (20, 256, 256)])
def test_levels_leave_four_voxels(patch: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    levels = topology(patch, spacing)
    assert len(levels.kernels) == len(levels.strides) <= 6
    assert (np.array(patch) / levels.multiples >= 4).all()


@pytest.mark.parametrize("memory", [3, 4, 11, 24])
@pytest.mark.slow
def test_more_memory_never_shrinks_the_patch_and_is_kept_to(memory: float) -> None:
    seen = fingerprint((512, 512, 250), (0.8, 0.8, 1.25), ct=True)
    planned = plan_model(seen, (0.8, 0.8, 1.25), {}, ONE, 1, memory)
    assert training_gib(validate(Model, planned), ONE, 1) <= memory
    larger = plan_model(seen, (0.8, 0.8, 1.25), {}, ONE, 1, 2 * memory)
    assert np.prod(larger["patch"]) * larger["training"]["batch"] >= np.prod(planned["patch"]) * 2
    assert (np.array(planned["patch"]) % topology(planned["patch"], (0.8, 0.8, 1.25)).multiples == 0).all()


def test_ct_is_clipped_and_scaled_by_its_labelled_voxels() -> None:
    (intensity,) = plan_model(fingerprint(96, 1.0, ct=True), (1, 1, 1), {}, ONE, 1, 8)["intensity"]
    assert intensity == {"clip": [-900.0, 300.0], "scale": [-200.0, 150.0]}


def test_mostly_empty_scans_are_scaled_by_what_is_there() -> None:
    planned = plan_model(fingerprint(96, 1.0, nonzero=0.3), (1, 1, 1), {}, ONE, 1, 8)
    assert planned["intensity"] == [{"clip": None, "scale": "zscore_nonzero"}]


@pytest.mark.parametrize("dimensions", ["2d", "2.5d", "slab"])
@pytest.mark.slow
def test_other_dimensions(dimensions: str) -> None:
    spacing = (0.6, 0.6, 3.6)
    planned = plan_model(fingerprint((320, 320, 20), spacing), spacing, {"dimensions": dimensions}, ONE, 1, 8)
    flat = dimensions != "slab"
    assert len(planned["network"]["strides"][0]) == (2 if flat else 3)
    assert planned["patch"][:2] == [320, 320]
    if flat:
        assert planned["training"]["batch"] > 8


@pytest.mark.parametrize(("height", "thickness"), [(10, 16), (40, 60)])
def test_a_slab_is_as_thick_as_lesions_and_their_surroundings(height: float, thickness: int) -> None:
    """All but the largest lesions are height mm high, and the slab holds 1.5 times as much, in mm."""
    seen = replace(fingerprint(96, 1.0), lesions_mm=np.array([[30, 30, height]] * 99 + [[90, 90, 90]]))
    planned = plan_model(seen, (1, 1, 1), {"dimensions": "slab"}, ONE, 1, 500)
    # Rounded up to a multiple of the levels' strides.
    multiple = np.prod([stride[2] for stride in planned["network"]["strides"]])
    assert planned["patch"][2] == multiple * np.ceil(1.5 * height / multiple)
    assert thickness <= planned["patch"][2] < thickness + multiple


def test_what_is_given_is_kept() -> None:
    given = {"patch": [32, 32, 32], "training": {"batch": 5}}
    planned = plan_model(fingerprint(200, 1.0), (1, 1, 1), given, ONE, 1, 8)
    assert planned["patch"] == [32, 32, 32]
    assert planned["training"]["batch"] == 5
    assert planned["network"]["strides"] == [[1, 1, 1]] + 3 * [[2, 2, 2]]
    with pytest.raises(CaseError, match=r"patch \[512, 512, 512\] and batch 2 needs .* 4 GiB are allowed"):
        plan_model(fingerprint(600, 1.0), (1, 1, 1), {"patch": [512, 512, 512]}, ONE, 1, 4)


def test_target_spacing() -> None:
    spacings = np.array([[0.6, 0.6, 5.0]] * 9 + [[0.6, 0.6, 2.0]])
    seen = Fingerprint(10, np.full((10, 3), (300, 300, 20)), spacings, GREY, False, 1.0, LESIONS)
    # The 10th percentile of 9 × 5 and 1 × 2 mm: 2 + 0.9 · 3.
    assert target_spacing(seen) == pytest.approx((0.6, 0.6, 4.7))
    many = Fingerprint(10, np.full((10, 3), (300, 300, 200)), spacings, GREY, False, 1.0, LESIONS)
    assert target_spacing(many) == (0.6, 0.6, 5.0)


def test_no_axis_is_too_coarse_for_small_instances() -> None:
    """Of 100 instances 90 are kept by 4 mm, 10 by 2 mm along x: at the 5th percentile, 2 mm."""
    spacings = np.full((10, 3), 3.0)
    finest = np.array([[2.0, 4.0, 4.0]] * 10 + [[4.0, 4.0, 4.0]] * 90)
    seen = Fingerprint(10, np.full((10, 3), 200), spacings, GREY, False, 1.0, finest)
    assert target_spacing(seen) == (2.0, 3.0, 3.0)
    facts = yaml.safe_load(plan_text(seen, (2, 3, 3), {}, Plan()))["fingerprint"]
    assert (facts["instances"], facts["keeps_instances_mm"]) == (100, [2, 4, 4])
    assert "95 % of the labels' instances" in facts["spacing_rule"]
    # Fewer than one in twenty does not decide.
    few = np.array([[2.0, 4.0, 4.0]] * 4 + [[4.0, 4.0, 4.0]] * 96)
    assert target_spacing(Fingerprint(10, seen.shapes, spacings, GREY, False, 1.0, few)) == (3.0, 3.0, 3.0)


def test_the_fingerprint_of_crops_turned_any_way(tmp_path: Path) -> None:
    """Axes are RAS for any stored orientation; grey values are those under the label."""
    for number, codes in enumerate(("RAS", "PIR", "LSA")):
        image = np.full((10, 20, 30), 7, np.int16)
        image[0, 0, 0] = -1000
        label = np.zeros(image.shape, np.uint8)
        image[4, 5, 6:10], label[4, 5, 6:10] = (10, 20, 30, 40), 1
        affine = np.diag([1.0, 2.0, 3.0, 1.0])
        for name, data in (("image", image), ("label", label)):
            write_volume(Volume(data, affine).oriented(codes), tmp_path / f"{name}{number}.nii.gz")
        folder = tmp_path / f"crop{number}"
        folder.mkdir()
        files = [tmp_path / f"image{number}.nii.gz"], tmp_path / f"label{number}.nii.gz"
        crop_case(*files, None, None, Crop(to="none"), {"a": 1}, folder)
    facts = read_fingerprint([tmp_path / f"crop{n}" for n in range(3)], None)
    assert facts.shapes.tolist() == [[10, 20, 30]] * 3
    assert np.allclose(facts.spacings, [1, 2, 3])
    assert facts.ct
    # Four voxels along z: half of 12 mm; one along the others.
    assert np.allclose(facts.finest, [[1, 2, 6]] * 3)
    assert facts.lesions_mm.tolist() == [[1, 2, 12]] * 3
    assert facts.grey[0]["mean"] == pytest.approx(25)
    assert facts.grey[0]["std"] == pytest.approx(np.std([10, 20, 30, 40]))
    assert facts.grey[0]["percentile_99.5"] == pytest.approx(np.percentile([10, 20, 30, 40] * 3, 99.5))


def test_a_plan_fills_the_gaps_only(tmp_path: Path) -> None:
    planned = {"network": {"name": "DynUNet", "filters": [1]}, "patch": [8, 8, 8], "training": {"batch": 3}}
    text = plan_text(fingerprint(50, 1.0), (1.0, 1.0, 1.5), {"unet": planned}, Plan(memory="small"))
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    assert yaml.safe_load(text)["fingerprint"]["memory_gib"] == 4
    given = {"network": {"name": "UNet", "channels": [4]}, "training": {"epochs": 7}}
    completed = with_plan(Model, given, path, "models", "unet")
    assert (completed.patch, completed.training.batch, completed.training.epochs) == ((8, 8, 8), 3, 7)
    # A network is never mixed from both.
    assert completed.network.arguments == {"channels": [4]}
    assert with_plan(Cache, {}, path, "cache").spacing == (1.0, 1.0, 1.5)
    assert with_plan(Cache, {"spacing": [2, 2, 2]}, path, "cache").spacing == (2, 2, 2)
    experiment = {"experiment": "e", "data": {"sheet": "s.csv"}, "models": {"unet": given}, "plan": {}}
    whole = complete(validate(Settings, experiment), path)
    assert whole.models["unet"] == completed
    assert whole.cache.spacing == (1.0, 1.0, 1.5)
    path.write_text("models: {unet: {pach: [8, 8, 8]}}")
    with pytest.raises(CaseError, match=r"pach: unknown key; did you mean `patch`"):
        with_plan(Model, {}, path, "models", "unet")


def test_small_things() -> None:
    assert merged({"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"y": 3}}) == {"a": {"x": 1, "y": 3}, "b": 1}
    assert [Plan(memory=m).gib for m in ("small", "medium", 7.5)] == [4, 11, 7.5]
