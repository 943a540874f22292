"""Serve a session to a browser on this machine.

The server listens on 127.0.0.1, under an address that only the user is told.
"""

from __future__ import annotations

import logging
import secrets
import socket

import uvicorn

from foldwise.files import CaseError
from foldwise.systems.interactive.annotation import Annotation
from foldwise.web.application import HOST, PAGE, Server, shown


def serve(annotation: Annotation, port: int = 0) -> None:
    """Serve a session until the process is interrupted; the address is printed.

    Args:
        annotation: the session.
        port: 0: any free port.

    Raises:
        CaseError: the page is not built, or the port is taken.
    """
    require_page()
    token = secrets.token_urlsafe(24)
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
    except OSError as error:
        raise CaseError(f"port {port}: {error.strerror}; use another one, or 0 for any free port") from error
    address = f"http://{HOST}:{listening.getsockname()[1]}/{token}/"
    folder = shown(str(annotation.folder))
    print(f"Open {address}\nPress Ctrl+C to stop; every step is kept in {folder}", flush=True)
    application = Server(annotation, token).application()
    # No access log: it would contain the token.
    config = uvicorn.Config(application, access_log=False, log_level="warning", server_header=False)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    uvicorn.Server(config).run(sockets=[listening])


def require_page() -> None:
    """Check that the page is there, before a session is opened for it.

    Raises:
        CaseError: it was not built.
    """
    if not (PAGE / "page.js").is_file():
        raise CaseError(
            f"{PAGE}: the page is not built; run `make page` in Foldwise's checkout (it needs npm's registry "
            "once), or install a wheel of Foldwise, which carries it"
        )
