"""The web page: access, answers, and a whole session in a headless browser."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import uvicorn
from playwright.sync_api import Page, expect, sync_playwright
from starlette.testclient import TestClient

from foldwise.systems.interactive.annotation import Annotation
from foldwise.systems.interactive.hints import Hints
from foldwise.systems.interactive.workspace import OutdatedError
from foldwise.web.server import Server
from interactive_scans import Says, annotation, write_ball

TOKEN = "a-token"
# Would run, or request a picture, if interpreted as HTML.
SCAN = "<img src=x onerror=\"alert('1')\">&ü.nii.gz"

CLICK = [{"object": 0, "inside": [[15, 17]]}]


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Annotation:
    # Stored left to right and feet to head, but with the second axis backwards: geometry must survive it.
    affine = np.array([[1.0, 0, 0, -10], [0, -1, 0, 30], [0, 0, 2, 5], [0, 0, 0, 1]])
    write_ball(tmp_path / SCAN, affine=affine)
    return annotation(monkeypatch, tmp_path / SCAN, tmp_path / "session")


@pytest.fixture
def client(session: Annotation, tmp_path: Path) -> TestClient:
    server = Server(session, tmp_path / "mask.nii.gz", tmp_path / "quality.csv", TOKEN)
    return TestClient(server.application(), base_url="http://127.0.0.1")


def post(client: TestClient, path: str, version: str | None = None, **body: object) -> Any:
    """A change, based on the current version unless another one is given."""
    now = client.get(f"/{TOKEN}/api/session").json()["version"]
    return client.post(f"/{TOKEN}/api/{path}", json={"version": version or now, **body})


def test_only_the_holder_of_the_token_is_answered(client: TestClient) -> None:
    assert client.get(f"/{TOKEN}/").status_code == 200
    for path in ("/", "/other/", "/other/api/session", f"/{TOKEN}x/api/image/0", f"/{TOKEN}/../server.py"):
        assert client.get(path).status_code == 404
    assert client.post("/other/api/undo").status_code == 404


def test_other_hosts_are_refused(client: TestClient) -> None:
    """A web page under a different host name for this machine cannot use it."""
    assert client.get(f"/{TOKEN}/", headers={"host": "evil.example"}).status_code == 400
    assert client.get(f"/{TOKEN}/", headers={"host": "127.0.0.1:5000"}).status_code == 200


def test_nothing_is_fetched_from_elsewhere(client: TestClient) -> None:
    answer = client.get(f"/{TOKEN}/")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "no-referrer"
    for name in ("", "page.js", "style.css"):
        text = client.get(f"/{TOKEN}/{name}").text
        assert "http:" not in text
        assert "https:" not in text


def test_a_round_and_its_undoing(client: TestClient, session: Annotation) -> None:
    facts = post(client, "round", slice=8, marks=CLICK).json()
    assert facts["rounds"] == 1
    assert facts["hinted"] == [8]
    # The ball has radius 6.5 around slice 8: slices 2 to 14.
    assert [n for n, filled in enumerate(facts["filled"]) if filled] == list(range(2, 15))
    assert facts["suggestion"] in (2, 14)
    mask = np.frombuffer(client.get(f"/{TOKEN}/api/mask/8").content, np.uint8)
    assert mask.sum() == (session.stack.image[8, 0] > 0).sum()
    assert post(client, "undo").json()["rounds"] == 0
    assert not any(client.get(f"/{TOKEN}/api/mask/8").content)


@pytest.mark.parametrize(
    ("marks", "status", "message"),
    [
        ([], 422, "no hint on slice 8"),
        ([{"object": 0, "inside": [[99, 3]]}], 422, "outside slice 8"),
        ([{"object": 0, "outside": [[3, 3]]}], 422, "only marks outside"),
        ([{"object": 5, "inside": [[3, 3]]}], 400, "objects are 0 to 0"),
        ([{"object": 0, "inside": [[3, "x"]]}], 400, "number"),
        ([*CLICK, *CLICK], 400, "several lists of marks"),
    ],
)
def test_unusable_hints_lose_no_round(
    client: TestClient, session: Annotation, marks: object, status: int, message: str
) -> None:
    post(client, "round", slice=8, marks=CLICK)
    before = session.state
    answer = post(client, "round", slice=8, marks=marks)
    assert answer.status_code == status
    assert message in answer.text
    assert session.state is before
    assert session.workspace.rounds == 1


def test_of_two_pages_neither_loses_hints(client: TestClient, session: Annotation) -> None:
    """Changes based on an older version are refused, even if an undone number is used again."""
    old = client.get(f"/{TOKEN}/api/session").json()["version"]
    first = post(client, "round", old, slice=8, marks=CLICK).json()
    for path, body in (("round", {"slice": 5, "marks": CLICK}), ("undo", {}), ("save", {})):
        answer = post(client, path, old, **body)
        assert answer.status_code == 409
        assert "Another page or command has changed this session" in answer.json()["error"]
    assert post(client, "round", slice=5, marks=CLICK).json()["hinted"] == [8, 5]
    post(client, "undo")
    again = post(client, "round", first["version"], slice=11, marks=CLICK).json()
    assert again["hinted"] == [8, 11]
    post(client, "undo")
    post(client, "round", slice=5, marks=CLICK)
    assert post(client, "undo", again["version"]).status_code == 409
    assert session.state.hinted == (8, 5)
    assert client.post(f"/{TOKEN}/api/undo", json={}).status_code == 400


def test_a_page_and_a_command_on_one_session(client: TestClient, session: Annotation) -> None:
    """The command adds a round: the page's is refused; it shows the new one and continues from it."""
    old = client.get(f"/{TOKEN}/api/session").json()["version"]
    command = Annotation(session.volumes, Path("model.pt"), session.workspace.folder)
    command.round(8, {0: Hints(inside=np.array([[15.0, 17.0]]))})
    assert post(client, "round", old, slice=5, marks=CLICK).status_code == 409
    assert client.get(f"/{TOKEN}/api/session").json()["hinted"] == [8]
    assert post(client, "round", slice=5, marks=CLICK).json()["hinted"] == [8, 5]
    for change in (lambda: command.round(2, {0: Hints(nothing=True)}), command.undo):
        with pytest.raises(OutdatedError):
            change()
    assert session.workspace.rounds == 2


