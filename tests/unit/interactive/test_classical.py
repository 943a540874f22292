"""The classical engine on volumes with known answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.sparse import diags
from scipy.sparse.linalg import spsolve

from foldwise.systems.interactive.engines import CERTAIN, Answer, Request, Scan, StoppedError
from foldwise.systems.interactive.engines.classical import Classical
from foldwise.systems.interactive.engines.shapes import beyond, enlarged, pooled, signed_mm
from foldwise.systems.interactive.engines.spreading import spread
from foldwise.systems.interactive.engines.tracking import Taper
from foldwise.systems.interactive.engines.walker import walk
from foldwise.systems.interactive.marks import Marks, settled

SPACING = (1.0, 1.0, 2.0)


def ball(shape: tuple[int, int, int], centre: Sequence[float], radius: float) -> np.ndarray:
    """A ball; radius in mm."""
    places = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    inside: np.ndarray = (((places - centre) * SPACING) ** 2).sum(-1) <= radius**2
    return inside


def scan_of(truth: np.ndarray, noise: float = 8) -> Scan:
    """Objects of value 100 in noise about 0."""
    random = np.random.default_rng(0)
    image = 100.0 * truth + random.normal(0, noise, truth.shape)
    return Scan(image.astype(np.int16)[None], np.diag([*SPACING, 1.0]))


def asked(scan: Scan, marks: Sequence[Marks], before: np.ndarray | None = None, new: int = 1) -> np.ndarray:
    """The mask of object 1; the last `new` marks are those of the round."""
    labels = np.zeros(scan.shape, np.uint8) if before is None else before.astype(np.uint8)
    return answer_of(scan, marks, labels, new).masks[1] > CERTAIN // 2


def answer_of(scan: Scan, marks: Sequence[Marks], labels: np.ndarray, new: int = 1) -> Answer:
    said = tuple(marks)
    return Classical(scan).segment(Request(labels, {1: said}, {1: said[len(said) - new :]}, 2))


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


SHAPE = (48, 48, 24)
BALL = ball(SHAPE, (24, 22, 12), 13)


def extreme(truth: np.ndarray, place: int) -> Marks:
    where = np.argwhere(truth[:, :, place])
    ends = [where[where[:, axis].argmin()] for axis in (0, 1)] + [
        where[where[:, axis].argmax()] for axis in (0, 1)
    ]
    return Marks(2, extreme=np.array([[*end, place] for end in ends]))


def box(truth: np.ndarray, place: int) -> Marks:
    where = np.argwhere(truth[:, :, place])
    return Marks(2, boxes=np.array([[[*where.min(0), place], [*where.max(0), place]]]))


@pytest.mark.parametrize(
    "marks",
    [
        extreme(BALL, 12),
        box(BALL, 12),
        Marks(2, inside=np.array([[24, 22, 12]])),
        Marks(2, inside=np.array([[x, 22, 12] for x in range(18, 31)])),
        Marks(2, lines=np.array([[[11, 22, 12], [37, 22, 12]]])),
    ],
    ids=["extreme", "box", "point", "scribble", "line"],
)
def test_a_ball_is_found_from_one_hint_of_any_kind(marks: Marks) -> None:
    assert dice(asked(scan_of(BALL), [marks]), BALL) > 0.9


def test_planes_may_lie_across_any_axis() -> None:
    scan = scan_of(BALL)
    turned = Scan(np.moveaxis(scan.image, 3, 1), np.diag([2.0, 1.0, 1.0, 1.0]))
    marks = Marks(0, boxes=box(BALL, 12).boxes[..., [2, 0, 1]])
    request = Request(np.zeros(turned.shape, np.uint8), {1: (marks,)}, {1: (marks,)}, 0)
    found = Classical(turned).segment(request).masks[1]
    assert np.array_equal(np.moveaxis(found > 127, 0, 2), asked(scan, [box(BALL, 12)]))


def test_a_tube_is_followed_to_its_ends_though_it_is_longer_than_wide() -> None:
    tube = np.zeros((40, 40, 40), bool)
    for place in range(3, 37):
        tube[:, :, place] = ball((40, 40, 1), (14 + place / 4, 18, 0), 6)[:, :, 0]
    assert dice(asked(scan_of(tube), [box(tube, 20)]), tube) > 0.85


def test_a_leak_beyond_the_marks_stays_as_large_as_the_object() -> None:
    """A tube that opens into a wide block of the same value."""
    tube = ball((48, 48, 1), (24, 24, 0), 8)
    whole = np.repeat(tube, 24, 2)
    whole[2:46, 2:46, 14:] = True
    found = asked(scan_of(whole), [extreme(whole, place) for place in (4, 12)], new=2)
    areas, largest = found.sum((0, 1)), found[:, :, 4].sum()
    assert areas.max() <= 1.05 * largest


def test_an_object_ends_before_an_empty_plane_and_within_its_span() -> None:
    tube = np.zeros((40, 40, 24), bool)
    tube[12:26, 12:26] = True
    scan = scan_of(tube)
    until = asked(scan, [box(tube, 12), Marks(2, empty=np.array([18]))], new=2)
    assert until[:, :, 12:16].any((0, 1)).all()
    assert not until[:, :, 18:].any()
    within = asked(scan, [box(tube, 12), Marks(2, spans=np.array([[8, 15]]))], new=2)
    assert np.flatnonzero(within.any((0, 1))).tolist() == list(range(8, 16))


def test_without_contrast_the_shape_between_hinted_planes_is_interpolated() -> None:
    cone = np.zeros((48, 48, 21), bool)
    for place in range(21):
        cone[:, :, place] = ball((48, 48, 1), (24, 24, 0), 8 + place / 2)[:, :, 0]
    scan = Scan(np.zeros((1, *cone.shape), np.int16), np.diag([*SPACING, 1.0]))
    painted = [Marks(2, inside=np.argwhere(cone & (np.arange(21) == place))) for place in (0, 20)]
    assert dice(asked(scan, painted, new=2), cone) > 0.9


def test_two_touching_objects_keep_their_sides() -> None:
    left, right = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    left[10:24, 14:34, 4:20], right[24:38, 14:34, 4:20] = True, True
    scan = scan_of(left | right)
    marks = {1: (box(left, 12),), 2: (box(right, 12),)}
    labels = right.astype(np.uint8) * 2
    found = Classical(scan).segment(Request(labels, marks, {1: marks[1]}, 2)).masks[1] > 127
    assert not (found & right).any()
    assert dice(found, left) > 0.85


def test_marks_outside_alone_remove_a_part_of_a_loaded_mask_and_keep_the_rest() -> None:
    excess = ball(SHAPE, (24, 39, 12), 5)
    scan = scan_of(BALL)
    loaded = BALL | excess
    corrected = asked(scan, [Marks(2, outside=np.array([[24, 40, 12]]))], loaded)
    assert not corrected[24, 40, 12]
    assert (corrected & excess & ~BALL)[:, :, 12].sum() < 0.3 * (excess & ~BALL)[:, :, 12].sum()
    assert dice(corrected & ~excess, BALL & ~excess) > 0.97


def test_a_loaded_mask_stays_far_from_a_mark() -> None:
    loaded = np.zeros((40, 40, 60), bool)
    loaded[10:30, 10:30, 5:55] = True
    nothing = Scan(np.random.default_rng(0).normal(size=(1, *loaded.shape)).astype(np.float32), np.eye(4))
    after = asked(nothing, [Marks(2, inside=np.array([[31, 20, 10]]))], loaded)
    assert np.array_equal(after[:, :, 30:], loaded[:, :, 30:])


def test_thousands_of_painted_voxels_of_another_axis_are_in_the_mask() -> None:
    marks = Marks(0, inside=np.argwhere(BALL & (np.arange(48)[:, None, None] == 24)))
    found = asked(scan_of(BALL), [marks])
    assert dice(found, BALL) > 0.85


def test_quality_is_known_where_there_is_a_mask_and_falls_with_the_distance_from_hints() -> None:
    answer = answer_of(scan_of(BALL), [box(BALL, 12)], np.zeros(SHAPE, np.uint8))
    filled = (answer.masks[1] > 127).any((0, 1))
    quality = answer.quality[1]
    assert np.isnan(quality[~filled]).all()
    assert ((quality[filled] > 0) & (quality[filled] < 1)).all()
    assert quality[12] > quality[9] > quality[7]


def test_empty_planes_alone_give_an_empty_mask() -> None:
    answer = answer_of(scan_of(BALL), [Marks(2, empty=np.array([3]))], np.zeros(SHAPE, np.uint8))
    assert not answer.masks[1].any()
    assert np.isnan(answer.quality[1]).all()


def test_a_person_can_stop_a_round() -> None:
    def stop(share: float) -> None:
        raise StoppedError

    marks = (box(BALL, 12),)
    with pytest.raises(StoppedError):
        Classical(scan_of(BALL)).segment(
            Request(np.zeros(SHAPE, np.uint8), {1: marks}, {1: marks}, 2, progress=stop)
        )


def test_progress_grows_from_0_to_1() -> None:
    shares: list[float] = []
    marks = (box(BALL, 12),)
    Classical(scan_of(BALL)).segment(
        Request(np.zeros(SHAPE, np.uint8), {1: marks}, {1: marks}, 2, progress=shares.append)
    )
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_one_click_outside_removes_a_bump_and_leaves_the_rest() -> None:
    excess = ball(SHAPE, (24, 39, 12), 5)
    mask = BALL | excess
    scan = scan_of(BALL)
    said = settled([Marks(2, outside=np.array([[24, 40, 12]]))], SHAPE)
    after = spread(scan, mask, said)
    assert not (after & ball(SHAPE, (24, 40, 12), 2)).any()
    assert np.array_equal(after & BALL, BALL)


def test_one_click_inside_adds_a_region_up_to_an_edge() -> None:
    missed = ball(SHAPE, (24, 37, 12), 7)
    whole = BALL | missed
    said = settled([Marks(2, inside=np.array([[24, 40, 12]]))], SHAPE)
    after = spread(scan_of(whole, noise=3), BALL, said)
    assert (after & ~BALL).sum() > 20
    assert (after & ~whole).sum() < 0.1 * (after & ~BALL).sum()


def test_every_mark_is_obeyed_and_nothing_changes_without_contradiction() -> None:
    random = np.random.default_rng(1)
    scan = scan_of(BALL)
    places = np.stack([random.integers(0, n, 60) for n in SHAPE], 1)
    said = settled([Marks(2, inside=places[:30], outside=places[30:]), Marks(2, empty=np.array([12]))], SHAPE)
    assert said.broken(spread(scan, BALL, said)) == 0
    true = settled([Marks(2, inside=np.argwhere(BALL)[::7], outside=np.argwhere(~BALL)[::7])], SHAPE)
    assert np.array_equal(spread(scan, BALL, true), BALL)


def test_painted_areas_change_only_themselves() -> None:
    painted = np.argwhere(ball(SHAPE, (24, 22, 12), 6))
    said = settled([Marks(2, outside=painted)], SHAPE)
    after = spread(
        Scan(np.zeros((1, *SHAPE), np.int16), np.diag([*SPACING, 1.0])), ball(SHAPE, (24, 22, 12), 7), said
    )
    assert not after[tuple(painted.T)].any()
    assert after.sum() > 0.5 * (ball(SHAPE, (24, 22, 12), 7).sum() - len(painted))


def test_the_border_between_the_middle_and_a_click_outside() -> None:
    """On 41 × 61 pixels the click at column 45 is 16 pixels deep.

    30 pixels from the middle, less than twice as far as it is deep: what is nearer to the click is beyond.
    38 pixels from it: the ratio of the distances is 16 : 22.
    """
    mask, click = np.ones((41, 61), bool), np.zeros((41, 61), bool)
    click[20, 45] = True
    for column, first in ((15, 31), (7, 30)):
        middle = np.zeros_like(mask)
        middle[20, column] = True
        found = beyond(mask, middle, click, (1, 1))
        assert np.flatnonzero(found[20]).tolist() == list(range(first, 61))
        assert found[:, 31:].all() == (column == 15)


def test_a_correction_never_empties_a_mask() -> None:
    """A stroke in a hole of a kidney that hardly differs from what is around it."""
    kidney = ball(SHAPE, (24, 22, 12), 13) & ~ball(SHAPE, (24, 22, 12), 4)
    scan = scan_of(kidney, noise=150)
    stroke = Marks(
        2, inside=np.array([[35, 22, 12]]), outside=np.array([[23, 22, 12], [24, 22, 12], [25, 22, 12]])
    )
    before = ball(SHAPE, (24, 22, 12), 12)
    found = asked(scan, [box(kidney, 10), stroke], before)
    assert found[:, :, 12].sum() > 0.5 * before[:, :, 12].sum()


def test_a_walk_is_the_solution_of_its_linear_system() -> None:
    # A chain of four pixels; conductances exp(-1) + 0.001 at the edge and 1.001 elsewhere, one unit apart.
    image = np.array([[[0.0, 0, 1, 1]]])
    prior, trust = np.array([[1.0, 0.5, 0.5, 0]]), np.array([[10, 0.1, 0.1, 10.0]])
    weights = np.array([1.001, np.exp(-1) + 0.001, 1.001])
    degree = trust[0] + np.append(weights, 0) + np.append(0, weights)
    system = diags([degree, -weights, -weights], [0, 1, -1]).tocsc()
    expected = spsolve(system, trust[0] * prior[0])
    assert walk(image, prior, trust, (1, 1), 1)[0] == pytest.approx(expected, abs=2e-3)


def test_an_ellipsoid_shrinks_as_its_equation_says() -> None:
    # r² = 10² (1 - (h / 20)²): at h = 12, r = 8 and dr/dh = -10² h / (20² r) = -0.375.
    assert Taper(10, 20, 5).loss(7, 0.1) == pytest.approx(0.0375)


def test_distances_and_coarser_grids() -> None:
    mask = np.zeros((1, 6), bool)
    mask[0, 2:4] = True
    assert signed_mm(mask, (1, 2)).tolist() == [[-3.5, -1.5, 1.5, 1.5, -1.5, -3.5]]
    plane = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    assert pooled(plane, 2).tolist() == [[[2.5, 4.5], [8.5, 10.5]]]
    assert enlarged(np.ones((2, 2)), 2, (3, 4)).shape == (3, 4)
