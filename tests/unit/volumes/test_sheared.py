"""Oblique grids whose directions tie, and sheared ones: decided once, straightened, and back again."""

import itertools
import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from nibabel.orientations import io_orientation
from scipy.spatial.transform import Rotation

from foldwise.systems.interactive.engines import Request
from foldwise.systems.interactive.marks import Marks
from foldwise.systems.interactive.placement import Placement
from foldwise.systems.segmentation.planning import read_fingerprint
from foldwise.volumes.cache import cache_case, lineage_of, open_case
from foldwise.volumes.crop import Masks, crop_case
from foldwise.volumes.geometry import Box, Lineage, straightened
from foldwise.volumes.grids import corners, is_sheared, plane_distances, spacing_of, straight_grid, turn_of
from foldwise.volumes.lung_judgement import Seen
from foldwise.volumes.lung_mask import mask_case
from foldwise.volumes.lungs import Lungs
from foldwise.volumes.metrics import score
from foldwise.volumes.predictions import label_map, write_prediction
from foldwise.volumes.settings import Cache, Crop, LungMask
from foldwise.volumes.targets import Targets
from foldwise.volumes.volume import Volume, read_header, read_volume, write_volume
from synthetic import ball

SHAPE = (20, 24, 18)
CLASSES = {"tumour": 1}


