"""The networks as an engine: propagation, memory, quality, prepared grids; networks with known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foldwise.files import CaseError
from foldwise.systems.interactive.committee import Committee
from foldwise.systems.interactive.engines import Request, Scan, StoppedError
from foldwise.systems.interactive.engines.memory import MemoryEngine
from foldwise.systems.interactive.learner import InteractiveLearner
from foldwise.systems.interactive.marks import Marks
from foldwise.systems.interactive.network import InteractiveNetwork
from foldwise.systems.interactive.placement import Placement
from foldwise.systems.interactive.propagation import Memory, memory_bytes
from foldwise.systems.interactive.session import advance
from foldwise.systems.interactive.state import State
from foldwise.volumes.cache import Contents, write_case
from foldwise.volumes.geometry import Box, Lineage
from interactive_scans import SIZE, Bright, Says, memory_engine, quality_of, settings, told
from synthetic import ball

SHAPE = (SIZE, SIZE, 16)
CLICK = Marks(2, inside=np.array([[15, 14, 8]]))
NOTHING = Marks(2, empty=np.array([12]))


def image(slices: int = 16) -> torch.Tensor:
    """A bright ball (1) on a dark ground (−1), (x, y, z)."""
    mask = ball((SIZE, SIZE, slices), (15, 14, slices // 2), 6.5)
    return torch.from_numpy(np.where(mask, 1.0, -1.0)).float()


def scan(of: torch.Tensor | None = None) -> Scan:
    return Scan((image() if of is None else of)[None].numpy(), np.eye(4))


def play(engine: MemoryEngine, *given: Marks | dict[int, Marks], names: tuple[str, ...] = ("ball",)) -> State:
    """The state after rounds with these marks, one after the other."""
    seen = Scan(engine.image.numpy(), np.eye(4))
    state = State.empty(seen.shape, 2)
    for marks in given:
        new = marks if isinstance(marks, dict) else {1: marks}
        state = advance(engine, seen, state, {n: (each,) for n, each in new.items()}, names)
    return state


def filled(state: State, number: int = 1) -> list[int]:
    return np.flatnonzero(state.area(number)).tolist()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_round_goes_both_ways_along_any_axis(axis: int) -> None:
    engine = memory_engine(image())
    seen = scan()
    middle = [15, 14, 8]
    new = {1: (Marks(axis, inside=np.array([middle])),)}
    state = advance(engine, seen, State.empty(SHAPE, axis), new, ["ball"])
    assert np.array_equal(state.labels == 1, image().numpy() > 0)
    assert state.hinted(1) == {middle[axis]}


def test_quality_is_predicted_where_there_is_a_mask_and_unknown_elsewhere() -> None:
    state = play(memory_engine(image()), CLICK)
    for place in range(16):
        bright = image()[..., place]
        quality = state.quality_of(1)[place]
        if place == 8:
            assert quality == 1
        elif (bright > 0).any():
            assert quality == pytest.approx(float(quality_of(bright[None])), abs=1e-5)
        else:
            assert np.isnan(quality)


def test_a_missed_object_is_no_success() -> None:
    """The networks find nothing at all: the marked voxel is kept, and the neighbours are doubtful."""
    state = play(memory_engine(image(), Says(hinted=-20, propagated=-20)), CLICK)
    assert state.labels[15, 14, 8] == 1
    assert (state.labels > 0).sum() == 1
    suggestion = state.suggestion()
    assert suggestion is not None
    assert suggestion.place in (7, 9)
    assert suggestion.reason == "the first slice beyond the mask"


def test_a_mask_that_is_lost_beside_a_large_one_is_looked_at() -> None:
    """Only the marked slice has the ball: both neighbours are suggested; once confirmed, nothing is."""
    state = play(memory_engine(image(), Says(propagated=-20)), CLICK)
    engine = memory_engine(image(), Says(propagated=-20))
    for _ in range(2):
        suggestion = state.suggestion()
        assert suggestion is not None
        assert suggestion.place in (7, 9)
        assert suggestion.doubt == 1
        new = {1: (Marks(2, empty=np.array([suggestion.place])),)}
        state = advance(engine, scan(), state, new, ["ball"])
    assert state.suggestion() is None


@pytest.mark.parametrize("logit", [0.4, -0.4])
def test_unsure_slices_are_worth_what_their_probabilities_are(logit: float) -> None:
    """Whatever is predicted, here 0.98: no pixel is certain.

    Aggregation squares the odds: p = e^0.8 / (1 + e^0.8) = 0.690 in an area A, and 0 elsewhere. If that is
    right, the mask has the IoU (0.690 A + 1) / (A + 1). For 0.310 nothing is found, and nothing is known.
    """
    state = play(memory_engine(image(), Says(propagated=logit)), CLICK)
    area = (image() > 0).sum((0, 1)).numpy()
    for place in range(16):
        if place == 8:
            continue
        if logit > 0 and area[place]:
            wanted = (0.690 * area[place] + 1) / (area[place] + 1)
            assert state.quality_of(1)[place] == pytest.approx(wanted, abs=2e-3)
        else:
            assert np.isnan(state.quality_of(1)[place])
    assert state.suggestion() is not None


def test_a_quality_that_is_no_number_is_the_lowest() -> None:
    state = play(memory_engine(image(), Says(quality=float("nan"))), CLICK)
    assert [n for n in range(16) if state.quality_of(1)[n] == 0] == [2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14]


@pytest.mark.parametrize("network", [Says(hinted=float("nan")), Says(propagated=float("nan"))])
def test_a_network_that_answers_no_numbers_is_refused(network: Says) -> None:
    with pytest.raises(CaseError, match="NaN or infinite values"):
        play(memory_engine(image(), network), CLICK)


def test_slices_up_to_the_next_marks_are_redone_and_no_others() -> None:
    state = play(memory_engine(image()), CLICK, NOTHING)
    # Nothing on 12, nor beyond or back from there; slice 8 and those before it are kept.
    assert filled(state) == list(range(2, 9))
    assert state.hinted(1) == {8, 12}
    # The ball ended at 8, its widest, because of the mark on 12: the slice in between is worth a look.
    suggestion = state.suggestion()
    assert suggestion is not None
    assert suggestion.place == 9
    # What was predicted before the second round still holds.
    assert state.quality_of(1)[5] == pytest.approx(float(quality_of(image()[None, ..., 5])), abs=1e-5)


def test_a_span_ends_the_propagation() -> None:
    network = Bright()
    state = play(memory_engine(image(), network), Marks(2, inside=CLICK.inside, spans=np.array([[6, 10]])))
    assert filled(state) == [6, 7, 8, 9, 10]
    assert len(network.memorised) == 4


def test_an_empty_slice_that_is_marked_after_all() -> None:
    state = play(memory_engine(image()), Marks(2, empty=np.array([8])), CLICK)
    assert np.array_equal(state.labels == 1, image().numpy() > 0)


def test_outside_marks_alone_are_a_correction() -> None:
    outside = Marks(2, outside=np.array([[15, 14, 9], [2, 2, 9]]))
    state = play(memory_engine(image()), CLICK, outside)
    assert state.labels[15, 14, 9] == 0
    assert state.area(1)[9] == state.area(1)[7] - 1


def test_objects_of_a_round_are_segmented_together_and_others_stay() -> None:
    """Two objects by clicks; then the second one alone: the first keeps its voxels."""
    engine = memory_engine(image())
    state = play(engine, CLICK, {2: Marks(2, inside=np.array([[3, 3, 8]]))}, names=("ball", "other"))
    assert np.array_equal(state.labels == 1, image().numpy() > 0)
    assert (state.labels == 2).sum() == 1


@pytest.mark.parametrize("slices", [12, 120])
def test_memory_does_not_grow_with_the_volume(slices: int) -> None:
    network = Bright().eval()
    engine = memory_engine(torch.ones(SIZE, SIZE, slices), network, capacity=5)
    far = Marks(2, inside=np.array([[15, 14, slices // 2]]))
    play(engine, far, Marks(2, inside=np.array([[15, 14, 1]])))
    assert max(network.memorised) <= 5
    if slices > 100:
        assert max(network.memorised) == 5


def test_memory_keeps_hints_and_the_newest() -> None:
    def entry(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        value = torch.full((1, 1, 2, 1, 1, 1), float(number))
        return value, value

    memory = Memory(capacity=4)
    memory.pin(entry(100))
    for number in range(1, 18):
        memory.add(entry(number))
    kept = memory.read()[0][0, 0, 0, :, 0, 0].tolist()
    # The hinted slice, the last two of 5, 10, 15, and the slice just passed.
    assert kept == [100, 10, 15, 17]


def test_bytes_of_a_memory() -> None:
    """As in the original: 2.5 MiB for a slice of 512² with keys of 128 and values of 512."""
    assert memory_bytes(1, 1, 512, 128, 512) == 2.5 * 2**20
    network = InteractiveNetwork("resnet18", 1, keys=8, values=16, width=8, hint_width=8).eval()
    key, value = network.memory.memorise(torch.rand(1, 1, 64, 64), torch.rand(1, 2, 64, 64))
    held = (key.numel() + value.numel()) * 4
    assert memory_bytes(3, 2, 64, 8, 16) == 3 * held


def test_a_single_slice_is_refused() -> None:
    with pytest.raises(CaseError, match="one slice"):
        play(memory_engine(image()[..., :1]), Marks(2, inside=np.array([[1, 1, 0]])))


def test_a_round_can_be_stopped() -> None:
    shares: list[float] = []

    def progress(share: float) -> None:
        shares.append(share)
        raise StoppedError

    request = Request(np.zeros(SHAPE, np.uint8), {1: (CLICK,)}, {1: (CLICK,)}, 2, progress)
    with pytest.raises(StoppedError):
        memory_engine(image()).segment(request)
    assert len(shares) == 1
    assert 0 < shares[0] <= 1


def test_validation_without_an_object_has_no_score(tmp_path: Path) -> None:
    """Even if something is found, since a person would not mark anything."""
    shape = (16, 16, 4)
    lineage = Lineage.of(shape, np.eye(4), Box((0, 0, 0), shape))
    for name, value in (("empty", 0), ("full", 1)):
        grey, label = np.full((1, *shape), 200, np.int16), np.full(shape, value, np.uint8)
        write_case(tmp_path / name, name, Contents(grey, label, None, lineage, ("ball",)), (8, 8, 4), 500)
    learner = InteractiveLearner(settings(), told()["task"])
    scores = learner.validate(Bright().eval(), [str(tmp_path / "empty")])
    assert np.isnan([scores["score"], scores["val_dice"]]).all()
    both = [str(tmp_path / name) for name in ("empty", "full")]
    assert learner.validate(Bright().eval(), both)["score"] == pytest.approx(1)


def test_a_committee_of_one_mind_is_one_network() -> None:
    """Two copies of a network segment as it does; two different networks do not."""
    torch.manual_seed(0)
    networks = [
        InteractiveNetwork("resnet18", 1, keys=4, values=4, width=4, hint_width=8).eval() for _ in range(2)
    ]
    marks = Marks(2, inside=np.array([[15, 14, 3]]))
    request = Request(np.zeros((SIZE, SIZE, 6), np.uint8), {1: (marks,)}, {1: (marks,)}, 2)
    answers = []
    used: list[Any] = [networks[0], Committee([networks[0]] * 2), Committee(networks)]
    for network in used:
        answers.append(memory_engine(image(6), network).segment(request))
    first, same, other = (answer.masks[1].astype(int) for answer in answers)
    assert np.abs(first - same).max() <= 1
    assert np.allclose(answers[0].quality[1], answers[1].quality[1], atol=1e-4, equal_nan=True)
    assert np.abs(first - other).max() > 1


# Stored feet first, then right to left, then back to front.
TURNED = np.array([[0, -2.0, 0, 5], [0, 0, 3.0, 1], [1.5, 0, 0, 2], [0, 0, 0, 1]])
STORED = (10, 12, 8)


def placement(box: Box | None = None) -> Placement:
    return Placement(Lineage.of(STORED, TURNED, box or Box((0, 0, 0), STORED)))


def test_marks_follow_the_orientation() -> None:
    """File axes are z, −x, y: voxel (3, 4, 5) is prepared voxel (11 − 4, 5, 3)."""
    marks = Marks(
        0,
        inside=np.array([[3, 4, 5]]),
        boxes=np.array([[[3, 1, 2], [3, 4, 6]]]),
        spans=np.array([[2, 8]]),
        empty=np.array([9]),
    )
    request = Request(np.zeros(STORED, np.uint8), {1: (marks,)}, {1: (marks,)}, 0)
    moved = placement().request(request)
    (found,) = moved.new[1]
    assert (moved.axis, found.axis) == (2, 2)
    assert found.inside.tolist() == [[7, 5, 3]]
    assert np.sort(found.boxes, 1).tolist() == [[[7, 2, 3], [10, 6, 3]]]
    assert found.spans.tolist() == [[2, 8]]
    assert found.empty.tolist() == [9]
    # Along −x, the order of a span is reversed.
    sideways = Marks(1, spans=np.array([[2, 8]]))
    other = Request(np.zeros(STORED, np.uint8), {1: (sideways,)}, {1: (sideways,)}, 1)
    assert placement().request(other).new[1][0].spans.tolist() == [[3, 9]]
    assert [placement().slice_in_source(2, n) for n in (0, 3, 9)] == [0, 3, 9]
    assert [placement().slice_in_source(0, n) for n in (0, 11)] == [11, 0]


def test_marks_outside_what_was_kept_are_left_to_the_round() -> None:
    box = Box((2, 0, 0), (6, 12, 8))
    marks = Marks(0, inside=np.array([[0, 4, 5], [3, 4, 5]]), empty=np.array([1, 4]))
    request = Request(np.zeros(STORED, np.uint8), {1: (marks,)}, {1: (marks,)}, 0)
    (found,) = placement(box).request(request).new[1]
    assert found.inside.tolist() == [[7, 5, 1]]
    assert found.empty.tolist() == [2]


@pytest.mark.parametrize("box", [Box((0, 0, 0), STORED), Box((2, 1, 0), (6, 10, 8))])
def test_a_prepared_grid_changes_no_mask(box: Box) -> None:
    """The image, turned and cropped: bright voxels of the box are found, in the file's own axes."""
    random = np.random.default_rng(0)
    bright = random.random(STORED) < 0.3
    bright[5, 6, 4] = True
    place = placement(box)
    prepared = place.lineage.to_cache(np.where(bright, 1.0, -1.0).astype(np.float32)[box.slices]).copy()
    size = max(prepared.shape[:2])
    network: Any = Bright().eval()
    engine = MemoryEngine(
        network, torch.from_numpy(prepared)[None], (1, 1, 1), size=size, capacity=4, placement=place
    )
    seen = Scan(np.where(bright, 1, -1).astype(np.int16)[None], TURNED)
    marks = Marks(0, inside=np.array([[5, 6, 4]]))
    state = advance(engine, seen, State.empty(STORED, 0), {1: (marks,)}, ["ball"])
    expected = np.zeros_like(bright)
    expected[box.slices] = bright[box.slices]
    assert np.array_equal(state.labels == 1, expected)
    quality = state.quality_of(1)
    inside = range(box.start[0], box.start[0] + box.shape[0])
    assert np.isfinite(quality).nonzero()[0].tolist() == list(inside)
