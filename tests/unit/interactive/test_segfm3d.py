"""The protocol of the CVPR 2025 challenge, by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import label

from foldwise.systems.interactive import session
from foldwise.systems.interactive.engines import Answer, Request, Scan
from foldwise.systems.interactive.marks import settled
from foldwise.systems.interactive.segfm3d import (
    Score,
    area,
    first_marks,
    next_click,
    outcomes,
    round_marks,
    scores,
)
from foldwise.systems.interactive.segfm3d_rounds import simulate_protocol
from foldwise.systems.interactive.segfm3d_table import protocol_table


def empty(shape: tuple[int, ...] = (12, 14, 10)) -> np.ndarray:
    return np.zeros(shape, bool)


class Drawn(np.random.Generator):
    """A generator that draws a given number."""

    def __init__(self, value: int) -> None:
        super().__init__(np.random.PCG64(0))
        self.value = value

    def integers(self, *_: object, **__: object) -> int:  # type: ignore[override]
        return self.value


def test_the_box_lies_on_the_middle_of_the_slices_with_the_object() -> None:
    """Slices 1, 2, 6 and 7 have it: number 4 // 2 from 0 is slice 6, not the gap's 4."""
    truth = empty()
    truth[3:6, 4:9, [1, 2, 7]] = True
    truth[2:5, 8:12, 6] = True
    marks = first_marks(truth)
    assert marks.axis == 2
    assert marks.boxes.tolist() == [[[2, 8, 6], [4, 11, 6]]]
    assert marks.spans.tolist() == [[1, 7]]
    assert not len(marks.drawn)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_another_axis_turns_the_marks_with_it(axis: int) -> None:
    truth = empty()
    truth[3:6, 4:9, 2:7] = True
    turned = first_marks(np.moveaxis(truth, 2, axis), axis)
    assert turned.axis == axis
    assert turned.spans.tolist() == [[2, 6]]
    assert turned.boxes.tolist() == [[np.insert(corner, axis, 4).tolist() for corner in ([3, 4], [5, 8])]]


def test_a_box_s_margin_follows_the_image_and_ends_at_its_border() -> None:
    """Four voxels of 256: 4 × 512 / 256 = 8 of 512 columns, 4 × 255 / 256 = 3 (rounded down) of 255."""
    truth = empty((512, 255, 3))
    truth[4:20, 50:60, 1] = True
    assert first_marks(truth, 2, Drawn(4)).boxes.tolist() == [[[0, 47, 1], [27, 62, 1]]]
    assert first_marks(truth, 2, Drawn(0)).boxes.tolist() == [[[4, 50, 1], [19, 59, 1]]]


def test_a_click_goes_to_the_middle_of_what_is_missing() -> None:
    truth = empty()
    truth[2:7, 3:8, 1:6] = True
    click = next_click(truth, empty())
    assert click is not None
    assert click.inside.tolist() == [[4, 5, 3]]
    assert not len(click.outside)


def test_the_larger_of_miss_and_excess_gets_the_click() -> None:
    truth, found = empty(), empty()
    truth[1:4, 1:4, 1:4] = True  # 27 voxels are missing
    found[6:11, 6:11, 3:8] = True  # 125 are too many
    click = next_click(truth, found)
    assert click is not None
    assert click.outside.tolist() == [[8, 8, 5]]
    assert not len(click.inside)


def test_neighbours_by_a_corner_are_one_part() -> None:
    """Two cubes of 8 that share a corner have 16 voxels, more than a third one's 12."""
    truth = empty()
    truth[0:2, 0:2, 0:2] = truth[2:4, 2:4, 2:4] = truth[8:10, 8:10, 2:5] = True
    click = next_click(truth, empty())
    assert click is not None
    assert click.inside[0].max() < 4


