"""Rounds, memory, choices and files of a session; networks with known answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foldwise.files import CaseError
from foldwise.systems.interactive.committee import Committee
from foldwise.systems.interactive.files import joined, read_box, read_points, read_scribble
from foldwise.systems.interactive.hints import Hints
from foldwise.systems.interactive.learner import InteractiveLearner
from foldwise.systems.interactive.masks import mask_in_source
from foldwise.systems.interactive.network import InteractiveNetwork
from foldwise.systems.interactive.places import Places
from foldwise.systems.interactive.rounds import chosen, simulate, slice_iou
from foldwise.systems.interactive.session import Memory, Propagator, State, _doubt, memory_bytes
from foldwise.systems.interactive.workspace import OutdatedError, Workspace
from foldwise.volumes.cache import Contents, write_case
from foldwise.volumes.geometry import Box, Lineage
from foldwise.volumes.targets import Targets
from foldwise.volumes.volume import Volume, read_header, write_volume
from interactive_scans import SIZE, Bright, Says, quality_of, settings, told
from synthetic import ball

CLICK = {0: Hints(inside=np.array([[15.0, 14.0]]))}


def stack(slices: int = 16) -> torch.Tensor:
    """A bright ball (1) on a dark ground (−1), as slices."""
    mask = np.moveaxis(ball((SIZE, SIZE, slices), (15, 14, slices // 2), 6.5), 2, 0)
    return torch.from_numpy(np.where(mask, 1.0, -1.0)).float()[:, None]


def propagator(
    network: Any = None,
    image: torch.Tensor | None = None,
    capacity: int = 4,
    objects: tuple[str, ...] = ("ball",),
) -> Propagator:
    used: Any = network or Bright().eval()
    seen = stack() if image is None else image
    return Propagator(used, seen, (1, 1), objects=objects, size=SIZE, capacity=capacity)


def empty(of: Propagator) -> State:
    return State.empty(len(of.names), of.shape)


def test_a_round_goes_both_ways() -> None:
    rounds = propagator()
    before = empty(rounds)
    state = rounds.round(before, 8, CLICK)
    assert np.array_equal(state.objects(), (stack()[:, 0] > 0).numpy())
    assert state.hinted == (8,)
    assert not before.probabilities.any()


def test_quality_is_of_slices_with_a_mask_and_no_hints() -> None:
    rounds = propagator()
    state = rounds.round(empty(rounds), 8, CLICK)
    bright = stack()[:, 0] > 0
    for place in range(16):
        predicted = bright[place].any() and place != 8
        wanted = float(quality_of(stack()[place])) if predicted else 1
        assert state.quality[0, place] == pytest.approx(wanted, abs=1e-5)
    # The smallest slices are the worst here.
    assert state.suggestion() in (2, 14)


def test_a_missed_object_is_a_failure() -> None:
    """Hints mark the ball, but nothing is found: quality 0; an adjacent slice comes next."""
    rounds = propagator(Says(hinted=-20, propagated=-20))
    state = rounds.round(empty(rounds), 8, CLICK)
    assert state.not_found() == [0]
    assert (state.quality == 0).all()
    assert state.suggestion() in (7, 9)
    # The hinted slice itself is suggested again when nothing else is left.
    everywhere = State(state.probabilities, state.quality, (*range(8), *range(9, 16), 8))
    assert everywhere.suggestion() == 8


def test_a_mask_that_is_lost_beside_a_large_one_is_looked_at() -> None:
    """Only the hinted slice has the ball: the two adjacent ones are suggested, no others."""
    rounds = propagator(Says(propagated=-20))
    state = rounds.round(empty(rounds), 8, CLICK)
    assert state.quality[0].tolist() == [0 if n in (7, 9) else 1 for n in range(16)]
    for place in (7, 9):
        assert state.suggestion() in (7, 9)
        state = rounds.round(state, place, {0: Hints(nothing=True)})
    assert state.suggestion() is None


def test_an_object_that_ends_where_another_begins_is_not_lost() -> None:
    """The ball belongs to one object up to slice 8 and to another from 9; hints on 8 are for the first."""
    ball = (stack()[:, 0] > 0).numpy() * np.uint8(255)
    state = State(np.zeros((2, *ball.shape), np.uint8), np.ones((2, 16), np.float32), (8,))
    state.probabilities[0, :9], state.probabilities[1, 9:] = ball[:9], ball[9:]
    _doubt(state)
    assert (state.quality == 1).all()
    state.probabilities[1] = 0
    _doubt(state)
    assert state.quality[0].tolist() == [0 if n == 9 else 1 for n in range(16)]


@pytest.mark.parametrize("logit", [0.4, -0.4])
def test_unsure_slices_are_worth_what_their_probabilities_are(logit: float) -> None:
    """Whatever is predicted, here 0.98: no pixel is certain.

    Aggregation squares the odds: p = e^0.8 / (1 + e^0.8) = 0.690 in an area A, and 0 elsewhere. If that is
    right, the mask has the IoU (0.690 A + 1) / (A + 1). For 0.310 the mask is empty, with an expected IoU of
    1 / (0.310 A + 1); where it ends next to the large mask of the hinted slice, it is lost.
    """
    rounds = propagator(Says(propagated=logit))
    state = rounds.round(empty(rounds), 8, CLICK)
    area = (stack()[:, 0] > 0).sum((1, 2)).numpy()
    wanted = (0.690 * area + 1) / (area + 1) if logit > 0 else 1 / (0.310 * area + 1)
    for place in range(16):
        if place == 8 or (logit < 0 and place in (7, 9)):
            continue
        assert state.quality[0, place] == pytest.approx(wanted[place] if area[place] else 1, abs=2e-3)
    assert state.quality[0, 9] < 0.7
    assert state.suggestion() is not None


def test_a_quality_that_is_no_number_is_the_lowest() -> None:
    rounds = propagator(Says(quality=float("nan")))
    state = rounds.round(empty(rounds), 8, CLICK)
    assert [n for n in range(16) if state.quality[0, n] == 0] == [2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14]


@pytest.mark.parametrize("network", [Says(hinted=float("nan")), Says(propagated=float("nan"))])
def test_a_network_that_answers_no_numbers_is_refused(network: Says) -> None:
    rounds = propagator(network.eval())
    with pytest.raises(CaseError, match="NaN or infinite values"):
        rounds.round(empty(rounds), 8, CLICK)


def test_objects_without_hints_are_unknown() -> None:
    """Only the first of two objects was hinted: only it chooses slices; the other is not rated as perfect."""
    rounds = propagator(objects=("ball", "other"))
    state = rounds.round(empty(rounds), 8, CLICK)
    assert state.not_found() == [1]
    assert np.isnan(state.quality[1]).all()
    assert state.suggestion() in (2, 14)
    assert np.isfinite(state.lowest()).all()
    # Hinted in vain, it is a failure that the first one does not hide.
    state = propagator(Says(hinted=-20, propagated=-20), objects=("ball", "other")).round(
        state, 8, {1: CLICK[0]}
    )
    assert (state.quality[1] == 0).all()
    assert state.quality[0, 8] == 1
    assert state.suggestion() in (7, 9)


def test_before_the_first_round_nothing_is_known() -> None:
    state = empty(propagator())
    assert np.isnan(state.quality).all()
    assert state.suggestion() is None


def test_hints_that_the_mask_does_not_follow() -> None:
    """Two of three outside points stay in the mask: quality 1/3, and suggested again at the end."""
    rounds = propagator(Says(quality=0.9))
    hints = Hints(inside=np.array([[15.0, 14.0]]), outside=np.array([[15.0, 13.0], [15.0, 15.0], [2.0, 2.0]]))
    state = rounds.round(empty(rounds), 8, {0: hints})
    assert state.quality[0, 8] == pytest.approx(1 / 3)
    assert state.suggestion() in (7, 9)


def test_slices_up_to_the_next_hints_are_redone_and_no_others() -> None:
    rounds = propagator()
    state = rounds.round(empty(rounds), 8, CLICK)
    state = rounds.round(state, 12, {0: Hints(nothing=True)})
    filled = state.objects().any((1, 2))
    # Nothing on 12, nor beyond or back from there; slice 8 and those before it are kept.
    assert filled.tolist() == [2 <= n <= 8 for n in range(16)]
    assert state.hinted == (8, 12)
    # The ball ended at 8 because of the hint on 12: the slice in between is worth a look.
    assert state.suggestion() == 9


def test_hinting_a_slice_again_replaces_its_hints() -> None:
    rounds = propagator()
    state = rounds.round(empty(rounds), 8, {0: Hints(nothing=True)})
    assert not state.objects().any()
    state = rounds.round(state, 8, CLICK)
    assert state.hinted == (8,)
    assert state.objects().any()


@pytest.mark.parametrize("slices", [12, 120])
def test_memory_does_not_grow_with_the_volume(slices: int) -> None:
    network = Bright().eval()
    rounds = propagator(network, torch.ones(slices, 1, SIZE, SIZE), capacity=5)
    state = rounds.round(empty(rounds), slices // 2, CLICK)
    rounds.round(state, 1, CLICK)
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


@pytest.mark.parametrize(
    ("place", "hints", "message"),
    [
        (16, CLICK, "slice 16 is outside the volume, which has slices 0 to 15"),
        (-1, CLICK, "outside the volume"),
        (8, {0: Hints()}, "no hint on slice 8"),
        (8, {0: Hints(inside=np.array([[15.0, 32.0]]))}, "column 32 is outside slice 8"),
        (8, {0: Hints(outside=np.array([[1.0, 2.0]]))}, "only marks outside"),
    ],
)
def test_unusable_hints_are_refused(place: int, hints: dict[int, Hints], message: str) -> None:
    rounds = propagator()
    with pytest.raises(CaseError, match=message):
        rounds.round(empty(rounds), place, hints)


def test_a_single_slice_is_refused() -> None:
    with pytest.raises(CaseError, match="one slice"):
        propagator(image=stack()[:1])


def test_validation_without_an_object_has_no_score(tmp_path: Path) -> None:
    """Even if something is found, since a person would not mark anything."""
    shape = (16, 16, 4)
    lineage = Lineage.of(shape, np.eye(4), Box((0, 0, 0), shape))
    for name, value in (("empty", 0), ("full", 1)):
        image, label = np.full((1, *shape), 200, np.int16), np.full(shape, value, np.uint8)
        write_case(tmp_path / name, name, Contents(image, label, None, lineage, ("ball",)), (8, 8, 4), 500)
    learner = InteractiveLearner(settings(), told()["task"])
    scores = learner.validate(Bright().eval(), [str(tmp_path / "empty")])
    assert np.isnan([scores["score"], scores["val_dice"]]).all()
    both = [str(tmp_path / name) for name in ("empty", "full")]
    assert learner.validate(Bright().eval(), both)["score"] == pytest.approx(1)


def test_who_chooses() -> None:
    """Predicted: the lowest quality. Oracle: the lowest true IoU. Random: any with a mask and no hints."""
    quality = np.array([[1, 0.5, 0.2, 0.9, 1]], np.float32)
    mask = np.ones((5, 4, 4), np.uint8)
    state = State((mask * 255)[None], quality, hinted=(2,))
    true = mask.copy()
    true[3, :3] = 0
    assert chosen(state, true, "predicted", np.random.default_rng(0)) == 1
    assert chosen(state, true, "oracle", np.random.default_rng(0)) == 3
    random = {chosen(state, true, "random", np.random.default_rng(n)) for n in range(50)}
    assert random == {0, 1, 3, 4}


@pytest.mark.parametrize("network", [Bright(), Says(hinted=-20, propagated=-20), Says(propagated=0.4)])
def test_the_truth_does_not_choose(network: Bright) -> None:
    """With another truth on all slices except the hinted ones, predicted choice takes the same slices."""
    truth = (stack()[:, 0] > 0).numpy().astype(np.uint8)
    rounds = propagator(network.eval())
    first = list(simulate(rounds, truth, "points", "predicted", 3, np.random.default_rng(0)))
    places = [round_.place for round_ in first]
    other = truth.copy()
    untouched = [n for n in range(16) if n not in places]
    other[untouched] = np.roll(truth[untouched], 1, axis=2)
    again = list(simulate(rounds, other, "points", "predicted", 3, np.random.default_rng(0)))
    assert [round_.place for round_ in again] == places
    assert len(set(places)) == 3


def test_true_iou_of_slices() -> None:
    found, truth = np.zeros((3, 2, 2), np.uint8), np.zeros((3, 2, 2), np.uint8)
    found[0], truth[0, 0] = 1, 1
    truth[1] = 1
    assert slice_iou(found, truth, 1).tolist() == [[0.5, 0, 1]]


def test_a_committee_of_one_mind_is_one_network() -> None:
    """Two copies of a network segment as it does; two different networks do not."""
    torch.manual_seed(0)
    networks = [
        InteractiveNetwork("resnet18", 1, keys=4, values=4, width=4, hint_width=8).eval() for _ in range(2)
    ]
    image, states = stack(6), []
    for network in (networks[0], Committee([networks[0]] * 2), Committee(networks)):
        rounds = propagator(network, image)
        states.append(rounds.round(empty(rounds), 3, CLICK))
    assert np.abs(states[0].probabilities.astype(int) - states[1].probabilities).max() <= 1
    assert np.allclose(states[0].quality, states[1].quality, atol=1e-4)
    assert np.abs(states[0].probabilities.astype(int) - states[2].probabilities).max() > 1


def places(affine: np.ndarray, shape: tuple[int, int, int] = (10, 12, 8), axis: str = "z") -> Places:
    return Places(Lineage.of(shape, affine, Box((0, 0, 0), shape)), axis)


# Stored feet first, then right to left, then back to front.
TURNED = np.array([[0, -2.0, 0, 5], [0, 0, 3.0, 1], [1.5, 0, 0, 2], [0, 0, 0, 1]])


def test_places_follow_the_orientation() -> None:
    """File axes are z, −x, y: slices across z lie along the file's first axis."""
    mapped = places(TURNED)
    assert mapped.source_axis == 0
    # Voxel (3, 4, 5): slice 3; x runs backwards over 12; y as stored.
    assert mapped.to_stack(np.array([3, 4, 5])).round(6).tolist() == [[3, 7, 5]]
    assert mapped.to_source(np.array([3, 7, 5])).round(6).tolist() == [[3, 4, 5]]
    assert [mapped.slice_in_source(n) for n in (0, 3, 9)] == [0, 3, 9]
    assert mapped.slice_of_source(9) == 9


