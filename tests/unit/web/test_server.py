"""The server of the annotation page: access, answers, turns of pages, and what they send."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from foldwise.files import CaseError
from foldwise.systems.interactive.engines import Scan
from foldwise.volumes.between import between_slices
from foldwise.web import application, server
from foldwise.web.application import Server
from foldwise.web.wire import changes_bytes, read_changes
from foldwise.web.writer import SILENCE, Writer
from session_stand_in import SessionStandIn

TOKEN = "a-token"
SHAPE = (4, 3, 2)


@pytest.fixture
def session() -> SessionStandIn:
    image = np.arange(24, dtype=np.int16).reshape(1, *SHAPE) - 5
    return SessionStandIn(Scan(image, np.diag([1.0, 2, 3, 1])), ("liver", "tumour"))


@pytest.fixture
def client(session: SessionStandIn) -> TestClient:
    found = TestClient(Server(session, TOKEN).application(), base_url="http://127.0.0.1")  # type: ignore[arg-type]
    found.headers["X-Page"] = "first"
    assert found.post(f"/{TOKEN}/api/writer", json={"force": False}).json() == {"writer": True}
    return found


def post(client: TestClient, path: str, page: str = "first", version: str | None = None, **body: Any) -> Any:
    """A change, based on the present version unless another one is given."""
    now = client.get(f"/{TOKEN}/api/session").json()["version"]
    return client.post(
        f"/{TOKEN}/api/{path}", json={"version": version or now, **body}, headers={"X-Page": page}
    )


def paint(client: TestClient, session: SessionStandIn, data: bytes, version: str | None = None) -> Any:
    headers = {"X-Version": version or session.version}
    return client.post(f"/{TOKEN}/api/edit", content=data, headers=headers)


def test_only_the_holder_of_the_token_is_answered(client: TestClient) -> None:
    for path in ("/", "/other/", "/other/api/session", f"/{TOKEN}x/api/image/0", f"/{TOKEN}/../server.py"):
        assert client.get(path).status_code == 404
    assert client.post("/other/api/undo").status_code == 404
    assert client.get(f"/{TOKEN}/api/session").status_code == 200


def test_other_hosts_are_refused(client: TestClient) -> None:
    """A web page under a different host name for this machine cannot use it."""
    address = f"/{TOKEN}/api/session"
    assert client.get(address, headers={"host": "evil.example"}).status_code == 400
    assert client.get(address, headers={"host": "127.0.0.1:5000"}).status_code == 200


def test_nothing_is_fetched_from_elsewhere(client: TestClient) -> None:
    answer = client.get(f"/{TOKEN}/api/session")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_the_built_page_is_served_with_its_licences(client: TestClient) -> None:
    if not (application.PAGE / "page.js").is_file():
        pytest.skip("the page is not built; run `make page`")
    for name, text in (
        ("", "page.js"),
        ("style.css", ".plane"),
        ("licences.txt", "@cornerstonejs/core 5.14.0: MIT"),
    ):
        assert text in client.get(f"/{TOKEN}/{name}").text
    assert client.get(f"/{TOKEN}/other.js").status_code == 404


def test_a_page_that_was_not_built_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PAGE", tmp_path)
    with pytest.raises(CaseError, match="make page"):
        server.require_page()


def test_images_and_labels_are_sent_with_x_fastest(client: TestClient, session: SessionStandIn) -> None:
    image = client.get(f"/{TOKEN}/api/image/0")
    assert image.headers["X-Type"] == "int16"
    # x, y and z of the array are 6, 2 and 1 apart in the values.
    assert np.frombuffer(image.content, "<i2")[:6].tolist() == [-5, 1, 7, 13, -3, 3]
    assert client.get(f"/{TOKEN}/api/image/1").status_code == 404
    session.labels[1, 2, 0] = 7
    labels = client.get(f"/{TOKEN}/api/labels")
    assert labels.headers["X-Labels"] == "all"
    assert np.flatnonzero(np.frombuffer(labels.content, np.uint8)).tolist() == [1 + 4 * 2]


def test_strokes_change_voxels_and_differences_are_sent(client: TestClient, session: SessionStandIn) -> None:
    since = session.version
    # (3, 0, 1) is at 3 + 4·3·1 on the page, and at (3·3 + 0)·2 + 1 in the session.
    data = np.array([15, 0], "<u4").tobytes() + np.array([2, 1], "<u2").tobytes()
    assert paint(client, session, data).json()["objects"][1]["voxels"] == 1
    assert np.argwhere(session.labels == 2).tolist() == [[3, 0, 1]]
    assert np.argwhere(session.labels == 1).tolist() == [[0, 0, 0]]
    answer = client.get(f"/{TOKEN}/api/labels", params={"since": since})
    assert (answer.headers["X-Labels"], answer.headers["X-Version"]) == ("changes", session.version)
    assert answer.content == np.array([0, 15], "<u4").tobytes() + np.array([1, 2], "<u2").tobytes()
    assert client.get(f"/{TOKEN}/api/labels", params={"since": "gone"}).headers["X-Labels"] == "all"


def test_changes_survive_the_way(session: SessionStandIn) -> None:
    random = np.random.default_rng(1)
    indices, values = random.permutation(24)[:9], random.integers(0, 60000, 9)
    back, told = read_changes(changes_bytes(indices, values, SHAPE), SHAPE)
    assert back.tolist() == indices.tolist()
    assert told.tolist() == values.tolist()


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"1234567", "6 bytes for each voxel"), (np.array([24], "<u4").tobytes() + b"\1\0", "outside the scan")],
)
def test_unusable_strokes_are_refused(
    client: TestClient, session: SessionStandIn, data: bytes, message: str
) -> None:
    answer = paint(client, session, data)
    assert answer.status_code == 400
    assert message in answer.text
    assert not session.labels.any()


def test_an_old_version_changes_nothing(client: TestClient, session: SessionStandIn) -> None:
    old = session.version
    data = np.array([0], "<u4").tobytes() + b"\1\0"
    paint(client, session, data)
    for answer in (paint(client, session, data, old), post(client, "undo", version=old)):
        assert answer.status_code == 409
        assert answer.json()["why"] == "outdated"
        assert "Another page or command" in answer.json()["error"]
    assert session.labels.sum() == 1
    assert post(client, "undo").status_code == 200
    assert not session.labels.any()


def test_one_page_writes(client: TestClient, session: SessionStandIn) -> None:
    turn = f"/{TOKEN}/api/writer"
    second = {"X-Page": "second"}
    assert client.post(turn, json={"force": False}, headers=second).json() == {"writer": False}
    answer = post(client, "object", page="second", name="third")
    assert (answer.status_code, answer.json()["why"]) == (409, "reader")
    assert client.post(f"/{TOKEN}/api/stop", headers=second).status_code == 409
    assert client.post(turn, json={"force": True}, headers=second).json() == {"writer": True}
    assert post(client, "object", name="third").status_code == 409
    assert client.post(f"/{TOKEN}/api/leave", headers=second).status_code == 200
    assert client.get(f"/{TOKEN}/api/progress").json()["free"]
    assert len(session.objects) == 2


def test_a_silent_page_loses_its_turn() -> None:
    now = 0.0
    writer = Writer(lambda: now)
    assert writer.ask("first")
    now = SILENCE
    assert not writer.ask("second")
    assert writer.hear("first")
    now = 2 * SILENCE + 1
    assert writer.ask("second")
    assert not writer.hear("first")


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("round", {"marks": {}}, 422, "no marks"),
        ("round", {"marks": {"1": [{"axis": 2, "inside": [[1, 2]]}]}}, 400, "marks"),
        ("round", {"marks": {"1": [{"axis": 2, "dots": [[1, 2, 3]]}]}}, 400, "unknown kind"),
        ("round", {"marks": {"0": []}}, 400, "greater than or equal to 1"),
        ("object", {"colour": "#ff0000"}, 400, "needs a name"),
        ("object", {"number": 1, "colour": "red"}, 400, "match"),
        ("between", {"number": 1, "axis": 2}, 422, "no gap"),
        ("islands", {"number": 1, "below_ml": 1}, 422, "no voxels"),
        ("islands", {"number": 1, "keep": [4, 0, 0]}, 422, "outside the scan"),
        ("islands", {"number": 1, "keep": [0, 0, 0]}, 422, "not there"),
        ("islands", {"number": 1, "below_ml": -1}, 400, "greater than or equal to 0"),
        ("save", {"kind": "rtstruct"}, 400, "nifti, dicom-seg"),
        ("undo", {"more": 1}, 400, "Extra"),
    ],
)
def test_unusable_requests_say_why(
    client: TestClient, session: SessionStandIn, path: str, body: dict[str, Any], status: int, message: str
) -> None:
    before = session.version
    answer = post(client, path, **body)
    assert answer.status_code == status
    assert message in answer.text
    assert session.version == before


def test_files_are_loaded_under_their_names(client: TestClient, session: SessionStandIn) -> None:
    headers = {"X-Version": session.version, "X-Filename": "..%2F..%2Fm%C3%BC.txt"}
    answer = client.post(f"/{TOKEN}/api/load", content=b"no label map", headers=headers)
    assert answer.status_code == 422
    assert "mü.txt: is no label map" in answer.json()["error"]
    assert session.loaded == [("mü.txt", b"no label map")]
    headers["X-Filename"] = ".."
    assert client.post(f"/{TOKEN}/api/load", content=b"", headers=headers).status_code == 400


def test_too_much_is_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foldwise.web.requests.LONGEST_STROKE", 11)
    assert client.post(f"/{TOKEN}/api/edit", content=b"0" * 12).status_code == 413


def test_between_slices_a_square_shrinks_evenly() -> None:
    """From 9 to 5 voxels wide over four slices: 8 and 6 by distances, which count from voxel to voxel: 7."""
    mask = np.zeros((11, 11, 7), bool)
    mask[1:10, 1:10, 1] = mask[3:8, 3:8, 5] = True
    for axis in range(3):
        filled = np.moveaxis(between_slices(np.moveaxis(mask, 2, axis), axis), axis, 2)
        assert filled[:, 5].sum(0).tolist()[:2] == [0, 9]
        assert filled[:, 5].sum(0).tolist()[3] == 7
        assert filled[:, 5].sum(0).tolist()[5:] == [5, 0]
        widths = filled[:, 5].sum(0)
        assert 9 >= widths[2] >= 7 >= widths[4] >= 5


def test_labels_are_packed(client: TestClient) -> None:
    assert gzip.decompress(application.packed(b"0" * 100)) == b"0" * 100
