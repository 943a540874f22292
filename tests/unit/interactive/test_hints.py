"""Windows, hints, the simulated user and training samples."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from foldwise.files import CaseError
from foldwise.systems.interactive import diameter
from foldwise.systems.interactive.hints import Hints, followed, hint_maps, window_of
from foldwise.systems.interactive.kinds import KINDS, Kind
from foldwise.systems.interactive.marks import settled
from foldwise.systems.interactive.samples import Curriculum, Samples, objects_of
from foldwise.systems.interactive.user import draw_hints, draw_marks
from foldwise.volumes.cache import Contents, write_case
from foldwise.volumes.draw import line_voxels
from foldwise.volumes.geometry import Box, Lineage
from foldwise.volumes.settings import Augmentation, Intensity
from foldwise.volumes.slices import Window


def random() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_window_of_the_input_s_own_size_changes_nothing() -> None:
    image = torch.rand(2, 1, 32, 32)
    window = Window.round((0, 0), (32, 32), (1, 1), 32)
    assert torch.equal(window.to_input(image), image)
    assert torch.equal(window.to_slice(image, 32, 32), image)


def test_a_window_keeps_proportions_in_mm() -> None:
    """20 rows of 2 mm and 20 columns of 1 mm: rows fill the input, columns half of it."""
    window = Window.round((0, 0), (20, 20), (2, 1), 32)
    assert window.inner == (32, 16)
    inputs = window.to_input(torch.ones(1, 1, 20, 20), fill=-1)
    assert torch.allclose(inputs[..., 8:24], torch.ones(()))
    assert (inputs[..., :8] == -1).all()
    assert (inputs[..., 24:] == -1).all()


def test_points_go_where_their_voxels_go() -> None:
    """The pixel of a bright voxel's centre is the brightest of the input, also for a box within the slice."""
    image = torch.zeros(1, 1, 40, 30)
    image[0, 0, 23, 17] = 1
    window = Window.round((18, 10), (12, 14), (1.5, 1), 64)
    inputs = window.to_input(image)[0, 0]
    row, column = window.points(np.array([[23, 17]]))[0]
    bright = torch.nonzero(inputs == inputs.max()).float().mean(0)
    assert abs(bright[0] - row) <= 1
    assert abs(bright[1] - column) <= 1


def test_the_way_back_puts_a_box_where_it_came_from() -> None:
    image = torch.zeros(1, 1, 40, 30)
    image[0, 0, 14:34, 12:24] = 1
    window = Window.round((-4, 8), (40, 20), (1, 1), 64)  # extends beyond the slice
    back = window.to_slice(window.to_input(image), 40, 30)
    assert back.shape == image.shape
    # Its four corners may be rounded off.
    assert ((back > 0.5) != (image > 0.5)).sum() <= 4


def test_marks_are_gaussians_of_known_width() -> None:
    """Half of the height at half of the width from the point; the width is 10 pixels of 512."""
    window = Window.round((0, 0), (512, 512), (1, 1), 512)
    maps = hint_maps(Hints(inside=np.array([[100.0, 200.0]])), window)
    assert maps[0, 100, 200] == 1
    assert maps[0, 100, 205] == pytest.approx(0.5)
    assert maps[0, 105, 200] == pytest.approx(0.5)
    assert not maps[1:].any()


def test_a_box_is_filled_whatever_the_order_of_its_corners() -> None:
    window = Window.round((0, 0), (32, 32), (1, 1), 32)
    box = hint_maps(Hints(box=np.array([[20.0, 5.0], [10.0, 9.0]])), window)[3]
    assert box[10:21, 5:10].all()
    assert box.sum() == 11 * 5


def test_what_encloses_the_object_is_looked_at_closely() -> None:
    nothing = np.zeros((100, 80), bool)
    box = Hints(box=np.array([[40.0, 30.0], [49.0, 39.0]]))
    window = window_of(box, nothing, (1, 1), 64)
    # Ten voxels, and half as many more on each side.
    assert (window.start, window.shape) == ((35, 25), (20, 20))
    click = Hints(inside=np.array([[45.0, 35.0]]))
    assert window_of(click, nothing, (1, 1), 64).shape == (100, 80)
    shown = nothing.copy()
    shown[40:50, 30:40] = True
    assert window_of(click, shown, (1, 1), 64).shape == (20, 20)


