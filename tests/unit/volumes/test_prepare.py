"""Source files to crop to cache to prediction to export: values, geometry and names survive."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from foldwise.files import CaseError
from foldwise.hdf5 import content_of
from foldwise.index import Entry
from foldwise.stages.crop import crop
from foldwise.stages.frames import frames
from foldwise.stages.lung_mask import lung_mask
from foldwise.systems.segmentation.results import SegmentationResults
from foldwise.volumes.cache import cache_case, lineage_of, open_case
from foldwise.volumes.crop import Masks, crop_case
from foldwise.volumes.cropped import read_cropped
from foldwise.volumes.geometry import Box, Lineage
from foldwise.volumes.labels import read_labels
from foldwise.volumes.predictions import label_map, open_prediction, write_prediction
from foldwise.volumes.prepare import prepare_scan
from foldwise.volumes.settings import Cache, Crop, Export, Prepare, Region
from foldwise.volumes.targets import Targets
from foldwise.volumes.volume import Volume, read_volume, write_volume
from synthetic import ball

CLASSES = {"tumour": 3, "node": 7}
# Axes stored as posterior, inferior, right, rotated by 20° about x: an oblique scan.
TURN = np.deg2rad(20)
AFFINE = np.array(
    [
        [0, 0, 2.0, 11.0],
        [-1.5 * np.cos(TURN), 1.0 * np.sin(TURN), 0, 22.0],
        [-1.5 * np.sin(TURN), -1.0 * np.cos(TURN), 0, -33.0],
        [0, 0, 0, 1],
    ]
)
SHAPE = (30, 40, 24)


def sources(folder: Path) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    label = np.where(ball(SHAPE, (12, 20, 12), 5), 3, 0) + np.where(ball(SHAPE, (22, 30, 12), 3), 7, 0)
    arrays: dict[str, np.ndarray] = {
        "image": random.integers(-900, 300, SHAPE).astype(np.int16),
        "label": label.astype(np.uint8),
        "inside": ball(SHAPE, (15, 22, 12), 11).astype(np.uint8),
    }
    for name, array in arrays.items():
        write_volume(Volume(array, AFFINE), folder / f"{name}.nii.gz")
    return {name: folder / f"{name}.nii.gz" for name in arrays}


def make_crop(
    tmp_path: Path,
    settings: Crop,
    changed: dict[str, Path] | None = None,
    masked: bool = True,
    keep: bool = False,
) -> Path:
    paths = sources(tmp_path / "source") | (changed or {})
    folder = tmp_path / ("kept" if keep else "crop")
    folder.mkdir(exist_ok=True)
    crop_case(
        [paths["image"]],
        paths["label"],
        None,
        Masks(paths["inside"]) if masked else None,
        settings,
        CLASSES,
        folder,
        keep=keep,
    )
    return folder


def images_of(folder: Path) -> list[np.ndarray]:
    return [*read_cropped(folder, json.loads((folder / "crop.json").read_text()))]


def test_a_crop_keeps_every_voxels_place(tmp_path: Path) -> None:
    folder = make_crop(tmp_path, Crop(to="region", margin_mm=3), keep=True)
    source = read_volume(tmp_path / "source" / "image.nii.gz")
    cut = read_volume(folder / "image0.nii.gz")
    facts = json.loads((folder / "crop.json").read_text())
    # The ball spans 4…26, 11…33 and 1…23; 3 mm are 2, 3 and 2 voxels of 1.5, 1 and 2 mm.
    assert facts["box"] == {"start": [2, 8, 0], "shape": [27, 29, 24]}
    assert (cut.data == source.data[2:29, 8:37, 0:24]).all()
    assert np.allclose(cut.affine @ [0, 0, 0, 1], source.affine @ [2, 8, 0, 1], atol=1e-4)
    voxels = (read_volume(tmp_path / "source" / "label.nii.gz").data == 3).sum()
    assert facts["foreground_ml"]["tumour"] == pytest.approx(voxels * 3 / 1000, rel=1e-6)
    assert facts["foreground_cut_away"] == {"tumour": 0, "node": 0}


def test_remarks_on_an_image_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    affine = np.diag([1.0, 1, 40, 1])
    for name in ("image", "label", "inside"):
        data = read_volume(sources(tmp_path / "source")[name]).data
        write_volume(Volume(data, affine), tmp_path / f"{name}.nii.gz")
    make_crop(tmp_path, Crop(), {name: tmp_path / f"{name}.nii.gz" for name in ("image", "label", "inside")})
    assert caplog.text.count(f"{tmp_path / 'image.nii.gz'}: its voxels are 1 × 1 × 40 mm") == 1


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("outside", ["keep", "zero", "mean", "air"])
def test_what_lies_outside(tmp_path: Path, outside: str, keep: bool) -> None:
    folder = make_crop(tmp_path, Crop(to="region", margin_mm=0, outside=outside), keep=keep)
    assert (folder / "image0.nii.gz").exists() is keep
    [cut] = images_of(folder)
    source = read_volume(tmp_path / "source" / "image.nii.gz").data[4:27, 11:34, 1:24]
    inside = read_volume(tmp_path / "source" / "inside.nii.gz").data[4:27, 11:34, 1:24] > 0
    assert (cut[inside] == source[inside]).all()
    expected = {"keep": source[~inside], "zero": 0, "mean": np.rint(source[~inside].mean()), "air": -1000}
    assert (cut[~inside] == expected[outside]).all()


def test_images_read_again_are_those_that_were_cropped(tmp_path: Path) -> None:
    random, shape = np.random.default_rng(1), (12, 14, 10)
    arrays: list[np.ndarray] = [
        random.integers(0, 200, shape).astype(np.uint16),  # becomes uint8
        random.integers(-900, 300, (*shape, 2)).astype(np.int32),  # two channels, which become int16
        random.normal(size=shape).astype(np.float64),  # becomes float32
    ]
    paths = [tmp_path / f"{number}.nii.gz" for number in range(len(arrays))]
    for array, path in zip(arrays, paths, strict=True):
        write_volume(Volume(array, AFFINE), path)
    write_volume(Volume(ball(shape, (6, 7, 5), 4).astype(np.uint8), AFFINE), tmp_path / "inside.nii.gz")
    settings, masks = Crop(to="region", margin_mm=1, outside="mean"), Masks(tmp_path / "inside.nii.gz")
    for chosen in (*([path] for path in paths), paths):
        contents = []
        for folder, keep in ((tmp_path / "kept", True), (tmp_path / "again", False)):
            folder.mkdir(exist_ok=True)
            crop_case(chosen, None, None, masks, settings, CLASSES, folder, keep=keep)
            cache_case("c", folder, Cache(), CLASSES, tmp_path / "c.h5")
            contents.append(content_of(tmp_path / "c.h5"))
        # The same as in earlier versions, whose crops all held their images; trainings depend on it.
        assert contents[0] == contents[1]
    kept, again = images_of(tmp_path / "kept"), images_of(tmp_path / "again")
    assert [one.dtype for one in again] == [np.uint8, np.int16, np.int16, np.float32]
    for one, other in zip(kept, again, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


def test_another_image_than_the_cropped_one_is_refused(tmp_path: Path) -> None:
    folder = make_crop(tmp_path, Crop(to="region"))
    image = tmp_path / "source" / "image.nii.gz"
    write_volume(Volume(np.zeros((5, 6, 7), np.int16), AFFINE), image)
    with pytest.raises(CaseError, match=rf"{image}: is not the image that was cropped"):
        images_of(folder)


def test_a_crop_of_an_earlier_version_without_its_images_is_refused(tmp_path: Path) -> None:
    folder = make_crop(tmp_path, Crop(to="region"), keep=True)
    facts = json.loads((folder / "crop.json").read_text())
    del facts["voxels"]
    assert len([*read_cropped(folder, facts)]) == 1
    (folder / "image0.nii.gz").unlink()
    with pytest.raises(CaseError, match="its images are missing; delete this folder"):
        [*read_cropped(folder, facts)]


@pytest.mark.parametrize("spacing", [None, (2.0, 2.0, 2.0)])
def test_label_survives_cache_prediction_and_export(
    tmp_path: Path, spacing: tuple[float, float, float] | None
) -> None:
    """A perfect prediction comes back as the source label, on its grid, under the case's name."""
    folder = make_crop(tmp_path, Crop(to="region", margin_mm=5))
    cache_case("patient.7", folder, Cache(spacing=spacing), CLASSES, tmp_path / "c.h5")
    with open_case(tmp_path / "c.h5") as file:
        label, lineage = file["label"][()], lineage_of(file)
        assert file.attrs["case"] == "patient.7"
        assert "weight" in file
        if spacing:
            assert np.allclose(file.attrs["spacing"], 2, rtol=0.05)
    assert set(np.unique(label)) == {0, 1, 2}
    one_hot = np.stack([label == 1, label == 2]).astype(np.float32)
    prediction = tmp_path / "patient.7.h5"
    write_prediction(prediction, "patient.7", one_hot, lineage, Targets(CLASSES))
    entry = Entry("patient.7", "p", {"images": (str(tmp_path),)}, "", {}, 0)
    settings = Export(probabilities=True)
    SegmentationResults().export({"patient.7": prediction}, [entry], settings, {"postprocess": []}, tmp_path)

    truth = read_volume(tmp_path / "source" / "label.nii.gz")
    exported = read_volume(tmp_path / "patient.7.nii.gz")
    assert np.array_equal(exported.affine, truth.affine)
    assert exported.data.shape == truth.data.shape
    if spacing is None:
        assert (exported.data == truth.data).all()
    for value in CLASSES.values():
        a, b = exported.data == value, truth.data == value
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.85
    probability = read_volume(tmp_path / "patient.7_node_probability.nii.gz").data
    assert probability.dtype == np.float32
    assert probability.max() == pytest.approx(1, abs=1e-6)
    assert (probability[truth.data == 7]).mean() > 0.6


