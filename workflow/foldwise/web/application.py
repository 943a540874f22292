"""What the server answers: the page, the scan, its labels, and changes by strokes and rounds.

Only the address contains the token; other names in the Host header are refused, so that no web page can reach
the server under a different name. One page writes; the others read.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

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
from foldwise.systems.interactive.engines import StoppedError
from foldwise.systems.interactive.marks import Marks
from foldwise.volumes.placing import OtherGridError
from foldwise.web import requests
from foldwise.web.edits import change_object, fill_between, remove_islands
from foldwise.web.requests import (
    Asked,
    Between,
    Force,
    Islands,
    ObjectChange,
    Removal,
    Save,
    Version,
    page_of,
    read,
)
from foldwise.web.wire import changes_bytes, packed, read_changes, volume_bytes
from foldwise.web.writer import RefusedError, Writer

HOST = "127.0.0.1"
# Written by `make page`.
PAGE = Path(__file__).with_name("built")
FILES = {"": "index.html", "page.js": "page.js", "style.css": "style.css", "licences.txt": "licences.txt"}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    # The address contains the token.
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
Change = Callable[[], dict[str, Any] | None]
Answer = Callable[[Request], Awaitable[Response]]
Asking = TypeVar("Asking", bound=Version)


class Server:
    """The application around one session; changes of the session run one after another."""

    def __init__(self, annotation: Annotation, token: str) -> None:
        """Store a session, and the token of the address."""
        self.annotation, self.writer = annotation, Writer()
        self._token, self._lock = token.encode(), threading.Lock()
        self._stop, self._share, self._running = threading.Event(), 0.0, False

    def application(self) -> Starlette:
        """The routes."""
        session, changing = self.annotation, self._changing
        answers: dict[str, Answer] = {
            "writer": self._write, "leave": self._leave, "stop": self._stop_round, "round": self._round,
            "edit": self._edit, "load": self._load,
            "undo": changing(Version, lambda _: session.undo()),
            "redo": changing(Version, lambda _: session.redo()),
            "object": changing(ObjectChange, lambda asked: change_object(session, asked)),
            "remove": changing(Removal, lambda asked: session.remove_object(asked.number)),
            "between": changing(Between, lambda asked: fill_between(session, asked)),
            "islands": changing(Islands, lambda asked: remove_islands(session, asked)),
            "save": changing(Save, self._save),
        }  # fmt: skip
        routes = [
            Route("/{token}/", self._guarded(self._file), name="page"),
            Route("/{token}/{name:str}", self._guarded(self._file)),
            Route("/{token}/api/session", self._guarded(self._session)),
            Route("/{token}/api/image/{channel:int}", self._guarded(self._image)),
            Route("/{token}/api/labels", self._guarded(self._labels)),
            Route("/{token}/api/progress", self._guarded(self._progress)),
            *(
                Route(f"/{{token}}/api/{name}", self._guarded(answer), methods=["POST"])
                for name, answer in answers.items()
            ),
        ]
        hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
        return Starlette(routes=routes, middleware=[hosts])

    def _guarded(self, answer: Answer) -> Answer:
        """Answer only requests with the token; report what cannot be done in plain words."""

        async def guarded(request: Request) -> Response:
            given = request.path_params["token"].encode()
            if not secrets.compare_digest(given, self._token):
                raise HTTPException(404)
            try:
                response = await answer(request)
            except RefusedError as error:
                response = JSONResponse({"error": str(error), "why": error.why}, 409)
            except CaseError as error:
                why = "grid" if isinstance(error, OtherGridError) else ""
                response = JSONResponse({"error": str(error), "why": why}, 422)
            response.headers.update(HEADERS)
            return response

        return guarded

    async def _file(self, request: Request) -> Response:
        name = FILES.get(request.path_params.get("name", ""))
        if name is None:
            raise HTTPException(404)
        return FileResponse(PAGE / name)

    async def _session(self, _: Request) -> Response:
        return JSONResponse(await self._alone(self._facts))

    def _facts(self) -> dict[str, Any]:
        facts = self.annotation.facts()
        return facts | {"scan": shown(facts["scan"])}

    async def _image(self, request: Request) -> Response:
        channel: int = request.path_params["channel"]
        image = self.annotation.scan.image
        if channel >= len(image):
            raise HTTPException(404)
        data = await run_in_threadpool(volume_bytes, image[channel])
        return _bytes(data, {"X-Type": image.dtype.name})

    async def _labels(self, request: Request) -> Response:
        """All labels, or those that are different since a version."""
        since = request.query_params.get("since", "")

        def read() -> tuple[str, str, str, bytes]:
            annotation = self.annotation
            changed = annotation.changes(since) if since else None
            if changed is not None and len(changed[0]) * 8 < annotation.labels.size:
                data = changes_bytes(*changed, annotation.scan.shape)
                return annotation.version, "changes", "uint16", data
            labels = annotation.labels
            return annotation.version, "all", labels.dtype.name, volume_bytes(labels)

        version, kind, name, data = await self._alone(read)
        headers = {"X-Version": version, "X-Labels": kind, "X-Type": name, "Content-Encoding": "gzip"}
        return _bytes(await run_in_threadpool(packed, data), headers)

    async def _progress(self, request: Request) -> Response:
        """How far the round is; whether the page writes, and whether it could."""
        writes = self.writer.hear(page_of(request))
        return JSONResponse(
            {
                "version": self.annotation.version,
                "running": self._running,
                "share": self._share,
                "writer": writes,
                "free": self.writer.free,
            }
        )

    async def _write(self, request: Request) -> Response:
        asked = await read(request, Force)
        return JSONResponse({"writer": self.writer.ask(page_of(request), asked.force)})

    async def _leave(self, request: Request) -> Response:
        self.writer.leave(page_of(request))
        return JSONResponse({})

    async def _stop_round(self, request: Request) -> Response:
        self._writes(request)
        self._stop.set()
        return JSONResponse({})

    async def _round(self, request: Request) -> Response:
        asked = await read(request, Asked)
        try:
            marks = {
                number: tuple(Marks.from_dict(each) for each in given)
                for number, given in asked.marks.items()
            }
        except (KeyError, TypeError, ValueError) as error:
            raise HTTPException(400, f"marks: {error}") from None

        def segment() -> dict[str, Any]:
            self._stop.clear()
            self._share, self._running = 0.0, True
            try:
                self.annotation.round(marks, asked.engine, asked.axis, self._report)
            except StoppedError:
                return {"stopped": True}
            finally:
                self._running = False
            return {}

        return await self._change(request, asked.version, segment)

    def _report(self, share: float) -> None:
        self._share = share
        if self._stop.is_set():
            raise StoppedError

    async def _edit(self, request: Request) -> Response:
        data = await requests.body(request, requests.LONGEST_STROKE)
        try:
            indices, values = await run_in_threadpool(read_changes, data, self.annotation.scan.shape)
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
        version = request.headers.get("X-Version", "")
        return await self._change(request, version, lambda: self.annotation.edit(indices, values))

    async def _load(self, request: Request) -> Response:
        """Take a file's objects on."""
        name = Path(unquote(request.headers.get("X-Filename", ""))).name
        if name in ("", "..") or "\0" in name or len(name.encode()) > 200:
            raise HTTPException(400, "the file needs a name of at most 200 bytes")
        version = request.headers.get("X-Version", "")
        resample = request.headers.get("X-Resample", "") == "yes"
        self._writes(request)
        with tempfile.TemporaryDirectory(prefix="foldwise-") as folder:
            path = Path(folder) / name
            with path.open("wb") as file:
                async for part in requests.parts(request, requests.LONGEST_FILE):
                    await run_in_threadpool(file.write, part)

            def load() -> None:
                try:
                    self.annotation.load(path, resample=resample)
                except CaseError as error:
                    # The person knows the file, and not where it was put.
                    raise type(error)(str(error).replace(f"{folder}{os.sep}", "")) from error

            return await self._change(request, version, load)

    def _save(self, asked: Save) -> dict[str, Any]:
        if asked.kind not in self.annotation.forms:
            raise HTTPException(400, f"the session is saved as {', '.join(self.annotation.forms)}")
        return {"saved": [shown(str(path)) for path in self.annotation.save(asked.kind)]}

    def _changing(self, kind: type[Asking], change: Callable[[Asking], dict[str, Any] | None]) -> Answer:
        """What reads a request of a kind and makes a change."""

        async def answer(request: Request) -> Response:
            asked = await read(request, kind)
            return await self._change(request, asked.version, lambda: change(asked))

        return answer

    def _writes(self, request: Request) -> None:
        """Refuse a page that only reads.

        Raises:
            RefusedError: another page writes.
        """
        page = page_of(request)
        if not self.writer.hear(page):
            raise RefusedError(
                "This page reads only: another page writes to this session. Press “Write here” to go on "
                "here.",
                "reader",
            )

    async def _change(self, request: Request, version: str, change: Change) -> Response:
        """Change the session, after any running change, and return its facts with what the change returned.

        Nothing is changed for a page that shows another version: its user has not seen the current one.
        """

        def checked() -> dict[str, Any]:
            # Only now: a page that waited may have lost its turn.
            self._writes(request)
            if version != self.annotation.version:
                raise RefusedError(
                    "Another page or command has changed this session, so nothing was done. Its current "
                    "state is shown, with your marks: check it, then repeat.",
                    "outdated",
                )
            return (change() or {}) | self._facts()

        return JSONResponse(await self._alone(checked))

    async def _alone(self, doing: Callable[[], Any]) -> Any:
        """Do something in a thread, after whatever else is being done with the session."""

        def locked() -> Any:
            with self._lock:
                return doing()

        return await run_in_threadpool(locked)


def shown(name: str) -> str:
    """A file's name as text: bytes that are not UTF-8 could be neither sent nor printed."""
    return os.fsencode(name).decode(errors="replace")


def _bytes(data: bytes, headers: dict[str, str]) -> Response:
    return Response(data, media_type="application/octet-stream", headers=headers)