def truth() -> np.ndarray:
    mask = np.zeros((30, 30), bool)
    mask[8:20, 10:15] = True
    return mask


def test_extreme_points_touch_all_four_sides() -> None:
    points = draw_hints(truth(), np.zeros((30, 30), bool), "extreme", random()).extreme
    assert len(points) == 4
    assert (points[:, 0].min(), points[:, 0].max()) == (8, 19)
    assert (points[:, 1].min(), points[:, 1].max()) == (10, 14)
    assert truth()[points[:, 0].astype(int), points[:, 1].astype(int)].all()


def test_clicks_go_to_the_largest_mistakes() -> None:
    """Rows 12 to 19 of five columns are missing, and 5 × 5 voxels are too many: a click in each middle."""
    hints = draw_hints(truth(), mistaken(), "points", random())
    [[row, column]] = hints.inside.tolist()
    assert 14 <= row <= 17
    assert column == 12
    assert hints.outside.tolist() == [[24, 22]]


def test_the_middle_is_deepest_in_mm() -> None:
    """Rows of 1 mm, columns of 3 mm: 9 × 3 voxels are 5 mm deep, 5 × 5 only 3 mm; in voxels 2 and 3."""
    mask = np.zeros((12, 14), bool)
    mask[1:10, 1:4] = mask[3, 4:8] = mask[1:6, 8:13] = True
    none = np.zeros_like(mask)
    assert draw_hints(mask, none, "points", random(), spacing=(1, 3)).inside.tolist() == [[5, 2]]
    assert draw_hints(mask, none, "points", random()).inside.tolist() == [[3, 10]]


def mistaken() -> np.ndarray:
    seen = np.zeros((30, 30), bool)
    seen[8:12, 10:15] = True  # misses rows 12 to 19
    seen[22:27, 20:25] = True  # too much
    return seen


@pytest.mark.parametrize("kind", ["points", "scribble", "line"])
def test_a_correction_may_be_of_one_side_alone(kind: Kind) -> None:
    """Only missing: marks inside, in what is missing. Only excess: marks outside, in the excess."""
    missing, excess = mistaken() & truth(), mistaken() | truth()
    hints = draw_hints(truth(), missing, kind, random())
    assert len(hints.inside)
    assert all((truth() & ~missing)[int(r), int(c)] for r, c in hints.inside)
    assert not len(hints.outside)
    hints = draw_hints(truth(), excess, kind, random())
    assert not len(hints.inside)
    assert len(hints.outside)
    assert all((excess & ~truth())[int(r), int(c)] for r, c in hints.outside)


@pytest.mark.parametrize("kind", KINDS)
def test_every_correction_says_what_the_mask_contradicts(kind: Kind) -> None:
    """Whatever is wrong, a mask that obeys the marks is another one; a right one gets no mark against it."""
    for seed in range(30):
        drawn = np.random.default_rng(seed)
        real, seen = blobs(drawn), blobs(drawn)
        marks = draw_marks(real[..., 0], seen[..., 0], kind, drawn, axis=2, place=0, spacing=(1, 1, 1))
        rule = settled([marks], real.shape)
        assert rule.broken(real) == 0
        assert (rule.broken(seen) > 0) == (real != seen).any()
        for right in (real, ~real & False):
            there = real[..., 0], right[..., 0]
            confirmed = draw_marks(*there, kind, drawn, axis=2, place=0, spacing=(1, 1, 1))
            assert confirmed
            assert not len(confirmed.outside)
            assert settled([confirmed], real.shape).broken(real) == 0


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_marks_on_a_plane_of_a_scan_agree_with_the_truth(kind: Kind, axis: int) -> None:
    for seed in range(12):
        drawn = np.random.default_rng(seed)
        real, seen = (gaussian_filter(drawn.normal(size=(9, 10, 11)), 1.5) > 0.05 for _ in range(2))
        if seed % 3 == 0:
            seen[:] = False
        place = int(drawn.integers(real.shape[axis]))
        if seed == 1:
            real.swapaxes(0, axis)[place] = False
        there = np.take(real, place, axis), np.take(seen, place, axis)
        marks = draw_marks(*there, kind, drawn, axis=axis, place=place, spacing=(1, 2, 3))
        assert marks
        assert marks.axis == axis
        assert marks.planes() == {place}
        assert settled([marks], real.shape).broken(real) == 0
        assert (marks.empty.tolist() == [place]) == (not there[0].any())