@pytest.mark.parametrize(
    ("stored", "classes", "number", "exported"),
    [
        (np.int32, {"a": 1, "b": 257, "c": 70_000}, np.uint8, np.int32),
        (np.float64, {"a": 1, "b": 257, "c": 70_000}, np.uint8, np.int32),
        (">u2", {f"c{value}": value for value in range(1, 300)}, np.int16, np.int16),
        (np.uint8, {f"c{value}": value for value in range(1, 256)}, np.uint8, np.uint8),
    ],
)
def test_label_values_of_any_size_survive(
    tmp_path: Path, stored: Any, classes: dict[str, int], number: type, exported: type
) -> None:
    """To the voxel: crop, cache, prediction, export."""
    values = np.array([0, *classes.values()])
    numbers = np.arange(8 * 7 * 6).reshape(8, 7, 6) % len(values)
    truth = values[numbers]
    image = tmp_path / "i.nii.gz"
    write_volume(Volume(np.arange(8 * 7 * 6, dtype=np.int16).reshape(8, 7, 6), np.eye(4)), image)
    write_volume(Volume(truth.astype(stored), np.eye(4)), tmp_path / "l.nii.gz")
    crop_case([image], tmp_path / "l.nii.gz", None, None, Crop(to="none"), classes, tmp_path)
    facts = json.loads((tmp_path / "crop.json").read_text())
    for name, value in classes.items():
        assert facts["foreground_ml"][name] == pytest.approx((truth == value).sum() / 1000)
    cache_case("c", tmp_path, Cache(), classes, tmp_path / "c.h5")
    targets = Targets(classes)
    with open_case(tmp_path / "c.h5") as file:
        assert file["label"].dtype == number
        assert (file["label"][()] == numbers).all()
        one_hot = targets.membership[:, file["label"][()]].astype(np.float32)
        write_prediction(tmp_path / "p.h5", "c", one_hot, lineage_of(file), targets)
    with open_prediction(tmp_path / "p.h5") as file:
        assert (file["label"][()] == numbers).all()
    entry = Entry("c", "c", {"images": (str(image),)}, "", {}, 0)
    chosen = {"postprocess": ["fill_holes"]}
    SegmentationResults().export({"c": tmp_path / "p.h5"}, [entry], Export(), chosen, tmp_path / "out")
    # Read with ITK, since label maps are for all programs.
    exported_labels = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "out" / "c.nii.gz")).transpose()
    assert exported_labels.dtype == exported
    assert (exported_labels == truth).all()