def test_points_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("x,y,z,kind,object\n3,4,5,inside,a\n3,5,6,box,b\n3,9,7,box,b\n", encoding="utf-8")
    marked = read_points(path, ["a", "b"], places(TURNED))
    assert list(marked) == [3]
    assert marked[3][0].inside.round(6).tolist() == [[7, 5]]
    assert marked[3][1].box.round(6).tolist() == [[6, 6], [2, 7]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y,z,kind\n", "no points"),
        ("x,y\n1,2\n", "no column `z`"),
        ("x,y,z,kind,object\n1,2,here,inside,a\n", "line 2: x, y and z must be numbers"),
        ("x,y,z,kind\n1,2,3,circle\n", "line 2: kind 'circle'"),
        ("x,y,z,object\n1,2,3,heart\n", "object 'heart'"),
    ],
)
def test_faulty_points(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "points.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CaseError, match=message):
        read_points(path, ["a", "b"], places(TURNED))


def test_scribbles_from_a_file(tmp_path: Path) -> None:
    data = np.zeros((10, 12, 8), np.uint8)
    data[3, 4, 5], data[3, 5, 5], data[3, 0, 0], data[6, 1, 1] = 7, 7, 255, 7
    write_volume(Volume(data, TURNED), tmp_path / "scribble.nii.gz")
    header = read_header(tmp_path / "scribble.nii.gz")
    marked = read_scribble(tmp_path / "scribble.nii.gz", header, {"a": 7}, places(TURNED))
    assert sorted(marked) == [3, 6]
    assert marked[3][0].inside.round(6).tolist() == [[7, 5], [6, 5]]
    assert marked[3][0].outside.round(6).tolist() == [[11, 0]]
    both = joined([marked, read_box([3, 4, 5, 3, 6, 7], "", ["a"], places(TURNED))])
    assert len(both[3][0].box) == 2
    assert len(both[3][0].inside) == 2


def test_an_object_of_255_is_not_the_rest(tmp_path: Path) -> None:
    """As in masks of 0 and 255, which are common."""
    data = np.zeros((10, 12, 8), np.uint8)
    data[3, 4, 5], data[3, 0, 0] = 255, 253
    write_volume(Volume(data, TURNED), tmp_path / "scribble.nii.gz")
    header = read_header(tmp_path / "scribble.nii.gz")
    marked = read_scribble(tmp_path / "scribble.nii.gz", header, {"a": 255, "b": 254}, places(TURNED))
    assert marked[3][0].inside.round(6).tolist() == [[7, 5]]
    assert marked[3][0].outside.round(6).tolist() == [[11, 0]]
    with pytest.raises(CaseError, match="value 253 is not known; use 255 a, 254 outside"):
        read_scribble(tmp_path / "scribble.nii.gz", header, {"a": 255}, places(TURNED))


def test_faulty_scribbles(tmp_path: Path) -> None:
    data = np.zeros((10, 12, 8), np.uint8)
    path = tmp_path / "scribble.nii.gz"
    write_volume(Volume(data, TURNED), path)
    header = read_header(path)
    with pytest.raises(CaseError, match="the scribble is empty"):
        read_scribble(path, header, {"a": 7}, places(TURNED))
    write_volume(Volume(data + 3, TURNED), path)
    with pytest.raises(CaseError, match="value 3 is not known"):
        read_scribble(path, header, {"a": 7}, places(TURNED))
    write_volume(Volume(data[1:] + 7, TURNED), path)
    with pytest.raises(CaseError, match="grid"):
        read_scribble(path, header, {"a": 7}, places(TURNED))


def test_a_box_of_several_slices_is_refused() -> None:
    with pytest.raises(CaseError, match="same index along axis x"):
        read_box([3, 4, 5, 4, 6, 7], "", ["a"], places(TURNED))


def test_rounds_outlive_the_process(tmp_path: Path) -> None:
    rounds = propagator()
    first = rounds.round(empty(rounds), 8, CLICK)
    workspace = Workspace(tmp_path, {"model": "m"})
    assert workspace.state(empty(rounds)).hinted == ()
    workspace.add(first, 8, CLICK)
    workspace.add(rounds.round(first, 12, {0: Hints(nothing=True)}), 12, {0: Hints(nothing=True)})
    again = Workspace(tmp_path, {"model": "m"})
    assert again.rounds == 2
    assert again.state(empty(rounds)).hinted == (8, 12)
    again.undo()
    back = again.state(empty(rounds))
    assert np.array_equal(back.probabilities, first.probabilities)
    assert np.array_equal(back.quality, first.quality)
    again.undo()
    with pytest.raises(CaseError, match="no round to undo"):
        again.undo()


def slices_hinted(folder: Path) -> list[int]:
    """The hinted slices in a session's files, in order."""
    hinted = []
    for path in sorted(folder.glob("round_*.npz")):
        with np.load(path) as file:
            hinted.append(json.loads(str(file["hints"]))["slice"])
    return hinted


def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    """A process that has not read the last round can neither add nor undo one."""
    rounds = propagator()
    one, two = Workspace(tmp_path, {}), Workspace(tmp_path, {})
    first = rounds.round(empty(rounds), 8, CLICK)
    one.add(first, 8, CLICK)
    for change in (lambda: two.add(first, 5, CLICK), two.undo):
        with pytest.raises(OutdatedError, match="another page or command"):
            change()
    assert slices_hinted(tmp_path) == [8]
    two.add(rounds.round(two.state(empty(rounds)), 5, CLICK), 5, CLICK)
    assert slices_hinted(tmp_path) == [8, 5]
    # The same number does not mean the same round.
    one.state(empty(rounds))
    two.undo()
    two.add(first, 11, CLICK)
    with pytest.raises(OutdatedError):
        one.undo()
    assert slices_hinted(tmp_path) == [8, 11]


@pytest.mark.parametrize("links", [True, False])
def test_a_round_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """Another process adds its round while this one writes; also on a file system without links."""

    def refused(*_: Any) -> None:
        raise PermissionError

    if not links:
        monkeypatch.setattr("os.link", refused)
    rounds = propagator()
    one, two = Workspace(tmp_path, {}), Workspace(tmp_path, {})
    first = rounds.round(empty(rounds), 8, CLICK)
    save = np.savez_compressed

    def slow(*given: Any, **arrays: Any) -> None:
        monkeypatch.setattr(np, "savez_compressed", save)
        two.add(first, 5, CLICK)
        save(*given, **arrays)

    monkeypatch.setattr(np, "savez_compressed", slow)
    with pytest.raises(OutdatedError):
        one.add(first, 8, CLICK)
    assert slices_hinted(tmp_path) == [5]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round_0001.npz", "session.json"]


def test_a_folder_of_other_files_is_no_session(tmp_path: Path) -> None:
    """A prepared scan of another session would be mistaken for this scan."""
    (tmp_path / "case.h5").write_bytes(b"of something else")
    with pytest.raises(CaseError, match=r"case\.h5: not part of a session"):
        Workspace(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["case.h5"]


def test_a_session_of_another_model_is_left_alone(tmp_path: Path) -> None:
    Workspace(tmp_path, {"scan": "s", "model": "m"})
    with pytest.raises(CaseError, match="another model"):
        Workspace(tmp_path, {"scan": "s", "model": "other"})
    assert Workspace(tmp_path, {"scan": "s", "model": "m"}).rounds == 0


def test_a_broken_round_is_told_of(tmp_path: Path) -> None:
    rounds = propagator()
    workspace = Workspace(tmp_path, {})
    workspace.add(rounds.round(empty(rounds), 8, CLICK), 8, CLICK)
    path = next(tmp_path.glob("round_*.npz"))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CaseError, match="not a readable round"):
        workspace.state(empty(rounds))


def test_a_mask_has_the_objects_own_values() -> None:
    probabilities = np.zeros((2, 3, 1, 2), np.uint8)
    probabilities[0, 1, 0, 0] = probabilities[1, 2, 0, 1] = 200
    state = State(probabilities, np.ones((2, 3), np.float32))
    lineage = Lineage.of((1, 2, 3), np.eye(4), Box((0, 0, 0), (1, 2, 3)))
    volume = mask_in_source(state, lineage, "z", Targets({"a": 257, "b": 70_000}))
    assert volume.data[0].tolist() == [[0, 257, 0], [0, 0, 70_000]]
    assert volume.data.dtype == np.int32