def test_a_line_is_drawn_in_mm_and_kept_as_its_ends() -> None:
    """Four voxels of 3 mm along z are longer than eight of 1 mm along x: 9 mm and 7 mm."""
    real = np.zeros((10, 8), bool)
    real[1:9, 2] = real[1, 2:6] = True
    none = np.zeros_like(real)
    marks = draw_marks(real, none, "line", random(), axis=1, place=4, spacing=(1, 5, 3))
    assert sorted(marks.lines[0].tolist()) == [[1, 4, 2], [1, 4, 5]]
    assert not len(marks.inside)
    marks = draw_marks(real, none, "line", random(), axis=1, place=4, spacing=(1, 5, 1))
    assert sorted(marks.lines[0].tolist()) == [[1, 4, 2], [8, 4, 2]]
    # For a network that sees slices, its voxels are inside.
    assert len(draw_hints(real, none, "line", random()).inside) == 8


def test_where_a_box_would_change_nothing_clicks_correct() -> None:
    """A hole in the mask does not change its box, nor its extreme points."""
    seen = truth()
    seen[12:15, 12:14] = False
    kinds: tuple[Kind, ...] = ("box", "extreme")
    for kind in kinds:
        hints = draw_hints(truth(), seen, kind, random())
        assert not len(hints.box) + len(hints.extreme) + len(hints.outside)
        [[row, column]] = hints.inside.astype(int)
        assert 12 <= row < 15
        assert 12 <= column < 14
    for beyond in ((7, 12), (20, 12), (10, 9), (10, 15)):
        wider = seen.copy()
        wider[beyond] = True
        assert len(draw_hints(truth(), wider, "box", random()).box)
    # Without the topmost row, the mask is in the box, but misses an extreme point.
    seen[8] = False
    assert len(draw_hints(truth(), seen, "extreme", random()).extreme) == 4
    assert not len(draw_hints(truth(), seen, "box", random()).box)


def test_hybrid_draws_every_other_kind() -> None:
    none = np.zeros((30, 30), bool)
    drawn = [draw_hints(truth(), none, "hybrid", np.random.default_rng(seed)) for seed in range(60)]
    seen = {(len(hints.inside), len(hints.extreme), len(hints.box)) for hints in drawn}
    assert seen == {
        (len(hints.inside), len(hints.extreme), len(hints.box))
        for hints in (draw_hints(truth(), none, kind, random()) for kind in KINDS[:-1])
    }


def blobs(drawn: np.random.Generator) -> np.ndarray:
    """A random object on one plane (rows, columns, 1), never empty."""
    field = gaussian_filter(drawn.normal(size=(14, 15)), 1.5)
    return np.asarray((field >= np.quantile(field, drawn.uniform(0.5, 0.95)))[..., None])


def brute(mask: np.ndarray, spacing: tuple[float, float]) -> float:
    """The length of the longest line within a mask, by trying every pair of its voxels. mm."""
    best = 0.0
    for start, end in itertools.combinations(np.argwhere(mask), 2):
        length = float(np.linalg.norm((start - end) * spacing))
        if length > best and mask[tuple(line_voxels(start, end).T)].all():
            best = length
    return best


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 2.5)])
def test_the_longest_line_is_that_of_brute_force(spacing: tuple[float, float]) -> None:
    for seed in range(25):
        drawn = np.random.default_rng(seed)
        mask = blobs(drawn)[..., 0] if seed % 2 else drawn.random((9, 11)) < 0.7
        assert np.count_nonzero(mask) <= diameter.EXACT
        ends = diameter.longest_line(mask, spacing)
        assert mask[tuple(line_voxels(*ends).T)].all()
        assert np.linalg.norm((ends[0] - ends[1]) * spacing) == pytest.approx(brute(mask, spacing))