def test_miss_and_excess_that_touch_are_one_part() -> None:
    """5 missing columns beside 3 too many are a part of 8 columns, whose middle is missing."""
    truth, found = empty((12, 7, 7)), empty((12, 7, 7))
    truth[0:6] = True
    found[0] = True
    found[6:9] = True
    found[9:12] = truth[9:12]
    click = next_click(truth, found)
    assert click is not None
    # Columns 1 to 8, rows and slices 0 to 6, and outside all around: depth 4 at columns 4 and 5.
    assert click.inside.tolist() in ([[4, 3, 3]], [[5, 3, 3]])


def test_beyond_the_image_is_outside() -> None:
    """A part that fills the image is deepest at its centre, not at its border."""
    click = next_click(np.ones((5, 7, 9), bool), empty((5, 7, 9)))
    assert click is not None
    x, y, z = click.inside[0]
    assert (x, 2 <= y <= 4, 2 <= z <= 6) == (2, True, True)


def test_among_equally_deep_voxels_numpy_s_old_generator_with_seed_42_chooses() -> None:
    """Depth 1 everywhere. `np.random.seed(42); np.random.choice(6)` is 3, in the order slice, row, column:
    (z, y, x) = (0, 0, 1), (0, 0, 2), (0, 1, 1), (0, 1, 2) …"""
    truth = empty()
    truth[1:3, 0:3, 0] = True
    click = next_click(truth, empty())
    assert click is not None
    assert click.inside.tolist() == [[2, 1, 0]]


def test_of_equally_large_parts_the_first_gets_the_click() -> None:
    """First in the order slice, row, column."""
    random = np.random.default_rng(0)
    ties = 0
    for _ in range(40):
        truth = random.random((15, 13, 11)) < 0.05
        click = next_click(truth, empty(truth.shape))
        assert click is not None
        parts, _ = label(truth, np.ones((3, 3, 3)))
        sizes = np.bincount(parts.ravel())[1:]
        largest = np.flatnonzero(sizes == sizes.max()) + 1
        ties += len(largest) > 1
        first = np.argwhere(np.isin(parts, largest).T)[0][::-1]
        assert parts[tuple(click.inside[0])] == parts[tuple(first)]
    assert ties > 5


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_clicks_are_right_about_the_truth_and_marked_voxels_are_wrong_until_then(axis: int) -> None:
    random = np.random.default_rng(3)
    for _ in range(20):
        truth, found = random.random((9, 8, 7)) < 0.4, random.random((9, 8, 7)) < 0.4
        click = next_click(truth, found, axis)
        assert click is not None
        assert len(click.inside) + len(click.outside) == 1
        rule = settled([click], truth.shape)
        assert rule.broken(truth) == 0
        assert rule.broken(found) == 1
        assert settled([first_marks(truth, axis, random)], truth.shape).broken(truth) == 0


def test_nothing_wrong_nothing_clicked() -> None:
    truth = empty()
    truth[2:5, 2:5, 2:5] = True
    assert next_click(truth, truth) is None


def test_a_round_marks_every_object_that_the_truth_has() -> None:
    truth = np.zeros((12, 14, 10), np.uint8)
    truth[1:4, 1:4, 1:4], truth[6:9, 6:9, 6:9] = 1, 3
    found = np.where(truth == 3, 3, 0)
    random = np.random.default_rng(0)
    boxes = round_marks(1, truth, found, (1, 2, 3), random)
    assert {number: marks.spans.tolist() for number, marks in boxes.items()} == {1: [[1, 3]], 3: [[6, 8]]}
    clicks = round_marks(2, truth, found, (1, 2, 3), random)
    assert {number: marks.inside.tolist() for number, marks in clicks.items()} == {1: [[2, 2, 2]]}
    assert round_marks(3, truth, truth, (1, 2, 3), random) == {}


def test_area_by_the_trapezoid_rule() -> None:
    assert area([0.5, 0.6, 0.7, 0.8, 0.9]) == pytest.approx(0.25 + 0.6 + 0.7 + 0.8 + 0.45)
    assert area([1, 1, 1, 1, 1]) == 4
    with pytest.raises(ValueError, match="6 values"):
        area([1] * 6)