def test_a_name_that_is_not_utf8(client: TestClient, session: Annotation) -> None:
    session.volumes = [Path("M\udcfcller.nii.gz")]
    assert client.get(f"/{TOKEN}/api/session").json()["scan"] == "M\ufffdller.nii.gz"


@pytest.fixture
def address(session: Annotation, tmp_path: Path) -> Iterator[str]:
    """The page, served by a thread."""
    listening = socket.create_server(("127.0.0.1", 0))
    application = Server(session, tmp_path / "mask.nii.gz", tmp_path / "quality.csv", TOKEN).application()
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/{TOKEN}/"
    server.should_exit = True
    thread.join()


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    """The page in headless Chromium; an error in its log or a request to another host fails the test."""
    browser_path = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if browser_path is None:
        pytest.skip("no Chromium")
    with sync_playwright() as play:
        # A container's root has no user namespaces for the sandbox.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = play.chromium.launch(executable_path=browser_path, args=arguments)
        opened = browser.new_page(viewport={"width": 1100, "height": 800})
        wrong: list[str] = []
        opened.on("pageerror", lambda error: wrong.append(str(error)))
        # A browser logs refused requests (409) as errors.
        opened.on(
            "console",
            lambda message: (
                wrong.append(message.text) if message.type == "error" and "409" not in message.text else None
            ),
        )
        opened.on(
            "request",
            lambda asked: None if asked.url.startswith((address, "data:")) else wrong.append(asked.url),
        )
        opened.goto(address)
        expect(opened.locator("#status")).to_contain_text("Mark the object")
        yield opened
        browser.close()
    assert not wrong


def scribble(page: Page) -> None:
    """A stroke through the middle of the picture, where the ball is."""
    box = page.locator("#picture").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 20, y)
    page.mouse.down()
    page.mouse.move(x + 20, y, steps=4)
    page.mouse.up()