def test_the_longest_line_of_a_large_object() -> None:
    """Ellipses: the long axis, to a voxel. Rings: a chord that touches the hole, 2 √(60² − 40²) mm."""
    rows, columns = np.mgrid[:141, :141] - 70.0
    for angle in (0.0, 0.3, 1.1):
        along = rows * np.cos(angle) + columns * np.sin(angle)
        across = columns * np.cos(angle) - rows * np.sin(angle)
        ends = diameter.longest_line((along / 60) ** 2 + (across / 25) ** 2 <= 1)
        assert np.linalg.norm(ends[0] - ends[1]) == pytest.approx(120, abs=2)
    away = np.hypot(rows, columns)
    ring = (away <= 60) & (away >= 40)
    ends = diameter.longest_line(ring)
    assert ring[tuple(line_voxels(*ends).T)].all()
    assert np.linalg.norm(ends[0] - ends[1]) == pytest.approx(2 * (60**2 - 40**2) ** 0.5, abs=2)


def test_a_line_that_passes_halfway_between_voxels_is_found() -> None:
    """Masks of one line each, whose halves are rounded to either side."""
    for steps in (18, 22, 26, 44, 52):
        for across in range(steps + 1):
            line = line_voxels(np.array([0, 0]), np.array([steps, across]))
            mask = np.zeros((steps + 1, steps + 1), bool)
            mask[tuple(line.T)] = True
            ends = diameter.longest_line(mask)
            assert np.linalg.norm(ends[0] - ends[1]) == pytest.approx(np.hypot(steps, across))


def test_the_longest_line_of_a_voxel_and_of_nothing() -> None:
    mask = np.zeros((5, 6), bool)
    with pytest.raises(ValueError, match="empty"):
        diameter.longest_line(mask)
    mask[3, 2] = True
    assert diameter.longest_line(mask).tolist() == [[3, 2], [3, 2]]


@pytest.mark.parametrize("kind", KINDS)
def test_marks_within_an_object_lie_within_it(kind: Kind) -> None:
    for seed in range(5):
        drawn = np.random.default_rng(seed)
        hints = draw_hints(truth(), np.zeros((30, 30), bool), kind, drawn)
        assert hints
        inside = hints.inside.astype(int)
        assert truth()[inside[:, 0], inside[:, 1]].all()
        assert not len(hints.outside)


def test_an_object_that_is_not_there_is_said_not_to_be_there() -> None:
    empty = np.zeros((30, 30), bool)
    assert draw_hints(empty, truth(), "scribble", random()).nothing


def write(path: Path, shape: tuple[int, int, int] = (20, 24, 16), first: int = 4, last: int = 11) -> str:
    """A case whose only object is on slices `first` to `last` along z, with its number as grey value."""
    label = np.zeros(shape, np.uint8)
    label[6:14, 8:18, first : last + 1] = 1
    label[8:10, 10:12, first : last + 1] = 2
    image = np.broadcast_to(np.arange(shape[2]), shape).astype(np.int16)[None]
    lineage = Lineage.of(shape, np.eye(4), Box((0, 0, 0), shape))
    write_case(path, path.stem, Contents(image, label, None, lineage, ("a", "b")), (8, 8, 8), 500)
    return str(path)


def samples(paths: list[str], member: list[list[int]], **more: object) -> Samples:
    arguments: dict[str, object] = {
        "axis": "z",
        "size": 32,
        "frames": 3,
        "curriculum": Curriculum(2, 4, 10),
        "kinds": ["hybrid"],
        "intensity": [Intensity(clip=(0, 16), scale=(0.0, 1.0))],
        "augmentation": None,
        "seed": (0, 0),
        **more,
    }
    return Samples(paths, np.array(member, bool), **arguments)  # type: ignore[arg-type]


def test_slices_of_a_sample(tmp_path: Path) -> None:
    """The reference first and not empty; then the previous slices, outward; steps as in the curriculum."""
    drawn = samples([write(tmp_path / "a.h5")], [[0, 1, 1]])
    seen = set()
    for number in range(60):
        item = drawn[number]
        # The middle of the input shows the slice's number.
        order = [round(float(frame[0, 16, 16])) for frame in item["image"]]
        assert 4 <= order[0] <= 11
        assert item["mask"][0].any()
        rising = sorted(order)
        limit = 2 if number < 10 else 3 if number < 20 else 4
        assert max(np.diff(rising)) <= limit
        assert min(np.diff(rising)) >= 0
        assert 4 - limit <= rising[0]
        assert rising[-1] <= 11 + limit
        for place, mask in zip(order, item["mask"], strict=True):
            assert bool(mask.any()) == (4 <= place <= 11)
        place = rising.index(order[0])
        assert order == [*rising[: place + 1][::-1], *rising[place + 1 :]] or len(set(order)) < 3
        seen.add(place)
    assert seen == {0, 1, 2}


