"""A stand-in for nnInteractive's server on the loopback: its HTTP interface, and a rule instead of a network.

An answer is the mask so far, the boxes, and the connected voxels of one grey value around every point and
scribble inside; without those around every one outside. Axes are the client's.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import uvicorn
from nnInteractive.inference.remote import _protocol as protocol
from nnInteractive.inference.remote.serialization import pack_array, unpack_array
from scipy.ndimage import label
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

CAPABILITIES = {
    "supported_interactions": {"points": True, "scribble": True, "bbox2d": True, "bbox3d": False},
    "channel_mapping": {"prev_seg": 0, "points": [3, 4], "scribble": [5, 6], "bbox2d": [1, 2]},
    "num_interaction_channels": 7,
    "supports_initial_label": True,
    "supports_zero_shot_label_refinement": True,
    # Axes as in arrays: scribbles are one voxel thick from slice to slice.
    "preferred_scribble_thickness": [1, 1, 1],
    "interaction_decay": 0.9,
    "inference_session_version": "2.6.0",
    "license": "CC BY-NC-SA 4.0",
    "supports_undo": True,
    "do_autozoom": True,
}


class StandIn:
    """The server's state; a test reads what arrived in `calls`: path → what was sent."""

    def __init__(self, key: str | None = None, places: int = 1) -> None:
        self.key, self.places = key, places
        self.capabilities = dict(CAPABILITIES)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.leases: set[str] = set()
        self.seconds = 0.0
        self.image = self.buffer = np.zeros((0, 0, 0))
        self.given: list[tuple[np.ndarray, bool]] = []

    @property
    def paths(self) -> list[str]:
        """The calls that change something, without their slash."""
        return [path[1:] for path, _ in self.calls]

    def told(self, kind: str) -> list[dict[str, Any]]:
        """What calls of a kind sent."""
        return [sent for path, sent in self.calls if path[1:] == kind]

    async def answer(self, request: Request) -> Response:
        """Any request."""
        path = request.url.path
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"detail": "Invalid bearer token"}, 401)
        if path == protocol.PATH_CLAIM:
            if len(self.leases) >= self.places:
                return JSONResponse({"detail": f"server is at capacity ({self.places} sessions)"}, 503)
            token = f"lease{len(self.calls)}"
            self.leases.add(token)
            return JSONResponse({"lease_token": token, "idle_timeout_seconds": 600.0})
        if path == protocol.PATH_CAPABILITIES:
            return JSONResponse(self.capabilities)
        token = request.headers.get(protocol.LEASE_HEADER, "")
        if path == protocol.PATH_RELEASE:
            self.leases.discard(token)
            return JSONResponse({"released": True})
        if token not in self.leases:
            return JSONResponse({"detail": "lease expired or unknown"}, 410)
        body = await request.body()
        binary = request.headers["content-type"] == protocol.CONTENT_TYPE_OCTET_STREAM
        sent = json.loads(request.headers[protocol.META_HEADER] if binary else body)
        if binary:
            sent["array"] = unpack_array(body)
        self.calls.append((path, sent))
        try:
            return await run_in_threadpool(self._do, path, sent)
        except ValueError as error:
            return JSONResponse({"detail": str(error)}, 400)

    def _do(self, path: str, sent: dict[str, Any]) -> Response:
        if path == protocol.PATH_SET_IMAGE:
            self.image = sent["array"]
            return JSONResponse({"original_image_shape": list(self.image.shape)})
        if path == protocol.PATH_SET_TARGET_BUFFER:
            self.buffer = np.zeros(sent["shape"], sent["dtype"])
            return JSONResponse({})
        if path == protocol.PATH_RESET_INTERACTIONS:
            self.buffer[:], self.given = 0, []
            return JSONResponse({})
        if path == protocol.PATH_ADD_INITIAL_SEG:
            self.buffer[:], self.given = sent["array"], []
        else:
            self.given.append((self._marked(path, sent), sent["include_interaction"]))
        if not sent["run_prediction"]:
            return self._changed(None)
        time.sleep(self.seconds)
        before = self.buffer.copy()
        for found, inside in self.given:
            self.buffer[found] = inside
        return self._changed(self.buffer != before)

    def _marked(self, path: str, sent: dict[str, Any]) -> np.ndarray:
        """The voxels that answer a prompt."""
        marked = np.zeros(self.buffer.shape, bool)
        if path == protocol.PATH_ADD_BBOX:
            if 1 not in [stop - start for start, stop in sent["bbox_coords"]]:
                raise ValueError("a 3D bounding box is not supported by the loaded model checkpoint")
            marked[tuple(slice(*limits) for limits in sent["bbox_coords"])] = True
            return marked
        if path == protocol.PATH_ADD_POINT:
            marked[tuple(sent["coordinates"])] = True
        else:
            where = tuple(slice(*limits) for limits in sent["interaction_bbox"])
            if marked[where].shape != sent["array"].shape:
                raise ValueError("image shape must match interaction_bbox size")
            marked[where] = sent["array"]
        image = self.image[0]
        found = np.zeros_like(marked)
        for value in np.unique(image[marked]):
            parts, _ = label(image == value)
            found |= np.isin(parts, np.unique(parts[marked & (image == value)]))
        return found

    def _changed(self, changed: np.ndarray | None) -> Response:
        """The response to a prompt: the box around what changed, and the mask within it."""
        meta: dict[str, Any] = {"ran_prediction": changed is not None, "bbox": None}
        content = b""
        if changed is not None and changed.any():
            places = np.argwhere(changed)
            low, high = places.min(0), places.max(0) + 1
            meta["bbox"] = np.stack([low, high], 1).tolist()
            content = pack_array(self.buffer[tuple(map(slice, low, high))])
        headers = {protocol.META_HEADER: json.dumps(meta)}
        return Response(content, media_type=protocol.CONTENT_TYPE_OCTET_STREAM, headers=headers)


@contextmanager
def serving(stand_in: StandIn) -> Iterator[str]:
    """Its address, while it listens."""
    route = Route("/{path:path}", stand_in.answer, methods=["GET", "POST"])
    config = uvicorn.Config(Starlette(routes=[route]), port=0, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
