"""Rounds that obey every mark, what is doubtful, painting, and the simulated user's sessions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foldwise.files import CaseError
from foldwise.systems.interactive.engines import Answer, Request, Scan
from foldwise.systems.interactive.marks import Marks, settled
from foldwise.systems.interactive.rounds import broken, chosen, simulate, slice_iou
from foldwise.systems.interactive.session import advance, edited, merged, withdrawn
from foldwise.systems.interactive.state import State, doubts
from interactive_scans import Bright, Says, memory_engine
from synthetic import ball

SHAPE = (8, 9, 10)
SCAN = Scan(np.zeros((1, *SHAPE), np.int16), np.eye(4))
NAMES = ["a", "b"]


class Stubborn:
    """Answers with fixed masks, whatever is marked."""

    name = "stubborn"

    def __init__(self, *masks: np.ndarray, quality: float = 0.9) -> None:
        self.masks, self.quality = masks, quality
        self.asked: list[Request] = []

    def segment(self, request: Request) -> Answer:
        self.asked.append(request)
        masks = {number: self.masks[number - 1].astype(np.uint8) * 200 for number in request.new}
        slices = request.labels.shape[request.axis]
        return Answer(masks, {n: np.full(slices, self.quality, np.float32) for n in request.new})


def cube(low: int, high: int) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[2:6, 2:6, low:high] = True
    return mask


def play(engine: Stubborn, *rounds: dict[int, Marks], held: dict[int, str] | None = None) -> State:
    state = State.empty(SHAPE, 2)
    for new in rounds:
        given = {number: (marks,) for number, marks in new.items()}
        state = advance(engine, SCAN, state, given, NAMES, held=held or {})
    return state


def test_marks_are_obeyed_whatever_the_engine_answers() -> None:
    random = np.random.default_rng(0)
    for _ in range(10):
        engine = Stubborn(random.random(SHAPE) < 0.5, random.random(SHAPE) < 0.5)
        rounds = []
        for _ in range(3):
            voxels = np.unique(random.integers(0, SHAPE, (20, 3)), axis=0)
            random.shuffle(voxels)
            one = Marks(2, inside=voxels[:5], outside=voxels[5:10])
            rounds.append({1: one, 2: Marks(2, inside=voxels[10:15], empty=np.array([]))})
        state = play(engine, *rounds)
        assert broken(state) == 0
        last = rounds[-1]
        assert (state.labels[tuple(last[1].inside.T)] == 1).all()
        assert (state.labels[tuple(last[1].outside.T)] != 1).all()
        assert (state.labels[tuple(last[2].inside.T)] == 2).all()


def test_engines_see_all_marks_and_the_labels() -> None:
    engine = Stubborn(cube(2, 5))
    first, second = Marks(2, inside=np.array([[3, 3, 3]])), Marks(2, outside=np.array([[0, 0, 0]]))
    play(engine, {1: first}, {1: second})
    assert [len(request.marks[1]) for request in engine.asked] == [1, 2]
    assert engine.asked[1].new[1] == (second,)
    assert np.array_equal(engine.asked[1].labels == 1, cube(2, 5))


def test_others_keep_their_voxels_unless_these_are_marked() -> None:
    engine = Stubborn(cube(2, 6), cube(4, 8))
    state = play(
        engine, {1: Marks(2, inside=np.array([[3, 3, 3]]))}, {2: Marks(2, inside=np.array([[3, 3, 4]]))}
    )
    assert state.labels[3, 3, 4] == 2
    assert state.area(1)[4] == 15
    assert state.area(2).tolist() == [0, 0, 0, 0, 1, 0, 16, 16, 0, 0]
    # The voxel is of b from now on, also in later rounds of a.
    again = advance(engine, SCAN, state, {1: (Marks(2, inside=np.array([[3, 3, 2]])),)}, NAMES)
    assert again.labels[3, 3, 4] == 2


def test_the_more_probable_object_has_a_voxel() -> None:
    labels = np.zeros((1, 1, 3), np.uint8)
    masks = {1: np.array([[[200, 140, 100]]], np.uint8), 2: np.array([[[150, 180, 120]]], np.uint8)}
    nothing = State.empty((1, 1, 3), 2)
    fixed = {number: settled((), nothing.labels.shape) for number in masks}
    assert merged(labels, masks, fixed).ravel().tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ({1: Marks(2)}, "no mark"),
        ({3: Marks(2, inside=np.array([[1, 1, 1]]))}, "marks of object 3; there are 2 objects"),
        (
            {1: Marks(2, inside=np.array([[0, 0, 10]]))},
            r"voxel \(0, 0, 10\) is outside the scan",
        ),
        (
            {1: Marks(2, empty=np.array([-1]))},
            "outside the scan, which has slices 0 to 9 along",
        ),
        (
            {1: Marks(2, inside=np.array([[1, 1, 1]]), outside=np.array([[1, 1, 1]]))},
            r"object a: 1 voxel\(s\), e.g. \(1, 1, 1\), are marked both inside and outside",
        ),
        (
            {1: Marks(2, inside=np.array([[1, 1, 1]])), 2: Marks(2, inside=np.array([[1, 1, 1]]))},
            "are marked as a and as b",
        ),
        (
            {1: Marks(2, inside=np.array([[7, 1, 1]]), boxes=np.array([[[0, 0, 1], [3, 3, 1]]]))},
            r"voxel \(7, 1, 1\) is marked inside, but lies outside the object's box",
        ),
        ({1: Marks(2, inside=np.array([[1, 1, 1]]), empty=np.array([1]))}, "lies outside the object's box"),
    ],
)
def test_unusable_marks_are_refused(new: dict[int, Marks], message: str) -> None:
    engine = Stubborn(cube(2, 5), cube(2, 5))
    with pytest.raises(CaseError, match=message):
        play(engine, new)
    assert not engine.asked


LOCKED = {1: "is locked; unlock it"}


def test_locked_objects_do_not_change() -> None:
    engine = Stubborn(cube(2, 6), cube(4, 8))
    state = play(engine, {1: Marks(2, inside=np.array([[3, 3, 3]]))})
    for new, message in (
        ({1: (Marks(2, inside=np.array([[0, 0, 0]])),)}, "object a is locked"),
        ({2: (Marks(2, inside=np.array([[3, 3, 3]])),)}, "marks of b lie on a, which is locked"),
    ):
        with pytest.raises(CaseError, match=message):
            advance(engine, SCAN, state, new, NAMES, held=LOCKED)
    with pytest.raises(CaseError, match="object a is locked"):
        edited(state, np.array([0]), np.array([1]), NAMES, LOCKED)
    with pytest.raises(CaseError, match="object a is locked"):
        edited(state, np.flatnonzero(state.labels)[:1], np.array([0]), NAMES, LOCKED)


def test_replaced_marks_are_counted() -> None:
    engine = Stubborn(cube(2, 5))
    state = play(engine, {1: Marks(2, inside=np.array([[3, 3, 3], [3, 4, 3]]))})
    assert withdrawn(state, {1: (Marks(2, outside=np.array([[3, 4, 3], [0, 0, 0]])),)}) == {1: 1}
    assert withdrawn(state, {1: (Marks(2, empty=np.array([3])),)}) == {1: 2}
    assert withdrawn(state, {1: (Marks(2, outside=np.array([[0, 0, 0]])),)}) == {}


def test_quality_is_the_engine_s_where_nothing_is_marked() -> None:
    """Empty slices are unknown, however sure the engine is; marked ones are judged by the marks."""
    box = Marks(2, boxes=np.array([[[0, 0, 3], [7, 8, 3]]]))
    state = play(Stubborn(cube(2, 6)), {1: box})
    quality = state.quality_of(1)
    assert np.isnan(quality[[0, 1, 6, 7, 8, 9]]).all()
    assert quality[[2, 4, 5]].tolist() == pytest.approx([0.9] * 3)
    # Boxes, each larger by a voxel on all sides: 10 × 11 around 6 × 6.
    assert quality[3] == pytest.approx(36 / 110)
    # Where a later answer says nothing of an unchanged slice, the earlier one still holds.
    engine = Stubborn(cube(2, 7), quality=np.nan)
    after = advance(engine, SCAN, state, {1: (Marks(2, outside=np.array([[0, 0, 9]])),)}, NAMES)
    assert after.quality_of(1)[[2, 4, 5]].tolist() == pytest.approx([0.9] * 3)
    assert np.isnan(after.quality_of(1)[6])


def test_painting_is_final() -> None:
    engine = Stubborn(cube(2, 6))
    state = play(engine, {1: Marks(2, inside=np.array([[3, 3, 3]]))})
    indices = np.array([np.ravel_multi_index(voxel, SHAPE) for voxel in ((0, 0, 4), (3, 3, 4))])
    painted = edited(state, indices, np.array([1, 0]), NAMES)
    assert painted.labels[0, 0, 4] == 1
    assert painted.labels[3, 3, 4] == 0
    assert painted.hinted(1) == {3, 4}
    after = advance(engine, SCAN, painted, {1: (Marks(2, outside=np.array([[7, 7, 7]])),)}, NAMES)
    assert after.labels[0, 0, 4] == 1
    assert after.labels[3, 3, 4] == 0
    with pytest.raises(CaseError, match="outside the scan"):
        edited(state, np.array([720]), np.array([1]), NAMES)
    with pytest.raises(CaseError, match="object 3; there are 2"):
        edited(state, np.array([7]), np.array([3]), NAMES)


NAN = np.nan


def test_what_is_doubtful() -> None:
    """Share of the largest area × (1 − quality); gaps by their neighbours, ends by the neighbour squared."""
    area = np.array([0, 0, 2, 10, 0, 10, 5, 0, 0])
    quality = np.array([NAN, NAN, 0.5, 1, NAN, 0.8, NAN, NAN, NAN])
    hinted = np.arange(9) == 3
    found = doubts(area, quality, hinted, np.zeros(9, bool))
    # Slice 6 is 3 slices from the mark, of a length of 4: 0.5 · 3/4 · 0.5. Confirmed: the marked one.
    expected = [0, 0.04, 0.1, 0, 1, 0.2, 0.1875, 0.25, 0]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    absent = np.isin(np.arange(9), (1, 4, 7))
    assert doubts(area, quality, hinted, absent)[[1, 4, 7]].tolist() == [0, 0, 0]


def test_nothing_more_to_do_is_said_only_where_all_is_confirmed() -> None:
    area = np.array([0, 0, 4, 4, 0])
    quality = np.array([NAN, NAN, 1, 1, NAN])
    hinted = np.array([False, False, True, True, False])
    open_ = doubts(area, quality, hinted, np.zeros(5, bool))
    assert np.flatnonzero(open_).tolist() == [1, 4]
    confirmed = doubts(area, quality, hinted | np.array([0, 1, 0, 0, 1], bool), np.zeros(5, bool))
    assert not confirmed.any()
    # A marked slice that its mask does not follow is looked at again, after all others.
    bad = np.array([NAN, 1, 0.2, 1, 1])
    again = doubts(area, bad, np.ones(5, bool), np.zeros(5, bool))
    assert np.flatnonzero(again).tolist() == [2]
    # An object that was not found is doubtful everywhere.
    assert (doubts(np.zeros(5), np.full(5, NAN), np.zeros(5, bool), np.zeros(5, bool)) == 1).all()


def test_the_nearest_of_equally_doubtful_slices_is_suggested() -> None:
    state = State(np.zeros(SHAPE, np.uint8), 2, {}, {1: (Marks(2, inside=np.array([[1, 1, 7]])),)}, last=7)
    suggestion = state.suggestion()
    assert suggestion is not None
    assert suggestion.place in (6, 8)
    assert suggestion.reason == "the object was not found on any slice"
    assert State.empty(SHAPE, 2).suggestion() is None


def test_a_slice_that_was_only_pointed_at_is_suggested_again() -> None:
    """A click or a diameter leaves the border to the engine: twice its expected error beats 0.5 elsewhere."""
    labels = np.ones((4, 4, 3), np.uint8)
    click, box = Marks(2, inside=np.array([[0, 0, 1]])), Marks(2, boxes=np.array([[[0, 0, 1], [3, 3, 1]]]))
    diameter = Marks(2, lines=np.array([[[0, 0, 1], [3, 3, 1]]]))
    quality = {1: np.array([0.5, 0.7, 0.5], np.float32)}
    for once in (click, diameter):
        again = State(labels, 2, quality, {1: (once,)}, last=1).suggestion()
        assert again is not None
        assert (again.place, round(again.doubt, 3), again.reason) == (1, 0.6, "estimated quality 0.70")
    for more in (box, click):
        other = State(labels, 2, quality, {1: (click, more)}, last=1).suggestion()
        assert other is not None
        assert other.place in (0, 2)


def test_who_chooses() -> None:
    """Predicted: the most doubtful. Oracle: the lowest true IoU. Random: any with a mask and no marks."""
    labels = np.ones((4, 4, 5), np.uint8)
    quality = {1: np.array([1, 0.5, 0.2, 0.9, 1], np.float32)}
    boxed = Marks(2, boxes=np.array([[[0, 0, 2], [3, 3, 2]]]))
    state = State(labels, 2, quality, {1: (boxed,)}, last=2)
    true = labels.copy()
    true[:3, :, 3] = 0
    assert chosen(state, true, 1, "predicted", np.random.default_rng(0)) == 1
    assert chosen(state, true, 1, "oracle", np.random.default_rng(0)) == 3
    random = {chosen(state, true, 1, "random", np.random.default_rng(n)) for n in range(50)}
    assert random == {0, 1, 3, 4}


@pytest.mark.parametrize("network", [Bright(), Says(hinted=-20, propagated=-20), Says(propagated=0.4)])
def test_the_truth_does_not_choose(network: Bright) -> None:
    """With another truth on all slices except the marked ones, predicted choice takes the same slices."""
    truth = ball((32, 32, 16), (15, 14, 8), 6.5).astype(np.uint8)
    image = torch.from_numpy(np.where(truth, 1.0, -1.0)).float()
    scan = Scan(image[None].numpy(), np.eye(4))
    engine = memory_engine(image, network)

    def places(of: np.ndarray) -> list[int]:
        random = np.random.default_rng(0)
        rounds = simulate(
            engine, scan, of, ("ball",), axis=2, kind="extreme", choice="predicted", rounds=3, random=random
        )
        return [round_.place for round_ in rounds]

    first = places(truth)
    other = truth.copy()
    untouched = [n for n in range(16) if n not in first]
    other[..., untouched] = np.roll(truth[..., untouched], 1, axis=0)
    assert places(other) == first
    assert len(set(first)) == 3


def test_true_iou_of_slices() -> None:
    found, truth = np.zeros((3, 2, 2), np.uint8), np.zeros((3, 2, 2), np.uint8)
    found[0], truth[0, 0] = 1, 1
    truth[1] = 1
    assert slice_iou(found, truth, 1).tolist() == [[0.5, 0, 1]]


def test_more_than_255_objects_keep_their_numbers() -> None:
    """Both painted and found; eight bits would make 300 into 44."""
    names = [f"o{number}" for number in range(1, 301)]
    state = State.empty(SHAPE, 2)
    painted = edited(state, np.array([5]), np.array([300]), names)
    assert painted.labels.ravel()[5] == 300
    engine = Stubborn(*[cube(2, 5)] * 300)
    found = advance(engine, SCAN, state, {300: (Marks(2, inside=np.array([[3, 3, 3]])),)}, names)
    assert np.array_equal(found.labels == 300, cube(2, 5))
