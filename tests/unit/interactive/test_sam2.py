"""SAM 2 on scans: what it is asked, and where its answer goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foldwise.files import CaseError
from foldwise.networks.sam_video import Followed, Points
from foldwise.systems.interactive.engines import Request, Scan, StoppedError
from foldwise.systems.interactive.engines.choice import Options, open_engine
from foldwise.systems.interactive.engines.sam2 import MOST_POINTS, MOST_SLICES, Sam2, prompts_of, window
from foldwise.systems.interactive.marks import Marks
from tiny_sam_video import save_tiny_network

SHAPE = (5, 7, 9)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_network(tmp_path_factory.mktemp("sam2"))


class Spy:
    """In place of the network: notes what it is asked, and finds what is white."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []
        self.prompts: Mapping[int, Any] = {}

    def __call__(self, frames: Sequence[np.ndarray], prompts: Mapping[int, Any], patience: int) -> Followed:
        self.frames, self.prompts = [frames[n] for n in range(len(frames))], prompts
        masks = np.array([frame[..., 0] == 255 for frame in self.frames])
        return Followed(masks, np.full(len(masks), 1.25, np.float32))


def request(
    axis: int, *rounds: Marks, labels: np.ndarray | None = None, progress: Any = lambda share: None
) -> Request:
    before = np.zeros(SHAPE, np.uint8) if labels is None else labels
    return Request(before, {1: rounds}, {1: rounds[-1:]}, axis, progress)


def voxels(*points: tuple[int, int, int]) -> np.ndarray:
    return np.array(points)


def spied(image: np.ndarray, weights: Path) -> tuple[Sam2, Spy]:
    engine = open_engine("sam2", Scan(image[None], np.eye(4)), Options(weights=weights))
    assert isinstance(engine, Sam2)
    spy = Spy()
    engine._network = spy  # type: ignore[assignment]
    return engine, spy


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_points_are_on_the_voxels_that_were_marked(weights: Path, axis: int) -> None:
    voxel = (3, 2, 7)
    image = np.zeros(SHAPE, np.int16)
    image[voxel] = 500
    engine, spy = spied(image, weights)
    answer = engine.segment(request(axis, Marks(axis, inside=voxels(voxel))))
    assert np.array_equal(answer.masks[1] > 127, image > 0)
    assert answer.masks[1].dtype == np.uint8
    [(place, points)] = spy.prompts.items()
    assert (place, points.labels.tolist()) == (voxel[axis], [1])
    x, y = np.floor(points.places[0]).astype(int)
    assert spy.frames[place][y, x].tolist() == [255, 255, 255]
    assert sum(int(frame.any(-1).sum()) for frame in spy.frames) == 1
    # Known only where it found something, and no IoU is above 1.
    expected = np.full(SHAPE[axis], np.nan)
    expected[voxel[axis]] = 1
    np.testing.assert_array_equal(answer.quality[1], expected)


def test_boxes_contain_their_corners() -> None:
    marks = Marks(1, boxes=np.array([[[4, 3, 2], [1, 3, 6]]]), outside=voxels((0, 3, 8)))
    [(place, points)] = prompts_of(1, request(1, marks)).items()
    assert place == 3
    assert isinstance(points, Points)
    # Columns are z and rows are x; the last voxel ends at its index plus one.
    assert points.places.tolist() == [[2, 1], [7, 5], [8.5, 0.5]]
    assert points.labels.tolist() == [2, 3, 0]
    extreme = Marks(1, extreme=voxels((1, 3, 4), (4, 3, 5), (2, 3, 2), (3, 3, 6)))
    assert np.array_equal(prompts_of(1, request(1, extreme))[3].places, points.places[:2])  # type: ignore[union-attr]


def test_slices_of_earlier_rounds() -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3, 2:5, 4], labels[0, 0, 4], labels[1:4, 1:3, 6] = 1, 2, 1
    first = Marks(2, inside=voxels((1, 3, 4), (1, 1, 1)))
    # An object that was corrected by a click outside on a slice with a mask, from another plane.
    prompts = prompts_of(1, request(2, first, Marks(0, outside=voxels((2, 1, 6))), labels=labels))
    assert list(prompts) == [1, 4, 6]
    assert np.array_equal(np.argwhere(prompts[4]), np.argwhere(labels[..., 4] == 1))
    old, new = prompts[1], prompts[6]
    assert isinstance(old, Points)
    assert old.places.tolist() == [[1.5, 1.5]]
    assert isinstance(new, Points)
    assert new.places.tolist() == [[1, 1], [3, 4], [1.5, 2.5]]
    assert new.labels.tolist() == [2, 3, 0]


def test_withdrawn_and_painted_marks() -> None:
    wrong = Marks(2, inside=voxels((1, 1, 4)), boxes=np.array([[[0, 0, 4], [3, 3, 4]]]))
    right = Marks(2, inside=voxels((4, 6, 4)), outside=voxels((1, 1, 4)))
    [points] = prompts_of(1, request(2, wrong, right)).values()
    assert isinstance(points, Points)
    assert points.places.tolist() == [[6.5, 4.5], [1.5, 1.5]]
    assert points.labels.tolist() == [1, 0]
    # A slice that was painted on is as the person wants it; a ball was not looked at slice by slice.
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:4, 2:4, 6:9] = 1
    painted = Marks(2, inside=voxels((2, 2, 8)), painted=True)
    ball = Marks(2, inside=voxels((3, 3, 6), (3, 3, 7)), painted=True)
    prompts = prompts_of(1, request(2, painted, ball, right, labels=labels))
    assert list(prompts) == [4, 8]
    assert np.array_equal(np.argwhere(prompts[8]), np.argwhere(labels[..., 8]))


