"""The annotation page of a session, opened in headless Chromium."""

from __future__ import annotations

import io
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image
from playwright.sync_api import BrowserContext, Page, sync_playwright

from foldwise.web import application as web

TOKEN = "a-token"


@contextmanager
def browser() -> Iterator[BrowserContext]:
    """Headless Chromium, with WebGL in software.

    All pages are of one context, and an empty one stays open: after the last one, Chromium would end
    processes that the next page must start again. Each has its own session storage; ours keep no more.
    """
    found = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    path = next(found, None)
    if path is None:
        pytest.skip("no Chromium")
    if not (web.PAGE / "page.js").is_file():
        pytest.skip("the page is not built; run `make page`")
    with sync_playwright() as play:
        # A container's root has no user namespaces for the sandbox.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = play.chromium.launch(executable_path=path, args=[*arguments, "--enable-unsafe-swiftshader"])
        context = opened.new_context(viewport={"width": 1000, "height": 640})
        context.new_page()
        yield context
        opened.close()


@contextmanager
def served(session: Any) -> Iterator[str]:
    """A session, served by a thread; yields the page's address."""
    listening = socket.create_server(("127.0.0.1", 0))
    application = web.Server(session, TOKEN).application()
    running = uvicorn.Server(uvicorn.Config(application, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/{TOKEN}/"
    running.should_exit = True
    thread.join()


@contextmanager
def opened(chromium: BrowserContext, address: str) -> Iterator[Page]:
    """The page, ready; an error in its log or a request to another host fails the test."""
    wrong: list[str] = []
    with closing(chromium.new_page()) as page:
        _listen(page, address, wrong)
        page.goto(address)
        page.locator("body[data-ready]").wait_for(timeout=60_000)
        yield page
    assert not wrong


def _listen(page: Page, address: str, wrong: list[str]) -> None:
    page.on("pageerror", lambda error: wrong.append(str(error)))
    # A browser logs refused requests (4xx), and those that a test aborts, as errors.
    page.on(
        "console",
        lambda said: (
            wrong.append(said.text)
            if said.type == "error" and not said.text.startswith("Failed to load resource")
            else None
        ),
    )
    page.on(
        "request", lambda asked: None if asked.url.startswith((address, "data:")) else wrong.append(asked.url)
    )


def until(true: Callable[[], Any], seconds: float = 10) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def on_screen(page: Page, axis: int, voxel: tuple[int, ...]) -> tuple[float, float]:
    """Where a voxel's centre is on the plane across an axis."""
    x, y = page.evaluate("([axis, voxel]) => foldwise.screen(axis, voxel)", [axis, list(voxel)])
    return x, y


def pixels(page: Page) -> np.ndarray:
    """(rows, columns, 3) what the page shows."""
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))


def drag(page: Page, axis: int, *voxels: tuple[int, ...]) -> np.ndarray:
    """Press at the first voxel, move over the others, release; return the places in mm that the page saw."""
    places = []
    page.mouse.move(*on_screen(page, axis, voxels[0]))
    places.append(page.evaluate("foldwise.app.hover.world"))
    page.mouse.down()
    for voxel in voxels[1:]:
        page.mouse.move(*on_screen(page, axis, voxel))
        places.append(page.evaluate("foldwise.app.hover.world"))
    page.mouse.up()
    return np.array(places)


def tool(page: Page, name: str) -> None:
    """Choose a tool."""
    page.locator(f"input[name=tool][value={name}]").check()