def test_samples_are_functions_of_their_number(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{n}.h5", first=2 + n) for n in range(3)]
    one = samples(paths, [[0, 1, 1]], augmentation=Augmentation())
    other = samples(paths, [[0, 1, 1]], augmentation=Augmentation())
    for number in (7, 3, 7, 0):
        for name, values in one[number].items():
            assert torch.equal(values, other[number][name])
    assert not torch.equal(one[3]["image"], one[4]["image"])


def test_every_case_comes_once_a_turn(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{n}.h5") for n in range(4)]
    drawn = samples(paths, [[0, 1, 1]])
    assert sorted(drawn._case(n) for n in range(4)) == paths
    assert sorted(drawn._case(n) for n in range(4, 8)) == paths


def test_hint_samples_hold_what_is_hinted_at(tmp_path: Path) -> None:
    """An object's marks lie in its target; channels are the image, hints and the mask shown."""
    drawn = samples([write(tmp_path / "a.h5")], [[0, 1, 0], [0, 0, 1]], kinds=["points"])
    for number in range(10):
        item = drawn[number]
        assert item["hint_input"].shape == (1 + 5, 32, 32)
        inside = item["hint_input"][1] == 1
        assert inside.any()
        assert item["hint_target"][inside].float().mean() > 0.4


def test_several_objects_keep_their_numbers(tmp_path: Path) -> None:
    item = samples([write(tmp_path / "a.h5")], [[0, 0, 1], [0, 1, 0]])[0]
    assert set(item["mask"][0].unique().tolist()) == {0, 1, 2}
    assert (item["mask"][0] == 2).sum() > (item["mask"][0] == 1).sum()
    assert objects_of(np.array([0, 1, 2]), np.array([[0, 0, 1], [0, 1, 0]], bool)).tolist() == [0, 2, 1]


@pytest.mark.parametrize("axis", ["x", "y"])
def test_other_axes(tmp_path: Path, axis: str) -> None:
    item = samples([write(tmp_path / "a.h5")], [[0, 1, 1]], axis=axis)[0]
    # The grey value grows along z, which is the slice's second axis now.
    image = item["image"][0, 0]
    assert image[16].max() > image[16].min() + 5
    assert item["mask"][0].any()


def test_no_object_at_all_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", first=5, last=4)
    with pytest.raises(CaseError, match="no training case"):
        samples([path], [[0, 1, 1]])


@pytest.mark.parametrize(
    ("hints", "wanted"),
    [
        (Hints(inside=np.array([[3.0, 4.0], [4.0, 5.0], [0.0, 0.0], [9.0, 9.0]])), 0.5),
        (Hints(inside=np.array([[3.0, 4.0]]), outside=np.array([[2.0, 2.0], [3.0, 3.0], [0.0, 0.0]])), 1 / 3),
        # Enlarged by a voxel on each side: rows 1 to 6 and columns 1 to 8 are 48, with columns 3 to 8 they
        # are 36.
        (Hints(extreme=np.array([[2.0, 5.0], [5.0, 5.0], [3.0, 4.0], [3.0, 7.0]])), 36 / 48),
        (Hints(box=np.array([[2.0, 2.0], [5.0, 7.0]])), 1),
        (Hints(box=np.array([[9.0, 0.0], [11.0, 1.0]])), 0),
        (Hints(nothing=True), 0),
    ],
)
def test_how_well_a_mask_follows_hints(hints: Hints, wanted: float) -> None:
    mask = np.zeros((12, 12), bool)
    mask[2:6, 2:8] = True
    assert followed(hints, mask) == pytest.approx(wanted)
    # An empty mask follows only "nothing".
    assert followed(hints, np.zeros_like(mask)) == float(hints.nothing)
