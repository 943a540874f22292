"""What marks settle, how later ones withdraw earlier ones, and their form for networks."""

from __future__ import annotations

import numpy as np
import pytest

from foldwise.systems.interactive.hints import Hints
from foldwise.systems.interactive.marks import Marks, of_slice, on_plane, settled

SHAPE = (6, 7, 8)


def points(*voxels: tuple[int, int, int]) -> np.ndarray:
    return np.array(voxels)


def at(*voxels: tuple[int, int, int]) -> list[int]:
    return sorted(int(np.ravel_multi_index(voxel, SHAPE)) for voxel in voxels)


def test_a_later_mark_of_a_voxel_replaces_an_earlier_one() -> None:
    said = [
        Marks(2, inside=points((1, 1, 3), (2, 2, 3))),
        Marks(2, outside=points((1, 1, 3))),
        Marks(2, outside=points((2, 2, 3)), inside=points((4, 4, 4))),
        Marks(2, inside=points((2, 2, 3))),
    ]
    found = settled(said, SHAPE)
    assert found.inside.tolist() == at((2, 2, 3), (4, 4, 4))
    assert found.outside.tolist() == at((1, 1, 3))
    assert found.barred is None


def test_a_diameter_is_of_the_object() -> None:
    line = Marks(2, lines=np.array([[[1, 1, 3], [4, 1, 3]]]))
    assert settled([line], SHAPE).inside.tolist() == at((1, 1, 3), (2, 1, 3), (3, 1, 3), (4, 1, 3))
    assert line.planes() == {3}


def test_boxes_spans_and_empty_slices_bar_the_rest() -> None:
    marks = Marks(2, boxes=np.array([[[4, 2, 3], [1, 5, 3]]]), spans=np.array([[2, 6]]), empty=np.array([5]))
    barred = settled([marks], SHAPE).barred
    expected = np.zeros(SHAPE, bool)
    expected[:, :, :2] = expected[:, :, 7:] = expected[:, :, 5] = True
    expected[:, :, 3] = True
    expected[1:5, 2:6, 3] = False
    assert barred is not None
    assert np.array_equal(barred, expected)
    assert marks.planes() == {3, 5}


def test_four_extreme_points_are_a_box_and_fewer_are_not() -> None:
    four = points((1, 3, 3), (4, 3, 3), (2, 2, 3), (2, 5, 3))
    barred = settled([Marks(2, extreme=four)], SHAPE).barred
    assert barred is not None
    assert not barred[1:5, 2:6, 3].any()
    assert barred[..., 3].sum() == 6 * 7 - 16
    assert settled([Marks(2, extreme=four[:3])], SHAPE).barred is None


@pytest.mark.parametrize(
    ("earlier", "later", "planes"),
    [
        # A voxel on an empty slice: the slice is not empty.
        (Marks(2, empty=np.array([3])), Marks(2, inside=points((1, 1, 3))), []),
        # A voxel beyond the first slice: the object begins earlier.
        (Marks(2, spans=np.array([[2, 7]])), Marks(2, inside=points((1, 1, 0))), []),
        # A box, too, says that the object is there.
        (Marks(2, spans=np.array([[2, 7]])), Marks(2, boxes=np.array([[[0, 0, 0], [5, 6, 0]]])), []),
        # The end of a span is said anew.
        (Marks(2, spans=np.array([[2, 7]])), Marks(2, spans=np.array([[1, 7]])), [0]),
    ],
)
def test_what_is_marked_later_withdraws_limits(earlier: Marks, later: Marks, planes: list[int]) -> None:
    found = settled([earlier, later], SHAPE)
    closed = np.flatnonzero(found.barred_planes(2, SHAPE[2])).tolist()
    assert closed == planes
    # In the other order the limit holds, and a voxel beyond it does not.
    other = settled([later, earlier], SHAPE)
    assert len(other.barred_planes(2, SHAPE[2]).nonzero()[0]) > 0
    assert not len(other.inside)


