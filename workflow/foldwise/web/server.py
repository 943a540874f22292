"""Serve a session to a browser on this machine: the page, the slices, and rounds of hints.

Only the address contains the token; the server listens on 127.0.0.1, and refuses other names in the Host
header, so that no web page can reach it under a different name.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import uvicorn
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from foldwise.files import CaseError
from foldwise.systems.interactive.annotation import Annotation
from foldwise.systems.interactive.hints import Hints
from foldwise.systems.interactive.masks import rounded
from foldwise.systems.interactive.workspace import OutdatedError

HOST = "127.0.0.1"
PAGE = Path(__file__).with_name("page")
FILES = {"": "index.html", "page.js": "page.js", "style.css": "style.css"}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'",
    # The address contains the token.
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# More than any scribble has, and small enough to be read at once.
LONGEST = 4_000_000

Sent = TypeVar("Sent", bound="Change")
Point = tuple[Annotated[float, Field(allow_inf_nan=False)], Annotated[float, Field(allow_inf_nan=False)]]


class Marks(BaseModel):
    """Hints for one object, as rows and columns."""

    model_config = ConfigDict(extra="forbid")

    object: Annotated[int, Field(ge=0)]
    inside: list[Point] = []
    outside: list[Point] = []
    extreme: list[Point] = []
    box: Annotated[list[Point], Field(max_length=2)] = []
    nothing: bool = False

    def hints(self) -> Hints:
        """The hints in the library's form."""

        def points(given: list[Point]) -> np.ndarray:
            return np.array(given, float).reshape(-1, 2)

        return Hints(
            points(self.inside), points(self.outside), points(self.extreme), points(self.box), self.nothing
        )


class Change(BaseModel):
    """The common part of all changing requests: the version of the session that the page shows."""

    model_config = ConfigDict(extra="forbid")

    version: str


class Asked(Change):
    """A request for a round."""

    slice: int
    marks: list[Marks]