@pytest.mark.parametrize(
    ("value", "said"), [(1.5, "1.5"), (-1, "-1"), (16_777_217, "16777217"), (np.nan, "nan")]
)
def test_other_label_values_are_refused_as_they_are(tmp_path: Path, value: float, said: str) -> None:
    data = np.zeros((4, 4, 4))
    data[0, 0, :2] = value, 1
    label = Volume(data, np.eye(4))
    write_volume(label, tmp_path / "l.nii.gz")
    with pytest.raises(CaseError, match=rf"not in data.labels: {re.escape(said)} \(1 voxels\)"):
        read_labels(tmp_path / "l.nii.gz", Targets({"a": 1, "b": 16_777_216}), label)


def test_rounding_of_many_classes_leaves_the_background_its_share(tmp_path: Path) -> None:
    """298 classes of 0.53 steps each would all be rounded up to one, and displace a background of 0.35."""
    targets = Targets({f"c{value}": value for value in range(1, 300)})
    soft = np.full((299, 2, 1, 1), 0.53 / 255, np.float32)
    soft[7, :, 0, 0] = 0.03, 0.38
    lineage = Lineage.of((2, 1, 1), np.eye(4), Box((0, 0, 0), (2, 1, 1)))
    write_prediction(tmp_path / "p.h5", "c", soft, lineage, targets)
    with open_prediction(tmp_path / "p.h5") as file:
        stored = file["probability"][()].astype(int)
    assert np.abs(stored - soft * 255).max() < 1
    assert np.abs(stored.sum(0) - soft.sum(0) * 255).max() <= 0.51
    assert label_map(tmp_path / "p.h5").data.ravel().tolist() == [0, 8]