def test_scores_of_equal_and_of_distant_objects() -> None:
    """A cube moved by one voxel of 1.5 mm: Dice 2 × 48 / 128, all of the surface within 2 mm."""
    truth, found = np.zeros((12, 14, 10), np.uint8), np.zeros((12, 14, 10), np.uint8)
    truth[2:6, 2:6, 2:6], found[3:7, 2:6, 2:6] = 1, 1
    assert scores(truth, found, (1.5, 1, 1), (1, 2)) == {1: Score(0.75, 1.0)}
    # Of 3 mm: only parts of the surface.
    far = scores(truth, found, (3, 1, 1), (1,))[1]
    assert far.dice == 0.75
    assert 0 < far.nsd < 1


def test_the_surface_counts_by_its_area() -> None:
    """A rod of 12 × 3 × 3 mm, found four voxels too long at one end; voxels of 1 mm.

    The surface lies on corners of voxels. One within a face counts 1, on an edge √½, at a corner √3 / 8, so
    that a rod has the area below. Of the truth's all are within 2 mm: the middle of its end is 1 mm from the
    longer rod's side. Of the longer rod's, those 3 and 4 mm beyond that end are not: a ring of 8 on faces and
    4 on edges; 4 on the face of the end, 8 on its edges and 4 corners.
    """
    truth, found = np.zeros((24, 7, 7), np.uint8), np.zeros((24, 7, 7), np.uint8)
    truth[2:14, 2:5, 2:5], found[2:18, 2:5, 2:5] = 1, 1

    def rod(length: int) -> float:
        return 2 * (4 + 2 * 2 * (length - 1)) + 4 * (length - 1 + 4) * edge + 8 * corner

    edge, corner = 0.5**0.5, 3**0.5 / 8
    beyond = (8 + 4 * edge) + (4 + 8 * edge + 4 * corner)
    wanted = 1 - beyond / (rod(12) + rod(16))
    assert scores(truth, found, (1, 1, 1), (1,))[1].nsd == pytest.approx(wanted, abs=1e-6)


def test_nsd_is_nothing_where_the_case_s_mean_dice_is_low() -> None:
    """Object 1 is right, 2 to 5 are missing: mean Dice 0.2 does not exceed 0.2. Without 5 it is 0.25."""
    truth = np.zeros((12, 14, 10), np.uint8)
    for number in range(1, 6):
        truth[2:5, 2:5, 2 * number - 1] = number
    found = np.where(truth == 1, 1, 0)
    low = scores(truth, found, (1, 1, 1), range(1, 6))
    assert low[1] == Score(1.0, 0.0)
    truth[truth == 5] = 0
    enough = scores(truth, found, (1, 1, 1), range(1, 6))
    assert sorted(enough) == [1, 2, 3, 4]
    assert enough[1] == Score(1.0, 1.0)
    assert enough[2] == Score(0.0, 0.0)


def six(*dice: float) -> list[Mapping[int, Score]]:
    return [{1: Score(value, value / 2), 2: Score(1, 1)} for value in dice]


def test_an_outcome_by_hand() -> None:
    found = outcomes(six(0.3, 0.5, 0.6, 0.7, 0.8, 0.9), [10, 20, 30, 40, 30, 50])[1]
    assert found.dice == 0.9
    assert found.dice_auc == pytest.approx(2.8)
    assert found.nsd == 0.45
    assert found.nsd_auc == pytest.approx(1.4)
    assert (found.dice_box, found.nsd_box) == (0.3, 0.15)
    # 180 s for two objects are just in time.
    assert (found.seconds_per_class, found.late) == (90, False)


def test_too_late_is_nothing() -> None:
    found = outcomes(six(0.3, 0.5, 0.6, 0.7, 0.8, 0.9), [10, 20, 30, 40, 30, 51])
    for each in found.values():
        assert each.late
        assert (each.dice, each.nsd, each.dice_auc, each.nsd_auc, each.dice_box, each.nsd_box) == (0,) * 6
        assert each.seconds_per_class == 90.5


