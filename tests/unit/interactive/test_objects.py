"""Objects of a session that are removed, hidden or locked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from foldwise.files import CaseError
from foldwise.systems.interactive.annotation import Annotation
from foldwise.systems.interactive.engines.classical import Classical
from foldwise.systems.interactive.marks import Marks
from foldwise.systems.interactive.objects import Object
from foldwise.volumes.objects_in import read_objects
from foldwise.volumes.volume import read_header

SHAPE = (12, 10, 6)
AFFINE = np.diag([1.0, 2, 3, 1])
OBJECTS = [Object("liver", 5, "#ff0000"), Object("cyst", 6, "#00ff00"), Object("node", 9, "#0000ff")]


def write(path: Path, labels: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(labels, AFFINE), path)
    return path


def opened(folder: Path) -> Annotation:
    scan = folder / "scan.nii.gz"
    if not scan.exists():
        write(scan, np.random.default_rng(0).integers(0, 100, SHAPE).astype(np.int16))
    return Annotation(
        [scan], folder / "session", {"classical": Classical}, engine="classical", objects=OBJECTS
    )


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Annotation]:
    """Three columns of voxels, the second of which has marks."""
    one = opened(tmp_path)
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3], labels[5:7], labels[9:11] = 1, 2, 3
    one.take(labels, one.objects, "columns")
    one.round({2: (Marks(2, inside=np.array([[5, 5, 3]])),)})
    yield one
    one.close()


def test_a_removed_object_leaves_all_others_as_they_are(session: Annotation) -> None:
    before, marks = session.labels.copy(), session.state.marks[2]
    session.remove_object(2)
    assert np.array_equal(session.labels, np.where(before == 2, 0, before))
    assert [one["number"] for one in session.facts()["objects"]] == [1, 3]
    assert 2 not in session.state.marks
    (mask, quality), (slicer, _) = session.save("nifti"), session.save("slicer")
    values = np.asarray(nib.load(mask).dataobj)
    assert np.array_equal(values == 5, before == 1)
    assert np.array_equal(values == 9, before == 3)
    assert set(np.unique(values)) == {0, 5, 9}
    assert "cyst" not in quality.read_text(encoding="utf-8")
    scan = session.volumes[0]
    found = read_objects(slicer, scan, read_header(scan))
    assert [(one.name, one.value) for one in found.listed] == [("liver", 5), ("node", 9)]
    session.undo()
    assert np.array_equal(session.labels, before)
    assert session.state.marks[2] == marks
    assert session.names == ["liver", "cyst", "node"]


def test_numbers_of_removed_objects_are_not_given_to_others(session: Annotation, tmp_path: Path) -> None:
    for number in (2, 3):
        session.remove_object(number)
    session.add_object("cyst")
    # Values: the smallest free one; those of the removed objects, 6 and 9, are not.
    assert [(one["number"], one["value"]) for one in session.facts()["objects"]] == [(1, 5), (4, 1)]
    labels = np.zeros(SHAPE, np.uint8)
    labels[6, 6, 2], labels[7, 7, 2] = 6, 7
    path = write(tmp_path / "more.nii.gz", labels)
    path.with_name("more.tsv").write_text("index\tname\n6\tnode\n7\tcyst\n", encoding="utf-8")
    session.load(path)
    assert session.labels[7, 7, 2] == 4
    assert session.labels[6, 6, 2] == 5
    # Above those of the session, with the removed ones, and of the file.
    assert session.objects[4].value == 10
    assert "have or had the values of node (6, here 10)." in session.facts()["message"]
    for call in (lambda: session.remove_object(2), lambda: session.change_object(2, name="other")):
        with pytest.raises(CaseError, match="there is no object 2"):
            call()
    with pytest.raises(CaseError, match="was removed"):
        session.edit(np.array([0]), np.array([2]))


def test_a_removal_outlives_the_process(session: Annotation, tmp_path: Path) -> None:
    before = session.labels.copy()
    session.remove_object(2)
    session.edit(np.array([0]), np.array([1]))
    session.close()
    again = opened(tmp_path)
    # The command names all three again; what was removed does not come back by that.
    assert again.names == ["liver", "", "node"]
    assert 2 not in again.state.marks
    again.undo()
    again.undo()
    assert np.array_equal(again.labels, before)
    assert len(again.state.marks[2]) == 1
    again.redo()
    assert not (again.labels == 2).any()
    assert 2 not in again.state.marks
    again.close()


def test_a_session_without_objects_says_what_to_do(session: Annotation) -> None:
    for number in (1, 2, 3):
        session.remove_object(number)
    assert not session.labels.any()
    assert session.facts()["suggestion"] is None
    with pytest.raises(CaseError, match="no object to save"):
        session.save("nifti")


@pytest.mark.parametrize(
    ("how", "words"), [("hidden", "is hidden; show it"), ("locked", "is locked; unlock")]
)
def test_nothing_changes_objects_that_nobody_sees(
    session: Annotation, tmp_path: Path, how: str, words: str
) -> None:
    session.change_object(1, **{how: True})  # type: ignore[arg-type]
    version, before = session.version, session.labels == 1
    there = np.array([[1, 5, 3]])
    path = write(tmp_path / "liver.nii.gz", np.full(SHAPE, 5, np.uint8))
    path.with_name("liver.tsv").write_text("index\tname\n5\tliver\n", encoding="utf-8")
    for change in (
        lambda: session.round({1: (Marks(2, inside=there),)}),
        lambda: session.round({2: (Marks(2, inside=there),)}),
        lambda: session.edit(np.flatnonzero(before)[:1], np.array([2])),
        lambda: session.edit(np.array([0]), np.array([1])),
        lambda: session.remove_object(1),
        lambda: session.load(path),
    ):
        with pytest.raises(CaseError, match=words):
            change()
    assert session.version == version
    # A round of another object leaves it as it is, and hidden.
    session.round({2: (Marks(2, inside=np.array([[3, 5, 3]]), outside=np.array([[8, 5, 3]])),)})
    assert session.labels[3, 5, 3] == 2
    assert np.array_equal(session.labels == 1, before)
    assert getattr(session.objects[0], how)