def test_a_soft_prediction_takes_the_most_probable(tmp_path: Path) -> None:
    folder = make_crop(tmp_path, Crop(to="none"), masked=False)
    cache_case("c", folder, Cache(), CLASSES, tmp_path / "c.h5")
    with open_case(tmp_path / "c.h5") as file:
        lineage = lineage_of(file)
    soft = np.zeros((2, *lineage.shape), np.float32)
    soft[:, 0, 0, 0] = (0.3, 0.3)  # background 0.4 wins
    soft[:, 1, 0, 0] = (0.35, 0.4)  # the second class, although below one half
    soft[:, 2, 0, 0] = (0.9, 0.05)
    write_prediction(tmp_path / "p.h5", "c", soft, lineage, Targets(CLASSES))
    labels = label_map(tmp_path / "p.h5").oriented().data
    assert labels[:3, 0, 0].tolist() == [0, 7, 3]
    assert (labels > 0).sum() == 2


@pytest.mark.parametrize("value", [-1, np.nan, np.inf])
def test_weights_that_cannot_be_drawn_by_are_refused(tmp_path: Path, value: float) -> None:
    paths = sources(tmp_path)
    weight = np.ones(SHAPE, np.float32)
    weight[1, 2, 3] = value
    write_volume(Volume(weight, AFFINE), tmp_path / "w.nii.gz")
    with pytest.raises(CaseError, match=r"w\.nii\.gz: negative, infinite or NaN weights"):
        crop_case([paths["image"]], None, tmp_path / "w.nii.gz", None, Crop(to="none"), CLASSES, tmp_path)


