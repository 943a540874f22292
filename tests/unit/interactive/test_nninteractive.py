"""nnInteractive's real client against a stand-in for its server."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest

from foldwise.files import CaseError
from foldwise.systems.interactive.engines import Request, Scan, StoppedError
from foldwise.systems.interactive.engines.choice import Options, open_engine
from foldwise.systems.interactive.engines.nninteractive import KEY, NNInteractive
from foldwise.systems.interactive.engines.prompts import prompts_of
from foldwise.systems.interactive.marks import Marks
from nninteractive_server import StandIn, serving

SHAPE = (7, 9, 11)
# No two sides are alike, so that a swap of axes shows.
BLOCK = (slice(1, 4), slice(2, 7), slice(3, 9))
OTHER = (slice(5, 7), slice(0, 2), slice(0, 4))


def scan() -> Scan:
    image = np.full((1, *SHAPE), -1000, np.int16)
    image[0][BLOCK], image[0][OTHER] = 100, 200
    return Scan(image, np.diag([0.7, 0.8, 3.0, 1.0]))


def only(where: tuple[slice, ...]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[where] = True
    return mask


def request(
    *rounds: dict[int, Marks], labels: np.ndarray | None = None, progress: object = lambda share: None
) -> Request:
    """The last of several rounds."""
    said: dict[int, tuple[Marks, ...]] = {}
    for each in rounds:
        for number, marks in each.items():
            said[number] = (*said.get(number, ()), marks)
    new = {number: (marks,) for number, marks in rounds[-1].items()}
    before = np.zeros(SHAPE, np.uint8) if labels is None else labels
    return Request(before, said, new, 2, progress)  # type: ignore[arg-type]


def voxels(*points: tuple[int, int, int]) -> np.ndarray:
    return np.array(points)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[tuple[StandIn, str]]:
    stand_in = StandIn()
    with serving(stand_in) as address:
        yield stand_in, address


@pytest.fixture
def engine(server: tuple[StandIn, str]) -> Iterator[NNInteractive]:
    opened = open_engine("nninteractive", scan(), Options(server=server[1]))
    assert isinstance(opened, NNInteractive)
    yield opened
    opened.close()


def test_a_click_finds_the_block_around_it(server: tuple[StandIn, str], engine: NNInteractive) -> None:
    answer = engine.segment(request({1: Marks(2, inside=voxels((2, 6, 8)))}))
    assert np.array_equal(answer.masks[1] > 127, only(BLOCK))
    assert answer.masks[1].dtype == np.uint8
    assert not answer.quality
    # The server has the file's own values, slices first, and coordinates in the same order.
    [image] = server[0].told("set_image")
    np.testing.assert_array_equal(image["array"], scan().image.transpose(0, 3, 2, 1))
    assert image["array"].dtype == np.int16
    assert server[0].told("add_point_interaction")[0]["coordinates"] == [8, 6, 2]


def test_corners_of_a_box_are_within_it(server: tuple[StandIn, str], engine: NNInteractive) -> None:
    marks = Marks(2, boxes=np.array([[[4, 7, 5], [1, 3, 5]]]))
    answer = engine.segment(request({1: marks}))
    assert np.array_equal(answer.masks[1] > 127, only((slice(1, 5), slice(3, 8), slice(5, 6))))
    assert server[0].told("add_bbox_interaction")[0]["bbox_coords"] == [[5, 6], [3, 8], [1, 5]]
    # Across another axis, too.
    marks = Marks(0, boxes=np.array([[[6, 7, 5], [6, 3, 1]]]))
    answer = engine.segment(request({1: marks}))
    assert np.array_equal(answer.masks[1] > 127, only((slice(6, 7), slice(3, 8), slice(1, 6))))


def test_every_kind_of_marks(server: tuple[StandIn, str], engine: NNInteractive) -> None:
    marks = Marks(
        2,
        inside=voxels((1, 2, 3), (2, 3, 3), (3, 6, 8)),
        outside=voxels((5, 1, 0)),
        extreme=voxels((1, 4, 6), (3, 4, 6), (2, 2, 6), (2, 6, 6)),
        lines=np.array([[[1, 3, 4], [3, 3, 4]]]),
        empty=np.array([10]),
    )
    answer = engine.segment(request({1: marks}))
    assert np.array_equal(answer.masks[1] > 127, only(BLOCK))
    asked = [path for path in server[0].paths if path.startswith("add")]
    assert asked == [f"add_{kind}_interaction" for kind in ("bbox", "scribble", "scribble", "point", "point")]
    [box] = server[0].told("add_bbox_interaction")
    assert box["bbox_coords"] == [[6, 7], [2, 7], [1, 4]]
    line, scribble = server[0].told("add_scribble_interaction")
    assert line["interaction_bbox"] == [[4, 5], [3, 4], [1, 4]]
    assert line["array"].tolist() == [[[1, 1, 1]]]
    assert scribble["interaction_bbox"] == [[3, 4], [2, 4], [1, 3]]
    assert scribble["array"].tolist() == [[[1, 0], [0, 1]]]
    inside, outside = server[0].told("add_point_interaction")
    assert (inside["coordinates"], inside["include_interaction"]) == ([8, 6, 3], True)
    assert (outside["coordinates"], outside["include_interaction"]) == ([0, 1, 5], False)


def test_rounds_and_objects(server: tuple[StandIn, str], engine: NNInteractive) -> None:
    first = {1: Marks(2, inside=voxels((2, 3, 4))), 2: Marks(2, inside=voxels((6, 0, 0)))}
    answer = engine.segment(request(first))
    assert np.array_equal(answer.masks[1] > 127, only(BLOCK))
    assert np.array_equal(answer.masks[2] > 127, only(OTHER))
    # The mask was edited since; the server goes on from what the person sees, and knows the earlier marks.
    edited = only(BLOCK).astype(np.uint8)
    edited[2, 3, 4], edited[0, 8, 10] = 0, 1
    edited[OTHER] = 2
    server[0].calls.clear()
    answer = engine.segment(request(first, {1: Marks(0, outside=voxels((0, 8, 9)))}, labels=edited))
    assert server[0].paths == ["add_initial_seg_interaction", *["add_point_interaction"] * 2]
    assert [sent["run_prediction"] for sent in server[0].told("add_point_interaction")] == [False, True]
    assert list(answer.masks) == [1]
    # By the stand-in's rule: the block is inside again, the background around the mark outside.
    assert np.array_equal(answer.masks[1] > 127, only(BLOCK))
    # What a person settles by spans alone asks the network nothing.
    answer = engine.segment(request(first, {2: Marks(2, spans=np.array([[0, 3]]))}, labels=edited))
    assert np.array_equal(answer.masks[2] > 127, only(OTHER))
    assert len(server[0].told("set_image")) == 0


def test_a_network_that_knows_no_start(server: tuple[StandIn, str]) -> None:
    server[0].capabilities["supports_initial_label"] = False
    engine = open_engine("nninteractive", scan(), Options(server=server[1]))
    first, then = {1: Marks(2, inside=voxels((2, 3, 4)))}, {1: Marks(2, inside=voxels((6, 0, 0)))}
    labels = only(BLOCK).astype(np.uint8)
    answer = engine.segment(request(first, then, labels=labels))
    assert np.array_equal(answer.masks[1] > 127, only(BLOCK) | only(OTHER))
    assert server[0].paths[-3:] == ["reset_interactions", *["add_point_interaction"] * 2]


def test_thin_scribbles_are_thickened_on_their_plane() -> None:
    marks = Marks(2, inside=voxels((6, 2, 4), (6, 3, 4), (6, 4, 4)))
    [[prompt]] = prompts_of((marks,), SHAPE, np.array([2, 2, 2]))
    drawn = np.argwhere(prompt.voxels) + prompt.start
    assert {*drawn[:, 2]} == {4}
    # The line has no width along x, where it is at the scan's edge, so it is longer only.
    assert {tuple(voxel) for voxel in marks.inside} <= {tuple(voxel) for voxel in drawn}
    assert drawn[:, 0].min() >= 5
    assert drawn.max(0)[0] <= 6
    brush = Marks(0, inside=np.argwhere(only((slice(3, 4), slice(2, 5), slice(2, 5)))))
    [[prompt]] = prompts_of((brush,), SHAPE, np.array([2, 2, 2]))
    assert {tuple(voxel) for voxel in np.argwhere(prompt.voxels) + prompt.start} == {
        tuple(voxel) for voxel in brush.inside
    }


def test_withdrawn_marks_are_no_prompts() -> None:
    wrong = Marks(
        2,
        inside=voxels((1, 1, 1), (5, 5, 5)),
        boxes=np.array([[[0, 0, 1], [3, 3, 1]], [[4, 4, 5], [6, 6, 5]]]),
    )
    outside = Marks(0, outside=voxels((5, 5, 5)))
    later = Marks(2, inside=voxels((6, 8, 1)), boxes=np.array([[[5, 5, 5], [6, 7, 5]]]))
    painted = Marks(2, inside=voxels((2, 2, 2)), painted=True)
    found = prompts_of((wrong, outside, later, painted), SHAPE, np.ones(3, int))
    told = [[(each.kind, each.inside, tuple(each.start.tolist())) for each in some] for some in found]
    # The click outside withdraws one inside; a later click leaves the first box, a later box replaces the
    # second one.
    assert told == [
        [("point", True, (1, 1, 1))],
        [("point", False, (5, 5, 5))],
        [("box", True, (5, 5, 5)), ("point", True, (6, 8, 1))],
        [],
    ]
    assert found[2][0].voxels.shape == (2, 3, 1)


def test_marks_that_cannot_start(engine: NNInteractive) -> None:
    with pytest.raises(CaseError, match="object 3: nnInteractive has nothing to start from"):
        engine.segment(request({3: Marks(2, outside=voxels((0, 0, 0)))}))


def test_a_stopped_round_leaves_nothing_behind(server: tuple[StandIn, str], engine: NNInteractive) -> None:
    server[0].seconds = 1.0
    shares: list[float] = []

    def progress(share: float) -> None:
        shares.append(share)
        if len(server[0].told("add_point_interaction")):
            raise StoppedError

    marks = {1: Marks(2, inside=voxels((2, 3, 4))), 2: Marks(2, inside=voxels((6, 0, 0)))}
    with pytest.raises(StoppedError):
        engine.segment(request(marks, progress=progress))
    assert len(server[0].told("add_point_interaction")) == 1
    assert shares == sorted(shares)
    server[0].seconds = 0
    answer = engine.segment(request({1: Marks(2, inside=voxels((6, 1, 3)))}))
    assert np.array_equal(answer.masks[1] > 127, only(OTHER))


def test_an_idle_session_begins_again(server: tuple[StandIn, str], engine: NNInteractive) -> None:
    engine.segment(request({1: Marks(2, inside=voxels((2, 3, 4)))}))
    server[0].leases.clear()
    answer = engine.segment(request({1: Marks(2, inside=voxels((6, 0, 0)))}))
    assert np.array_equal(answer.masks[1] > 127, only(OTHER))
    assert len(server[0].told("set_image")) == 2


def test_servers_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(address: str) -> NNInteractive:
        return NNInteractive(scan().image[0], address)

    with pytest.raises(CaseError, match="expected an address such as"):
        opened("localhost:1527")
    with pytest.raises(CaseError, match=r"--server http://127\.0\.0\.1:9: cannot be reached"):
        opened("http://127.0.0.1:9")
    with serving(StandIn(places=0)) as address, pytest.raises(CaseError, match="has no free session"):
        opened(address)
    monkeypatch.delenv(KEY, raising=False)
    with serving(StandIn(key="secret")) as address:
        with pytest.raises(CaseError, match=f"refuses the key; set {KEY}"):
            opened(address)
        monkeypatch.setenv(KEY, "secret")
        opened(address).close()
    monkeypatch.delenv(KEY)
    other = StandIn()
    del other.capabilities["channel_mapping"]
    with serving(other) as address, pytest.raises(CaseError, match="does not answer as"):
        opened(address)


def test_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nnInteractive.inference.remote", None)
    with pytest.raises(CaseError, match=r"install foldwise\[nninteractive\]"):
        NNInteractive(scan().image[0], "http://127.0.0.1:9")


def test_what_the_server_says_is_passed_on(server: tuple[StandIn, str], engine: NNInteractive) -> None:
    marks = Marks(2, boxes=np.array([[[1, 1, 1], [3, 3, 3]]]))
    with pytest.raises(CaseError, match="status 400, a 3D bounding box is not supported"):
        engine.segment(request({1: marks}))


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN or infinite"), (0.0, "the same value")])
def test_scans_without_anything_to_see(server: tuple[StandIn, str], value: float, message: str) -> None:
    image = np.full((1, *SHAPE), value)
    with pytest.raises(CaseError, match=message):
        open_engine("nninteractive", Scan(image, np.eye(4)), Options(server=server[1]))


def test_the_chosen_channel_is_sent(server: tuple[StandIn, str], caplog: pytest.LogCaptureFixture) -> None:
    image = np.concatenate([np.zeros((1, *SHAPE)), scan().image])
    with caplog.at_level("INFO"):
        engine = open_engine("nninteractive", Scan(image, np.eye(4)), Options(server=server[1], channel=1))
    assert "sees only channel 1 of the scan's 2" in caplog.text
    assert "CC BY-NC-SA 4.0" in caplog.text
    answer = engine.segment(request({1: Marks(2, inside=voxels((2, 3, 4)))}))
    assert np.array_equal(answer.masks[1] > 127, only(BLOCK))
    [sent] = server[0].told("set_image")
    # Of double precision, nothing is lost here.
    assert sent["array"].dtype == np.float32
    with pytest.raises(CaseError, match="--channel 2: the scan has channels 0 to 1"):
        open_engine("nninteractive", Scan(image, np.eye(4)), Options(server=server[1], channel=2))