def test_a_later_box_replaces_one_on_its_slice() -> None:
    first = Marks(2, boxes=np.array([[[0, 0, 3], [2, 2, 3]]]))
    second = Marks(2, boxes=np.array([[[3, 3, 3], [5, 5, 3]]]))
    barred = settled([first, second], SHAPE).barred
    assert barred is not None
    assert not barred[3:6, 3:6, 3].any()
    assert barred[..., 3].sum() == 6 * 7 - 9


def test_a_mask_obeys() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        voxels = random.integers(0, SHAPE, (12, 3))
        marks = Marks(
            1,
            inside=voxels[:6],
            outside=voxels[6:],
            boxes=np.sort(random.integers(0, SHAPE, (1, 2, 3)), axis=1) * [1, 0, 1],
        )
        mask = random.random(SHAPE) < 0.5
        found = settled([marks], SHAPE)
        obeyed = found.apply(mask)
        assert found.broken(obeyed) == 0
        assert found.broken(~obeyed) > 0
        for place in range(SHAPE[1]):
            slice_ = np.where(mask[:, place], 200, 50).astype(np.uint8)
            assert np.array_equal(found.on_plane(1, place).probable(slice_) > 127, obeyed[:, place])


def test_what_is_settled_on_a_plane() -> None:
    marks = Marks(2, inside=points((1, 1, 3), (2, 2, 4)), outside=points((3, 3, 3)), empty=np.array([6]))
    flat = settled([marks], SHAPE).on_plane(2, 3)
    assert flat.inside.tolist() == [1 * 7 + 1]
    assert flat.outside.tolist() == [3 * 7 + 3]
    assert flat.barred is not None
    assert not flat.barred.any()


def test_hints_of_a_plane_and_back() -> None:
    hints = Hints(
        inside=np.array([[1.0, 2.0]]),
        outside=np.array([[3.0, 3.0]]),
        extreme=np.array([[0.0, 1.0], [4.0, 1.0], [2.0, 0.0], [2.0, 5.0]]),
        box=np.array([[0.0, 0.0], [4.0, 5.0]]),
    )
    for axis in range(3):
        marks = of_slice(hints, axis, 4)
        assert marks.planes() == {4}
        back = on_plane([marks], axis, 4)
        for kind in ("inside", "outside", "extreme", "box"):
            assert np.array_equal(getattr(back, kind), getattr(hints, kind))
        assert not on_plane([marks], axis, 3)
    assert on_plane([of_slice(Hints(nothing=True), 0, 2)], 0, 2).nothing


def test_marks_of_another_axis_count_with_their_voxels() -> None:
    sagittal = Marks(0, inside=points((2, 3, 4), (2, 4, 5)), boxes=np.array([[[2, 0, 0], [2, 6, 7]]]))
    seen = on_plane([sagittal], 2, 4)
    assert seen.inside.tolist() == [[2, 3]]
    assert not len(seen.box)


def test_a_brush_in_depth_marks_no_slice_as_seen() -> None:
    flat = Marks(2, inside=points((1, 1, 3), (1, 2, 3)), painted=True)
    deep = Marks(2, inside=points((1, 1, 3), (1, 1, 4)), painted=True)
    assert flat.planes() == {3}
    assert deep.planes() == set()


def test_marks_as_json() -> None:
    marks = Marks(1, inside=points((1, 2, 3)), spans=np.array([[0, 4]]), empty=np.array([5]))
    again = Marks.from_dict(marks.as_dict())
    assert (
        again.as_dict()
        == marks.as_dict()
        == {
            "axis": 1,
            "inside": [[1, 2, 3]],
            "spans": [[0, 4]],
            "empty": [5],
        }
    )
    with pytest.raises(ValueError, match="unknown kind of marks circles"):
        Marks.from_dict({"axis": 0, "circles": []})
    with pytest.raises(ValueError, match="axis 3; expected 0 to 2"):
        Marks.from_dict({"axis": 3})