def test_wrong_input_is_named(tmp_path: Path) -> None:
    paths = sources(tmp_path / "source")
    shifted = AFFINE.copy()
    shifted[0, 3] += 5
    label = read_volume(paths["label"]).data
    image = read_volume(paths["image"]).data.astype(np.float32)

    def written(name: str, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
        write_volume(Volume(data, affine), tmp_path / name)
        return tmp_path / name

    nan = image.copy()
    nan[3, 3, 3] = np.nan
    cases = {
        "differs from that of the case's first image": {"label": written("moved.nii.gz", label, shifted)},
        r"not in data.labels: 255 \(": {"label": written("255.nii.gz", (label > 0) * np.uint8(255))},
        "1 voxels are NaN": {"image": written("nan.nii.gz", nan)},
        r"filled\.nii\.gz: its values range from -9\d\d to 1e\+38": {
            "image": written("filled.nii.gz", np.where(np.isnan(nan), 1e38, image).astype(np.float32))
        },
        "1 voxels are NaN or infinite": {
            "image": written("inf.nii.gz", np.where(np.isnan(nan), -np.inf, image).astype(np.float32))
        },
        r"huge\.nii\.gz: its values range from -900 to 1e\+300": {
            "image": written("huge.nii.gz", np.where(np.isnan(nan), 1e300, image.astype(float)))
        },
        "every voxel is": {"image": written("flat.nii.gz", np.zeros(SHAPE, np.int16))},
        "the mask is empty": {"inside": written("empty.nii.gz", label * 0)},
    }
    for message, changed in cases.items():
        with pytest.raises(CaseError, match=message):
            make_crop(tmp_path, Crop(to="region"), changed)
    with pytest.raises(CaseError, match=r"255\.nii\.gz"):
        read_labels(tmp_path / "255.nii.gz", Targets(CLASSES), Volume(label, AFFINE))


def test_a_stage_replaces_neither_its_source_nor_a_folder_of_someone_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mydata"
    image = sources(folder)["image"]
    (tmp_path / "link.nii.gz").symlink_to(image)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    scan, ours = str(image), ["--region", str(tmp_path / "r.nii.gz"), "--facts", str(tmp_path / "f.json")]
    for stage, flags, message in (
        (crop, ["--images", scan, "--folder", str(folder)], "mydata: is not replaced"),
        (crop, ["--images", scan, "--folder", scan], "--images and --folder are both"),
        (frames, ["--video", scan, "--data", "sheet: a", "--cache", scan], "--video and --cache are both"),
        (lung_mask, ["--image", scan, "--mask", str(tmp_path / "link.nii.gz"), *ours], "--image and --mask"),
        (lung_mask, ["--image", "a", "--mask", "b", "--region", "c", "--facts", "c"], "--region and --facts"),
    ):
        monkeypatch.setattr("sys.argv", ["stage", "--case", "a", *flags])
        with pytest.raises(CaseError, match=message):
            stage.main()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.nii.gz", "mydata"]


def test_a_region_by_values_of_a_label_map(tmp_path: Path) -> None:
    """TotalSegmentator's lobes are 10 to 14: only these make the box, and the sampler's map."""
    paths = sources(tmp_path)
    lobes = np.zeros(SHAPE, np.uint8)
    lobes[3:9, 4:8, 5:7], lobes[5:12, 4:8, 5:7], lobes[0, 0, 0] = 10, 14, 6
    write_volume(Volume(lobes, AFFINE), tmp_path / "lobes.nii.gz")
    masks, crop = Masks(tmp_path / "lobes.nii.gz", values=[10, 14]), tmp_path / "crop"
    crop.mkdir()
    settings = Crop(to="region", margin_mm=0, outside="zero")
    crop_case([paths["image"]], paths["label"], None, masks, settings, CLASSES, crop)
    assert json.loads((crop / "crop.json").read_text())["box"] == {"start": [3, 4, 5], "shape": [9, 4, 2]}
    assert (read_volume(crop / "weight.nii.gz").data == 1).all()
    # Unlabelled cases are not trained on.
    (tmp_path / "new").mkdir()
    crop_case([paths["image"]], None, None, masks, settings, CLASSES, tmp_path / "new")
    assert not (tmp_path / "new" / "weight.nii.gz").exists()
    with pytest.raises(CaseError, match=r"lobes\.nii\.gz: the mask is empty"):
        none = Masks(tmp_path / "lobes.nii.gz", values=[11])
        crop_case([paths["image"]], None, None, none, settings, CLASSES, crop)


def test_a_region_that_misses_the_label_is_refused(tmp_path: Path) -> None:
    """Of two labelled voxels one lies in the region: half of the label."""
    paths = sources(tmp_path)
    for name, places in (("label", [(1, 1, 1), (5, 5, 5)]), ("inside", [(5, 5, 5)])):
        data = np.zeros(SHAPE, np.uint8)
        for place in places:
            data[place] = 3
        write_volume(Volume(data, AFFINE), paths[name])
    (tmp_path / "crop").mkdir()
    for allowed in (0.4, 0.5):
        masks, settings = Masks(paths["inside"], max_missed=allowed), Crop(to="region")
        given = [paths["image"]], paths["label"], None, masks, settings, CLASSES, tmp_path / "crop"
        if allowed < 0.5:
            with pytest.raises(CaseError, match=r"50\.0% of the labelled voxels lie outside the region"):
                crop_case(*given)
        else:
            crop_case(*given)


def test_air_is_for_ct_only(tmp_path: Path) -> None:
    paths = sources(tmp_path)
    write_volume(Volume(np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE), AFFINE), paths["image"])
    settings = Crop(to="region", outside="air")
    with pytest.raises(CaseError, match="air is for CT in HU, but no voxel is below -300 HU"):
        crop_case([paths["image"]], None, None, Masks(paths["inside"]), settings, CLASSES, tmp_path)


