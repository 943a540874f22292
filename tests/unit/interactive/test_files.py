"""Marks from files: points, scribbles, boxes, lines; faulty ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foldwise.files import CaseError
from foldwise.systems.interactive.files import joined, read_box, read_points, read_scribble
from foldwise.volumes.volume import Volume, read_header, write_volume

AFFINE = np.diag([1.0, 1, 2, 1])
# Slices lie along the file's first axis.
AXIS = 0


def test_points_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text(
        "x,y,z,kind,object\n3,4,5,inside,a\n3,5,6,box,b\n3,9,7,box,b\n2,1,1,line,b\n2,4,4,line,b\n4,4,4,outside,a\n",
        encoding="utf-8",
    )
    marked = read_points(path, ["a", "b"], AXIS)
    assert [marks.as_dict() for marks in marked[1]] == [
        {"axis": 0, "inside": [[3, 4, 5]], "outside": [[4, 4, 4]]}
    ]
    assert [marks.as_dict() for marks in marked[2]] == [
        {"axis": 0, "lines": [[[2, 1, 1], [2, 4, 4]]], "boxes": [[[3, 5, 6], [3, 9, 7]]]}
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y,z,kind\n", "no points"),
        ("x,y\n1,2\n", "no column `z`"),
        ("x,y,z,kind,object\n1,2,here,inside,a\n", "line 2: x, y and z must be numbers"),
        ("x,y,z,kind,object\n1,2,1e300,inside,a\n", "line 2: x, y and z must be numbers"),
        ("x,y,z,kind\n1,2,3,circle\n", "line 2: kind 'circle'"),
        ("x,y,z,object\n1,2,3,heart\n", "object 'heart'"),
        ("x,y,z,kind,object\n1,2,3,box,a\n", "a box needs two rows"),
        ("x,y,z,kind,object\n1,2,3,box,a\n2,3,4,box,a\n", "a box needs two rows.* on one slice along x"),
        ("x,y,z,kind,object\n1,2,3,line,a\n", "a line needs two rows: its ends"),
        ("x,y,z,kind,object\n1,2,3,extreme,a\n", r"1 extreme point\(s\) on slice 1 along x; expected four"),
    ],
)
def test_faulty_points(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "points.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CaseError, match=message):
        read_points(path, ["a", "b"], AXIS)


def write(path: Path, *marks: tuple[tuple[int, int, int], int]) -> Path:
    data = np.zeros((10, 12, 8), np.uint8)
    for voxel, value in marks:
        data[voxel] = value
    write_volume(Volume(data, AFFINE), path)
    return path


def test_scribbles_from_a_file(tmp_path: Path) -> None:
    """Outside marks are of all objects."""
    path = write(tmp_path / "s.nii.gz", ((3, 4, 5), 7), ((3, 5, 5), 7), ((3, 0, 0), 255), ((6, 1, 1), 7))
    marked = read_scribble(path, read_header(path), {"a": 7, "b": 8}, AXIS)
    (first,), (second,) = marked[1], marked[2]
    assert first.inside.tolist() == [[3, 4, 5], [3, 5, 5], [6, 1, 1]]
    assert first.planes() == {3, 6}
    assert first.outside.tolist() == second.outside.tolist() == [[3, 0, 0]]
    assert not len(second.inside)
    both = joined([marked, read_box([3, 4, 5, 3, 6, 7], "a", ["a", "b"], AXIS)])
    assert [marks.boxes.tolist() for marks in both[1]] == [[], [[[3, 4, 5], [3, 6, 7]]]]


def test_an_object_of_255_is_not_the_rest(tmp_path: Path) -> None:
    """As in masks of 0 and 255, which are common."""
    path = write(tmp_path / "s.nii.gz", ((3, 4, 5), 255), ((3, 0, 0), 253))
    marked = read_scribble(path, read_header(path), {"a": 255, "b": 254}, AXIS)
    assert marked[1][0].inside.tolist() == [[3, 4, 5]]
    assert marked[1][0].outside.tolist() == [[3, 0, 0]]
    with pytest.raises(CaseError, match="value 253 is not known; use 255 a, 254 outside"):
        read_scribble(path, read_header(path), {"a": 255}, AXIS)


def test_faulty_scribbles(tmp_path: Path) -> None:
    path = write(tmp_path / "s.nii.gz")
    header = read_header(path)
    with pytest.raises(CaseError, match="the scribble is empty"):
        read_scribble(path, header, {"a": 7}, AXIS)
    write(path, ((0, 0, 0), 3))
    with pytest.raises(CaseError, match="value 3 is not known"):
        read_scribble(path, header, {"a": 7}, AXIS)
    write_volume(Volume(np.full((9, 12, 8), 7, np.uint8), AFFINE), path)
    with pytest.raises(CaseError, match="grid"):
        read_scribble(path, header, {"a": 7}, AXIS)


def test_boxes_lie_on_a_slice_of_any_axis() -> None:
    assert read_box([3, 4, 5, 3, 6, 7], "", ["a"], AXIS)[1][0].axis == 0
    assert read_box([3, 4, 5, 6, 4, 7], "", ["a"], AXIS)[1][0].axis == 1
    with pytest.raises(CaseError, match="spans several slices"):
        read_box([3, 4, 5, 4, 6, 7], "", ["a"], AXIS)
    with pytest.raises(CaseError, match="coordinates must be numbers"):
        read_box([3, 4, 5, 3, 6, float("inf")], "", ["a"], AXIS)
    with pytest.raises(CaseError, match="the box: object 'c'; use one of a"):
        read_box([3, 4, 5, 3, 6, 7], "c", ["a"], AXIS)