def test_fewer_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="5 rounds"):
        outcomes(six(0.3, 0.5, 0.6, 0.7, 0.8), [1] * 5)


def test_the_table_averages_within_cases_first() -> None:
    """Case a: objects 0.9 and 1 (mean 0.95); case b: one of 0.5. All: 0.725, not 0.8."""
    both = outcomes(six(0.3, 0.5, 0.6, 0.7, 0.8, 0.9), [6] * 6)
    one = outcomes([{1: Score(0.5, 0.5)}] * 6, [12] * 6)
    rows = [
        {"case": case, "class": name, **asdict(outcome)}
        for case, name, outcome in (("a", "one", both[1]), ("a", "two", both[2]), ("b", "one", one[1]))
    ]
    table = protocol_table(pd.DataFrame(rows))
    written = {row["class"]: row for row in table.rows}
    assert list(written) == ["one", "two", "all objects"]
    assert written["one"]["dice"] == pytest.approx(0.7)
    assert written["all objects"]["dice"] == pytest.approx(0.725)
    assert written["all objects"]["seconds_per_class"] == pytest.approx((18 + 72) / 2)
    assert [row["cases"] for row in table.rows] == [2, 1, 2]
    assert {column.key for column in table.columns} <= set(written["one"])


class Marked:
    """Finds nothing but what is marked; or, in a box, what the truth has there."""

    name = "marked"

    def __init__(self, sees: np.ndarray | None = None) -> None:
        self.sees = sees

    def segment(self, request: Request) -> Answer:
        nothing = np.zeros(request.labels.shape, np.uint8)
        masks = {}
        for number in request.new:
            found = request.labels == number if self.sees is None else self.sees == number
            masks[number] = np.where(found, np.uint8(255), nothing)
        return Answer(masks)


def test_rounds_of_the_protocol_from_the_box_to_the_fifth_click(monkeypatch: pytest.MonkeyPatch) -> None:
    """A click adds a voxel of a cube of 125 if it does not spread: Dice 2 k / (125 + k) after k clicks."""
    monkeypatch.setattr(session, "spread", lambda scan, mask, settled: settled.apply(mask))
    truth = np.zeros((12, 14, 10), np.uint8)
    truth[2:7, 3:8, 1:6] = 1
    scan = Scan(np.zeros((1, *truth.shape), np.int16), np.eye(4))
    rounds = list(
        simulate_protocol(Marked(), scan, truth, ("cube",), axis=2, random=np.random.default_rng(0))
    )
    assert [each.number for each in rounds] == [1, 2, 3, 4, 5, 6]
    assert not any(each.broken for each in rounds)
    found = [scores(truth, each.state.labels, (1, 1, 1), (1,))[1].dice for each in rounds]
    assert found == pytest.approx([2 * k / (125 + k) for k in range(6)])
    assert rounds[0].place == rounds[1].place == 3


def test_a_right_mask_is_not_clicked_at_and_objects_of_the_truth_alone_count() -> None:
    truth = np.zeros((12, 14, 10), np.uint8)
    truth[2:7, 3:8, 1:6] = 2
    scan = Scan(np.zeros((1, *truth.shape), np.int16), np.eye(4))
    rounds = list(
        simulate_protocol(Marked(truth), scan, truth, ("a", "b"), axis=2, random=np.random.default_rng(0))
    )
    assert len(rounds) == 6
    assert all((each.state.labels == truth).all() for each in rounds)
    assert [len(each.state.marks[2]) for each in rounds] == [1] * 6
    result = outcomes([scores(truth, each.state.labels, (1, 1, 1), (1, 2)) for each in rounds], [0] * 6)
    assert list(result) == [2]
    assert (result[2].dice, result[2].nsd, result[2].dice_auc, result[2].nsd_auc) == (1, 1, 4, 4)
    nothing = np.zeros_like(truth)
    assert not list(
        simulate_protocol(Marked(), scan, nothing, ("a", "b"), axis=2, random=np.random.default_rng(0))
    )
