"""nnInteractive (Isensee et al. 2025, arXiv 2503.08373): a client of its server, which has the network.

The server works in voxels. Arrays go to it as (z, y, x), the order in which its authors' own examples give
them, and so do the coordinates of prompts. Its boxes are half-open: the last voxel of a mark plus one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from foldwise.files import CaseError
from foldwise.systems.interactive.engines import CERTAIN, Answer, Request, Scan
from foldwise.systems.interactive.engines.choice import Options, channel_of
from foldwise.systems.interactive.engines.prompts import Prompt, prompts_of

# Holds the server's key, for its client, too.
KEY = "NN_INTERACTIVE_API_KEY"
# Answers take seconds; those of other people's sessions come first. s.
LONGEST = 180.0
# How often a person may stop a round. s.
TICK = 0.2


def opened(scan: Scan, options: Options) -> NNInteractive:
    """The engine on a scan, connected with the server that the options name."""
    return NNInteractive(channel_of(scan, options, "nninteractive"), options.server)


class NNInteractive:
    """A session on a server, in which every round rebuilds the state of its objects, so none can be stale."""

    name = "nninteractive"

    def __init__(self, image: np.ndarray, server: str) -> None:
        """Connect; the scan is uploaded in the first round.

        Args:
            image: (x, y, z), unchanged grey values.
            server: its address, such as http://127.0.0.1:1527.

        Raises:
            CaseError: no server answers there, it refuses, or the scan cannot be used.
        """
        if not server.startswith(("http://", "https://")):
            raise CaseError(f"--server {server}: expected an address such as http://127.0.0.1:1527")
        self._image, self._server = _sent(image), server
        # Calls follow each other, also one that was left running when a person stopped.
        self._worker = ThreadPoolExecutor(1, "nninteractive")
        self._session: Any = None
        self._connect()

    def segment(self, request: Request) -> Answer:
        """Ask the server for each object with new marks; it knows no quality.

        Raises:
            CaseError: an object without anything that it could start from, or the server fails.
            StoppedError: the person stopped.
        """
        expired = _client().SessionExpiredError
        try:
            return self._segment(request)
        except expired:
            logging.info("%s: ended the idle session; the scan is uploaded again", self._server)
        self._connect()
        try:
            return self._segment(request)
        except expired as error:
            raise CaseError(f"--server {self._server}: ended the session twice ({error})") from error

    def close(self) -> None:
        """Free the session on the server; it does so itself soon after this process ends."""
        if self._session is not None:
            self._session.close()

    def _connect(self) -> None:
        """Begin a session on the server."""
        self.close()
        self._uploaded = False
        with self._explained():
            kind = _client().nnInteractiveRemoteInferenceSession
            self._session = kind(self._server, read_timeout=LONGEST)
            brush = np.broadcast_to(self._session.preferred_scribble_thickness, 3)[::-1]
            self._brush = np.maximum(np.rint(brush), 1).astype(int)
        licence = self._session.license or "not stated"
        logging.info("%s: nnInteractive, weights under the licence %s", self._server, licence)

    def _segment(self, request: Request) -> Answer:
        masks: dict[int, np.ndarray] = {}
        for number in request.new:
            steps = self._steps(number, request)
            for done, step in enumerate(steps):
                share = (len(masks) + done / len(steps)) / len(request.new)
                self._patiently(step, partial(request.progress, share))
            found = self._session.target_buffer.T > 0
            masks[number] = np.where(found, np.uint8(CERTAIN), np.uint8(0))
        return Answer(masks)

    def _steps(self, number: int, request: Request) -> list[Callable[[], Any]]:
        """The calls that segment an object."""
        every = prompts_of(request.marks[number], self._image.shape, self._brush)
        prompts = [prompt for some in every for prompt in some]
        mask = request.labels == number
        if not mask.any() and not any(prompt.inside for prompt in prompts):
            raise CaseError(
                f"object {number}: nnInteractive has nothing to start from; mark the object by a point, "
                f"scribble, line or box"
            )
        steps: list[Callable[[], Any]] = [] if self._uploaded else [self._upload]
        answered = 0
        if mask.any() and self._session.supports_initial_label:
            # The answer to earlier prompts, as it was corrected since; it also removes all prompts.
            start = _turned(mask.view(np.uint8))
            steps.append(partial(self._session.add_initial_seg_interaction, start))
            answered = sum(map(len, every[: -len(request.new[number])]))
        else:
            steps.append(self._session.reset_interactions)
        # Each is answered before the next, as when people click: the network looks around the last one.
        return steps + [partial(self._add, each, at >= answered) for at, each in enumerate(prompts)]

    def _upload(self) -> None:
        array = _turned(self._image)
        self._session.set_image(array[None])
        if self._session.original_image_shape[1:] != array.shape:
            raise CaseError(f"--server {self._server}: read the scan with another shape than {array.shape}")
        self._session.set_target_buffer(np.zeros(array.shape, np.uint8))
        self._uploaded = True

    def _add(self, prompt: Prompt, answered: bool) -> None:
        """Send a prompt, and let the network answer it."""
        start = prompt.start[::-1].tolist()
        limits = [[low, low + n] for low, n in zip(start, prompt.voxels.shape[::-1], strict=True)]
        if prompt.kind == "point":
            self._session.add_point_interaction(start, prompt.inside, answered)
        elif prompt.kind == "box":
            self._session.add_bbox_interaction(limits, prompt.inside, answered)
        else:
            drawn = _turned(prompt.voxels.view(np.uint8))
            self._session.add_scribble_interaction(drawn, prompt.inside, answered, interaction_bbox=limits)

    def _patiently(self, step: Callable[[], Any], progress: Callable[[], None]) -> None:
        """Wait for a call, and meanwhile let the person stop."""
        future = self._worker.submit(step)
        while not wait([future], TICK).done:
            progress()
        with self._explained():
            future.result()
        progress()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of the client into messages that say what to do, except that of an expired session."""
        client, httpx = _client(), import_module("httpx")
        where = f"--server {self._server}"
        try:
            yield
        except client.ServerAtCapacityError as error:
            raise CaseError(
                f"{where}: has no free session ({error}); wait, or start it with more --max-sessions"
            ) from error
        except httpx.HTTPStatusError as error:
            if error.response.status_code in (401, 403):
                raise CaseError(f"{where}: refuses the key; set {KEY} to that of the server") from error
            raise CaseError(f"{where}: {_detail(error.response)}") from error
        except httpx.ReadTimeout as error:
            raise CaseError(f"{where}: no answer within {LONGEST:g} s; see its log") from error
        except httpx.HTTPError as error:
            raise CaseError(
                f"{where}: cannot be reached ({error}); check that nninteractive-server runs, that the "
                f"tunnel to it is open, and that no proxy is in between (NO_PROXY)"
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            raise CaseError(
                f"{where}: does not answer as an nnInteractive server of version 2.6 ({error!r})"
            ) from error


def _client() -> Any:
    """The client's package, which is an extra.

    Raises:
        CaseError: it is not installed.
    """
    try:
        return import_module("nnInteractive.inference.remote")
    except ImportError as error:
        raise CaseError(
            "engine nninteractive: needs the package nninteractive-client; install foldwise[nninteractive]"
        ) from error


def _sent(image: np.ndarray) -> np.ndarray:
    """The scan (x, y, z) in a type that the server reads, with the same values.

    Raises:
        CaseError: values from which the network can find nothing.
    """
    if image.dtype.kind == "b":
        image = image.view(np.uint8)
    if image.dtype.kind == "f" or image.dtype.itemsize > 4:
        image = image.astype(np.float32, copy=False)
    low, high = image.min(), image.max()
    if not np.isfinite([low, high]).all():
        raise CaseError("the scan contains NaN or infinite values, which nnInteractive cannot read")
    if low == high:
        raise CaseError("all voxels of the scan have the same value; nnInteractive can find nothing in it")
    return image


def _turned(array: np.ndarray) -> np.ndarray:
    """An array (x, y, z) as (z, y, x)."""
    return np.ascontiguousarray(array.T)


def _detail(response: Any) -> str:
    try:
        said = response.json()["detail"]
    except (KeyError, TypeError, ValueError):
        said = response.text[:200]
    return f"status {response.status_code}, {said}{'; see its log' if response.status_code >= 500 else ''}"