def test_extents_of_lesions(tmp_path: Path) -> None:
    """Two lesions of 2 × 1 × 3 and of one voxel of 1.5 × 1 × 2 mm."""
    paths = sources(tmp_path)
    label = np.zeros(SHAPE, np.uint8)
    label[3:5, 4, 5:8], label[20, 20, 20] = 3, 7
    write_volume(Volume(label, AFFINE), paths["label"])
    crop_case([paths["image"]], paths["label"], None, None, Crop(to="none"), CLASSES, tmp_path)
    extents = json.loads((tmp_path / "crop.json").read_text())["lesions_mm"]
    assert np.allclose(np.array(extents)[::-1], [[1.5, 1.0, 2.0], [3.0, 1.0, 6.0]], atol=1e-4)


def test_a_new_scan_needs_its_region_too(tmp_path: Path) -> None:
    """The box of a new scan encloses its mask, as for training; without one it is refused by name."""
    paths = sources(tmp_path)
    prepare = Prepare(region=Region(column="lung"), crop=Crop(to="region", margin_mm=0))
    state = {
        "prepared": {"prepare": prepare.model_dump(mode="json"), "cache": Cache().model_dump(mode="json")},
        "task": {"targets": Targets({"tumour": 3}).as_dict(), "channels": 1},
    }
    files: dict[str, tuple[str, ...]] = {"images": (str(paths["image"]),)}
    with pytest.raises(CaseError, match=r"image\.nii\.gz: the model needs a mask of the region .* `lung`"):
        prepare_scan(Entry("new", "new", files, "", {}, 0), state, tmp_path)
    files["region"] = (str(paths["inside"]),)
    with open_case(prepare_scan(Entry("new", "new", files, "", {}, 0), state, tmp_path)) as file:
        # The ball spans 4…26, 11…33 and 1…23 of axes stored as posterior, inferior, right.
        assert file["image"].shape == (1, 23, 23, 23)
        assert lineage_of(file).box.start == (4, 11, 1)
        assert "weight" not in file