def test_long_scribbles_are_few_prompts() -> None:
    shape = (50, 50, 50)
    line = np.stack([np.full(50, 7), np.arange(50), np.arange(50)], 1)
    one = Marks(0, inside=line)
    whole = np.zeros(shape, np.uint8)
    across = prompts_of(1, Request(whole, {1: (one,)}, {1: (one,)}, 2))
    assert len(across) == MOST_SLICES
    assert (min(across), max(across)) == (0, 49)
    [(place, points)] = prompts_of(1, Request(whole, {1: (one,)}, {1: (one,)}, 0)).items()
    assert place == 7
    assert isinstance(points, Points)
    assert len(points.labels) == MOST_POINTS
    assert {tuple(point) for point in points.places} <= {(n + 0.5, n + 0.5) for n in range(50)}
    # What was marked now has priority.
    later = Marks(2, inside=voxels((1, 1, 24)))
    both = prompts_of(1, Request(whole, {1: (one, later)}, {1: (later,)}, 2))
    assert len(both) == MOST_SLICES
    assert 24 in both


@pytest.mark.parametrize("axis", [0, 1])
def test_the_axis_across_the_slices(weights: Path, axis: int) -> None:
    """With its axes in another order, a scan has the same slices, and the same answer."""
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    image[1:4, 2:6, 3:7] += 5
    turned = np.moveaxis(image, 2, axis)

    def answer(scan: np.ndarray, across: int, voxel: Sequence[int]) -> Any:
        engine = open_engine("sam2", Scan(scan[None], np.eye(4)), Options(weights=weights))
        low, high = (np.insert(corner, across, voxel[across]) for corner in ([1, 2], [3, 5]))
        marks = Marks(across, boxes=np.array([[low, high]]), inside=voxels(tuple(voxel)))  # type: ignore[arg-type]
        labels = np.zeros(scan.shape, np.uint8)
        return engine.segment(Request(labels, {1: (marks,)}, {1: (marks,)}, across))

    expected, found = answer(image, 2, [2, 4, 5]), answer(turned, axis, np.insert([2, 4], axis, 5).tolist())
    assert found.masks[1].shape == turned.shape
    np.testing.assert_array_equal(np.moveaxis(found.masks[1], axis, 2), expected.masks[1])
    np.testing.assert_array_equal(found.quality[1], expected.quality[1])
    # The comparison means something.
    assert 0.02 < (expected.masks[1] > 0).mean() < 0.98
    assert np.isfinite(expected.quality[1]).any()


def test_slices_that_are_not_looked_at(weights: Path) -> None:
    image = np.zeros(SHAPE, np.int16)
    image[2, 3] = 500
    engine, spy = spied(image, weights)
    start = Marks(2, inside=voxels((2, 3, 4)))
    answer = engine.segment(request(2, start, Marks(2, spans=np.array([[2, 6]]))))
    assert (len(spy.frames), list(spy.prompts)) == (5, [2])
    assert np.flatnonzero(answer.masks[1].any((0, 1))).tolist() == [2, 3, 4, 5, 6]
    answer = engine.segment(request(2, start, Marks(2, empty=np.array([3, 7]))))
    assert np.flatnonzero(answer.masks[1].any((0, 1))).tolist() == [4, 5, 6]


def test_marks_that_cannot_be_followed(weights: Path) -> None:
    engine, _ = spied(np.zeros(SHAPE, np.int16), weights)
    with pytest.raises(CaseError, match=r"object 1: SAM 2 has nothing to follow; .* across axis y"):
        engine.segment(request(1, Marks(1, outside=voxels((0, 0, 0)))))
    with pytest.raises(CaseError, match="SAM 2 has nothing to follow"):
        engine.segment(request(1, Marks(0, boxes=np.array([[[2, 2, 2], [2, 4, 4]]]))))


def test_other_weights(tmp_path: Path) -> None:
    scan = Scan(np.zeros((1, *SHAPE)), np.eye(4))
    with pytest.raises(CaseError, match=r"no folder with a model .*; engine sam2 needs Sam2VideoModel"):
        open_engine("sam2", scan, Options(weights=tmp_path))


def test_a_person_stops(weights: Path) -> None:
    shares: list[float] = []

    def progress(share: float) -> None:
        shares.append(share)
        if share > 0.5:
            raise StoppedError

    engine = open_engine("sam2", Scan(np.ones((1, *SHAPE)), np.eye(4)), Options(weights=weights))
    marks = Marks(2, inside=voxels((2, 3, 4)))
    with pytest.raises(StoppedError):
        engine.segment(request(2, marks, progress=progress))
    assert shares == sorted(shares)
    assert shares[-2] <= 0.5 < shares[-1] <= 1


def test_the_window_of_ct_is_around_the_marks() -> None:
    image = np.full((60, 20, 20), -1000, np.int16)
    image[:10], image[10:20], image[50:] = 40, 60, 900
    scan, marks = Scan(image[None], np.diag([5.0, 1, 1, 1])), Marks(2, inside=voxels((9, 10, 10)))
    # 25 mm are 5 voxels along x.
    assert window(scan, image, (marks,)) == (40, 60)
    assert window(scan, image, (Marks(0, empty=np.array([1])),)) == (-1000, 900)


def test_the_window_of_others_is_of_all_that_is_not_0() -> None:
    values = np.zeros(3000, np.uint16)
    values[:1001] = np.arange(1000, 2001)
    image = values.reshape(30, 10, 10)
    # The percentiles 0.5 and 99.5 of 1000, …, 2000.
    scan = Scan(image[None], np.eye(4))
    assert window(scan, image, (Marks(0, inside=voxels((0, 0, 0))),)) == (1005, 1995)
    assert window(scan, image * 0, ()) == (0, 1)