def test_a_session_in_a_browser(page: Page, session: Annotation, tmp_path: Path) -> None:
    """Draw, propagate, jump to the suggestion, correct, undo, save; the file has the scan's geometry."""
    expect(page.locator("#propagate")).to_be_disabled()
    page.mouse.move(400, 300)
    page.mouse.wheel(0, 100)
    expect(page.locator("#slice")).to_have_value("9")
    page.mouse.wheel(0, -100)
    expect(page.locator("#slice")).to_have_value("8")
    scribble(page)
    page.locator("#propagate").click()
    expect(page.locator("#status")).to_contain_text("Round 1")
    first = session.state.objects()
    suggestion = session.state.suggestion()
    page.locator("#jump").click()
    expect(page.locator("#slice")).to_have_value(str(suggestion))
    page.locator("#nothing").click()
    expect(page.locator("#status")).to_contain_text("Round 2")
    assert not session.state.objects(suggestion).any()
    page.keyboard.press("u")
    expect(page.locator("#status")).to_contain_text("undone")
    assert np.array_equal(session.state.objects(), first)
    page.keyboard.press("s")
    expect(page.locator("#status")).to_contain_text("Saved")
    saved, scan = nib.load(tmp_path / "mask.nii.gz"), nib.load(tmp_path / SCAN)
    assert np.array_equal(saved.affine, scan.affine)
    assert np.array_equal(np.asarray(saved.dataobj) == 1, np.asarray(scan.dataobj) > 0)


def test_the_keyboard_alone_will_do(page: Page, session: Annotation) -> None:
    page.keyboard.press("3")
    page.locator("#picture").focus()
    for key in ("ArrowLeft", "ArrowUp", "Enter", "p"):
        page.keyboard.press(key)
    expect(page.locator("#status")).to_contain_text("Round 1")
    assert session.state.hinted == (8,)
    page.keyboard.press("PageDown")
    expect(page.locator("#slice")).to_have_value("9")


def test_hints_fall_where_they_are_drawn(page: Page, session: Annotation) -> None:
    """A box drawn on the screen is that box of voxels: rows run right to left, columns bottom to top."""
    page.locator("input[value=box]").click()
    bounds = page.locator("#picture").bounding_box()
    assert bounds is not None
    _, rows, columns = session.propagator.shape

    def at(row: int, column: int) -> tuple[float, float]:
        return (
            bounds["x"] + bounds["width"] * (rows - row - 0.5) / rows,
            bounds["y"] + bounds["height"] * (columns - column - 0.5) / columns,
        )

    page.mouse.move(*at(4, 15))
    page.mouse.down()
    page.mouse.move(*at(18, 3), steps=3)
    page.mouse.up()
    with page.expect_request("**/api/round") as asked:
        page.locator("#propagate").click()
    sent = asked.value.post_data_json
    assert sent is not None
    assert sent["marks"][0]["box"] == [[4, 15], [18, 3]]
    expect(page.locator("#status")).to_contain_text("Round 1")


def test_two_pages_in_a_browser(page: Page, address: str, session: Annotation) -> None:
    """The second page is refused once, keeps its hints, shows the first's round and continues from it."""
    browser = page.context.browser
    assert browser is not None
    other = browser.new_page()
    other.goto(address)
    expect(other.locator("#status")).to_contain_text("Mark the object")
    for one in (page, other):
        scribble(one)
    page.locator("#propagate").click()
    expect(page.locator("#status")).to_contain_text("Round 1")
    other.locator("#propagate").click()
    expect(other.locator("#status")).to_contain_text("Another page or command has changed this session")
    expect(other.locator("#scan")).to_have_text(f"{SCAN} · 1 round")
    assert session.workspace.rounds == 1
    other.locator("#propagate").click()
    expect(other.locator("#status")).to_contain_text("Round 2")
    page.keyboard.press("u")
    expect(page.locator("#status")).to_contain_text("Another page or command has changed this session")
    assert session.workspace.rounds == 2


def test_a_missed_object_is_shown_as_failed(page: Page, session: Annotation) -> None:
    missing = Says(hinted=-20, propagated=-20).eval()
    session.propagator.network = missing  # type: ignore[assignment]
    scribble(page)
    page.locator("#propagate").click()
    expect(page.locator("#status")).to_contain_text("ball: not found on any slice")
    expect(page.locator("#status")).to_have_class("error")
    expect(page.locator("#jump")).to_be_enabled()

    def furthest() -> int:
        """Largest difference of the slices' colours from red."""
        colours = page.locator("#strip").evaluate(
            """strip => [...Array(16).keys()].map(n => [...strip.getContext("2d").getImageData(
                (n + 0.5) * strip.width / 16, strip.height - 4, 1, 1).data.slice(0, 3)])"""
        )
        return int(np.abs(np.array(colours) - [0xE4, 0x57, 0x2E]).max())

    # The strip is drawn again only when the slice has been fetched, after the status.
    deadline = time.monotonic() + 30
    while furthest() > 2 and time.monotonic() < deadline:
        page.wait_for_timeout(50)
    assert furthest() <= 2