def affine_of(directions: np.ndarray, spacing: tuple[float, float, float] = (0.8, 0.9, 2.5)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions * spacing, (-31.5, 12.25, 100)
    return affine


def tied() -> list[np.ndarray]:
    """Rotations by 45° about each axis and two of them, and by 54.7° about the diagonal, in all orders."""
    turns = [
        Rotation.from_euler(axes, [45] * len(axes), degrees=True) for axes in ("x", "y", "z", "xy", "yz")
    ]
    turns.append(Rotation.from_rotvec(np.full(3, np.deg2rad(60) / math.sqrt(3))))
    orders = ((0, 1, 2), (1, 2, 0), (2, 1, 0))
    return [turn.as_matrix()[:, order] * (1, -1, 1) for turn in turns for order in orders]


def tilted(degrees: float, order: tuple[int, ...] = (0, 1, 2)) -> np.ndarray:
    """The affine of a CT with a tilted gantry: slices in the plane of x and y that move along y."""
    directions = np.eye(3)
    directions[1, 2] = math.tan(math.radians(degrees))
    affine = affine_of(directions)
    affine[:3, :3] = affine[:3, order]
    return affine


@pytest.mark.parametrize("directions", tied())
def test_rounding_does_not_decide_a_tie(directions: np.ndarray) -> None:
    affine = affine_of(directions)
    expected = turn_of(affine)
    random = np.random.default_rng(0)
    for noisy in (
        affine.astype(np.float32).astype(float),
        affine_of(np.where(np.abs(directions) < 1e-12, -0.0, directions)),
        *(affine_of(directions + random.normal(0, 1e-7, (3, 3))) for _ in range(20)),
    ):
        assert turn_of(noisy) == expected


def test_the_turn_is_nibabels_where_nothing_ties() -> None:
    for turn in Rotation.random(200, random_state=0).as_matrix():
        affine = affine_of(turn)
        assert np.array_equal(turn_of(affine), io_orientation(affine))


def prepared(folder: Path, affine: np.ndarray, label: np.ndarray, cache: Cache) -> tuple[Path, Volume]:
    """A case with this label as its file in `c.h5`, and the label as read from the source."""
    image = np.random.default_rng(0).integers(-900, 300, label.shape).astype(np.int16)
    for name, data in (("image", image), ("label", label)):
        write_volume(Volume(data, affine), folder / f"{name}.nii.gz")
    crop = folder / "crop"
    crop.mkdir()
    inside = folder / "label.nii.gz"
    masks, box = Masks(inside), Crop(to="region", margin_mm=3)
    crop_case([folder / "image.nii.gz"], inside, None, masks, box, CLASSES, crop)
    cache_case("c", crop, cache, CLASSES, folder / "c.h5")
    return folder / "c.h5", read_volume(inside)


def truth_as_prediction(
    folder: Path, affine: np.ndarray, label: np.ndarray, cache: Cache
) -> dict[str, float]:
    """The scores of the cached label, written as a prediction and brought back to the source."""
    path, truth = prepared(folder, affine, label, cache)
    with open_case(path) as file:
        found, lineage = file["label"][()], lineage_of(file)
    write_prediction(folder / "p.h5", "c", found[None].astype(np.float32), lineage, Targets(CLASSES))
    back = label_map(folder / "p.h5")
    assert np.array_equal(back.affine, truth.affine)
    (row,) = score(back.data, truth.data, truth.affine, {"tumour": (1,)}, tolerance_mm=1)
    return row  # type: ignore[return-value]


@pytest.mark.parametrize("number", range(len(tied())))
def test_truth_as_prediction_on_oblique_grids(tmp_path: Path, number: int) -> None:
    label = ball(SHAPE, (8, 14, 8), 5).astype(np.uint8)
    label[8:14, 10, 8] = 1  # not symmetric
    assert truth_as_prediction(tmp_path, affine_of(tied()[number]), label, Cache())["dice"] == 1


def test_the_turn_of_the_crop_is_that_of_the_cache(tmp_path: Path) -> None:
    affine = affine_of(tied()[0])
    path, _ = prepared(tmp_path, affine, ball(SHAPE, (8, 14, 8), 5).astype(np.uint8), Cache())
    facts = json.loads((tmp_path / "crop" / "crop.json").read_text())
    with open_case(path) as file:
        assert np.array_equal(facts["turn"], lineage_of(file).turn)
    # An earlier version's crop and cache, which have none, get that of their affine.
    assert Lineage.of_crop({key: value for key, value in facts.items() if key != "turn"}).turn == turn_of(
        affine
    )
    old = {**Lineage.of_crop(facts).as_dict()}
    del old["turn"], old["straight"]
    assert Lineage.from_dict(old) == Lineage.of_crop(facts)


def test_a_straight_grid_by_hand() -> None:
    """15° over 18 slices of 2.5 mm: the slices move by 2.5·tan 15° = 0.67 mm each, 11.4 mm in all."""
    affine = tilted(15)
    grid = straight_grid(affine, SHAPE)
    assert spacing_of(affine)[2] == pytest.approx(2.5 / math.cos(math.radians(15)))
    assert plane_distances(affine) == pytest.approx((0.8, 0.9 * math.cos(math.radians(15)), 2.5))
    # A slice moves by 0.744 rows of 0.9 mm. The borders are half a slice and half a row beyond the centres,
    # so rows −0.5 − 0.37 to 23.5 + 17.5·0.744 = 36.52 are reached: −1 to 37.
    straight = affine_of(np.eye(3))
    straight[1, 3] -= 0.9
    assert np.allclose(grid.matrix, straight)
    assert grid.shape == (20, 39, 18)
    # The other way: −0.5 − 17.5·0.744 = −13.52 to 23.87, so −14 to 24.
    other = straight_grid(tilted(-15), SHAPE)
    straight[1, 3] = affine[1, 3] - 14 * 0.9
    assert np.allclose(other.matrix, straight)
    assert other.shape == (20, 39, 18)
    assert not is_sheared(affine_of(tied()[3]))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("degrees", [-20, 5, 30])
def test_a_straight_grid_encloses_the_sheared_one(order: tuple[int, ...], degrees: float) -> None:
    turn = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix()
    affine = tilted(degrees, order)
    affine[:3, :3] = turn @ affine[:3, :3]
    grid = straight_grid(affine, SHAPE)
    axes = grid.matrix[:3, :3] / spacing_of(grid.matrix)
    assert np.allclose(axes.T @ axes, np.eye(3))
    assert np.linalg.det(grid.matrix[:3, :3]) == pytest.approx(np.linalg.det(affine[:3, :3]))
    # Every border of the sheared box lies inside, and none of the sides could be two voxels shorter.
    reached = (corners(affine, SHAPE, 0.5) - grid.matrix[:3, 3]) @ np.linalg.inv(grid.matrix[:3, :3]).T
    assert (reached > -0.51).all()
    assert (reached < np.array(grid.shape) - 0.49).all()
    assert (np.ptp(reached, axis=0) > np.array(grid.shape) - 2.01).all()
    # The slices stay slices.
    across = order.index(2)
    assert np.allclose(
        np.cross(*np.delete(grid.matrix[:3, :3], across, 1).T),
        np.cross(*np.delete(affine[:3, :3], across, 1).T),
    )


def plane(affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """A linear function of the place in mm, which linear interpolation keeps exactly."""
    places = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    return (places @ (1.5, -2.0, 0.7)).astype(np.float32)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_straightened_values_are_at_their_place(order: tuple[int, ...]) -> None:
    affine = tilted(20, order)
    volume = Volume(plane(affine, SHAPE), affine)
    straight, back = straightened(volume)
    assert not is_sheared(straight.affine)
    expected = plane(straight.affine, straight.data.shape)
    # Between the outermost centres of voxels the values are those of the function; outside, the lowest.
    indices = np.moveaxis(np.indices(straight.data.shape), 0, -1).reshape(-1, 3)
    mm = indices @ straight.affine[:3, :3].T + straight.affine[:3, 3]
    stored = (mm - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    size = np.array(SHAPE)
    within = ((stored >= -1e-6) & (stored <= size - 1 + 1e-6)).all(1).reshape(straight.data.shape)
    beyond = ((stored < -0.51) | (stored > size - 0.49)).any(1).reshape(straight.data.shape)
    assert np.abs(straight.data - expected)[within].max() < 1e-3
    assert (straight.data[beyond] == volume.data.min()).all()
    assert within.sum() > 0.85 * volume.data.size
    # And back: where nothing beyond the box is a neighbour.
    returned = back(expected)
    assert returned.shape == SHAPE
    assert np.abs(returned - volume.data)[2:-2, 2:-2, 2:-2].max() < 1e-3
    mask = back(ball(straight.data.shape, tuple(n // 2 for n in straight.data.shape), 6))
    assert mask.dtype == bool
    assert mask.sum() == pytest.approx(4 / 3 * math.pi * 6**3, rel=0.03)


def test_a_right_angled_volume_stays_as_it_is() -> None:
    affine = tilted(0.2)  # rounded cosines: 2.5·tan 0.2° = 0.009 mm per slice
    volume = Volume(plane(affine, SHAPE), affine)
    straight, back = straightened(volume)
    assert straight is volume
    assert back(volume.data) is volume.data
    lineage = Lineage.of(SHAPE, affine, Box((0, 0, 0), SHAPE))
    assert not lineage.resamples
    assert np.array_equal(lineage.cached_affine, affine)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 2.0)])
def test_truth_as_prediction_on_sheared_grids(
    tmp_path: Path, order: tuple[int, ...], spacing: tuple[float, float, float] | None
) -> None:
    affine = tilted(20, order)
    label = np.zeros((40, 36, 24), np.uint8)
    label[10:24, 8:22, 5:15] = 1
    row = truth_as_prediction(tmp_path, affine, label.transpose(order), Cache(spacing=spacing))
    assert row["dice"] > (0.97 if spacing is None else 0.9)
    # 14·14·10 voxels of 0.8·0.9·2.5 mm³: the shear moves slices, but leaves their volume.
    assert row["truth_ml"] == pytest.approx(1960 * 1.8 / 1000, rel=1e-6)
    with open_case(tmp_path / "c.h5") as file:
        lineage = lineage_of(file)
        cached = file.attrs["affine"]
        centre = np.argwhere(file["label"][()]).mean(0) @ cached[:3, :3].T + cached[:3, 3]
        voxel_ml = float(np.prod(file.attrs["spacing"])) / 1000
        assert file["label"][()].sum() * voxel_ml == pytest.approx(row["truth_ml"], rel=0.06)
    assert not is_sheared(cached)
    source = np.argwhere(label.transpose(order)).mean(0) @ affine[:3, :3].T + affine[:3, 3]
    assert np.allclose(centre, source, atol=0.3)
    # Planning sees the straight grid, in RAS.
    facts = read_fingerprint([tmp_path / "crop"], ct=True)
    assert np.allclose(facts.spacings, [0.8, 0.9, 2.5])
    # Marks of the interactive system are at the same place in mm on both grids.
    placement = Placement(lineage)
    assert placement.axis(order.index(2)) == 2
    marks = Marks(order.index(2), inside=np.array([(12, 9, 6), (20, 20, 12)])[:, order])
    empty = np.zeros(lineage.source_shape, np.uint8)
    (moved,) = placement.request(Request(empty, {1: (marks,)}, {1: (marks,)}, marks.axis)).new[1]
    apart = apply_affine(cached, moved.inside) - apply_affine(affine, marks.inside)
    # Within half a voxel of the straight grid along each axis.
    assert (np.abs(apart) <= np.array(spacing_of(cached)) / 2 + 1e-6).all()


def test_scores_of_a_sheared_grid_by_hand() -> None:
    affine = tilted(20)
    first, second = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    first[5, 8, 4], second[5, 5, 8] = 1, 1
    (row,) = score(first, second, affine, {"a": (1,)}, tolerance_mm=1)
    # 4 slices of 2.5 mm up move by 4·2.5·tan 20° = 3.640 mm along y, 3 voxels of 0.9 mm back.
    expected = math.hypot(10, 4 * 2.5 * math.tan(math.radians(20)) - 2.7)
    assert row["hd95_mm"] == pytest.approx(expected)
    assert row["volume_ml"] == pytest.approx(0.8 * 0.9 * 2.5 / 1000)
    # Nothing was found: the longest diagonal of the sheared image.
    (row,) = score(first & 0, second, affine, {"a": (1,)}, tolerance_mm=1)
    height = 18 * 2.5
    along = 24 * 0.9 + height * math.tan(math.radians(20))
    assert row["hd95_mm"] == pytest.approx(math.sqrt(16**2 + along**2 + height**2))


def test_the_shared_example_has_its_volume(tmp_path: Path) -> None:
    """10·6·4 voxels of 0.8·0.9·2.5 mm: 0.432 ml, whatever the shear."""
    label = np.zeros((40, 36, 24), np.uint8)
    label[10:20, 8:14, 5:9] = 1
    write_volume(Volume(label, tilted(20)), tmp_path / "l.nii.gz")
    read = read_volume(tmp_path / "l.nii.gz")
    (row,) = score(read.data, read.data, read.affine, {"a": (1,)}, tolerance_mm=1)
    assert row["truth_ml"] == pytest.approx(0.432, abs=1e-6)


def test_a_sheared_volume_is_written_with_its_sform_alone(tmp_path: Path) -> None:
    write_volume(Volume(np.zeros(SHAPE, np.uint8), tilted(20)), tmp_path / "a.nii.gz")
    header = nib.load(tmp_path / "a.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 0)
    read = read_header(tmp_path / "a.nii.gz")
    assert np.array_equal(read.affine, tilted(20).astype(np.float32))
    assert read.remarks == ()


def test_lungs_are_searched_on_a_straight_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []

    def find(ct: Volume, **settings: float) -> Lungs:
        searched.append(ct.affine)
        seen = Seen((2.0, 2.0), 1.0, 1.0, 0.0, 0.0, (), 60.0, 60.0, 600.0, 0.4)
        return Lungs(ct.data > 0, ct.data > 0, seen, {})

    monkeypatch.setattr("foldwise.volumes.lung_mask.find_lungs", find)
    affine, shape = tilted(20), (40, 36, 24)
    scan = np.where(ball(shape, (20, 18, 12), 8), 100, -100).astype(np.int16)
    write_volume(Volume(scan, affine), tmp_path / "ct.nii.gz")
    mask, region, facts = (tmp_path / name for name in ("mask.nii.gz", "region.nii.gz", "facts.json"))
    mask_case("c", tmp_path / "ct.nii.gz", None, LungMask(), mask, region, facts)
    assert not is_sheared(searched[0])
    found = read_volume(mask)
    assert np.allclose(found.affine, affine, atol=1e-5)
    both, each = ((found.data > 0) & (scan > 0)).sum(), found.data.sum() + (scan > 0).sum()
    assert 2 * both / each > 0.95