class Server:
    """The application around one session; changes of the session run one after another."""

    def __init__(self, annotation: Annotation, mask: Path, quality: Path, token: str) -> None:
        """Store a session, where to save it, and the token of the address."""
        self.annotation, self.mask, self.quality = annotation, mask, quality
        self._token, self._lock = token.encode(), threading.Lock()
        low, high = np.percentile(annotation.stack.image.numpy(), [0.5, 99.5])
        self._low, self._width = float(low), max(float(high - low), 1e-6)

    def application(self) -> Starlette:
        """The routes."""
        routes = [
            Route("/{token}/", self._guarded(self._file), name="page"),
            Route("/{token}/{name:str}", self._guarded(self._file)),
            Route("/{token}/api/session", self._guarded(self._session)),
            Route("/{token}/api/image/{place:int}", self._guarded(self._image)),
            Route("/{token}/api/mask/{place:int}", self._guarded(self._mask)),
            Route("/{token}/api/round", self._guarded(self._round), methods=["POST"]),
            Route("/{token}/api/undo", self._guarded(self._undo), methods=["POST"]),
            Route("/{token}/api/save", self._guarded(self._save), methods=["POST"]),
        ]
        hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
        return Starlette(routes=routes, middleware=[hosts])

    def _guarded(
        self, answer: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Answer only requests with the token; report unusable hints in plain words."""

        async def guarded(request: Request) -> Response:
            given = request.path_params["token"].encode()
            if not secrets.compare_digest(given, self._token):
                raise HTTPException(404)
            try:
                response = await answer(request)
            except OutdatedError as error:
                response = JSONResponse({"error": str(error)}, 409)
            except CaseError as error:
                response = JSONResponse({"error": str(error)}, 422)
            response.headers.update(HEADERS)
            return response

        return guarded

    async def _file(self, request: Request) -> Response:
        name = FILES.get(request.path_params.get("name", ""))
        if name is None:
            raise HTTPException(404)
        return FileResponse(PAGE / name)

    async def _session(self, _: Request) -> Response:
        return await self._alone(lambda: None)

    async def _image(self, request: Request) -> Response:
        image = self.annotation.stack.image[self._place(request), 0].numpy()
        grey = np.clip((image - self._low) / self._width * 255, 0, 255).astype(np.uint8)
        return _bytes(grey)

    async def _mask(self, request: Request) -> Response:
        return _bytes(self.annotation.state.objects(self._place(request)))

    async def _round(self, request: Request) -> Response:
        asked = await _read(request, Asked)
        names = self.annotation.targets.names
        if any(marks.object >= len(names) for marks in asked.marks):
            raise HTTPException(400, f"objects are 0 to {len(names) - 1}")
        hints = {marks.object: marks.hints() for marks in asked.marks}
        if len(hints) < len(asked.marks):
            raise HTTPException(400, "an object has several lists of marks; send one")
        return await self._alone(lambda: self.annotation.round(asked.slice, hints), asked.version)

    async def _undo(self, request: Request) -> Response:
        return await self._alone(self.annotation.undo, (await _read(request, Change)).version)

    async def _save(self, request: Request) -> Response:
        asked = await _read(request, Change)
        return await self._alone(lambda: self.annotation.save(self.mask, self.quality), asked.version)

    async def _alone(self, change: Callable[[], None], version: str | None = None) -> Response:
        """Change the session in a thread, after any running change, and return its state.

        Nothing is changed for a page that shows another version: its user has not seen the current one.
        """

        def locked() -> dict[str, Any]:
            with self._lock:
                self.annotation.refresh()
                if version not in (None, self.annotation.workspace.seen):
                    raise OutdatedError(
                        "Another page or command has changed this session, so nothing was done. Its "
                        "current state is shown, with your hints: check it, then repeat."
                    )
                change()
                return self._facts()

        return JSONResponse(await run_in_threadpool(locked))

    def _place(self, request: Request) -> int:
        place: int = request.path_params["place"]
        if place >= len(self.annotation.stack.image):
            raise HTTPException(404)
        return place

    def _facts(self) -> dict[str, Any]:
        annotation, state = self.annotation, self.annotation.state
        stack, objects = annotation.stack, state.objects()
        return {
            "version": annotation.workspace.seen,
            "scan": _shown(annotation.volumes[0].name),
            "objects": list(annotation.targets.names),
            "shape": list(annotation.propagator.shape),
            "spacing": list(stack.spacing),
            "axis": stack.axis,
            "source_axis": "xyz"[stack.places.source_axis],
            "source_slices": [stack.places.slice_in_source(n) for n in range(len(objects))],
            "rounds": annotation.workspace.rounds,
            "hinted": list(state.hinted),
            "suggestion": state.suggestion(),
            "quality": [rounded(value) for value in state.lowest()],
            "filled": (objects > 0).any((1, 2)).tolist(),
            "message": annotation.remark(),
            "saves": _shown(str(self.mask)),
        }


def serve(annotation: Annotation, mask: Path, quality: Path, port: int = 0) -> None:
    """Serve a session until the process is interrupted; the address is printed.

    Args:
        annotation: the session.
        mask: NIfTI written by Save.
        quality: CSV written by Save.
        port: 0: any free port.

    Raises:
        CaseError: the port is taken.
    """
    token = secrets.token_urlsafe(24)
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
    except OSError as error:
        raise CaseError(f"port {port}: {error.strerror}; use another one, or 0 for any free port") from error
    address = f"http://{HOST}:{listening.getsockname()[1]}/{token}/"
    folder = _shown(str(annotation.workspace.folder))
    print(f"Open {address}\nPress Ctrl+C to stop; every round is kept in {folder}", flush=True)
    application = Server(annotation, mask, quality, token).application()
    # No access log: it would contain the token.
    config = uvicorn.Config(application, access_log=False, log_level="warning", server_header=False)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    uvicorn.Server(config).run(sockets=[listening])


async def _read(request: Request, kind: type[Sent]) -> Sent:
    """The body of a request."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LONGEST:
            raise HTTPException(413)
    try:
        return kind.model_validate_json(bytes(body))
    except ValidationError as error:
        raise HTTPException(400, str(error.errors()[0]["msg"])) from None


def _shown(name: str) -> str:
    """A file's name as text: bytes that are not UTF-8 could be neither sent nor printed."""
    return os.fsencode(name).decode(errors="replace")


def _bytes(array: np.ndarray) -> Response:
    return Response(np.ascontiguousarray(array).tobytes(), media_type="application/octet-stream")
