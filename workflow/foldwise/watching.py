"""The state of an experiment, again and again, until everything is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from foldwise.files import CaseError
from foldwise.status import Status, look

# A look takes at most this share of the time.
SHARE = 0.2


def watch(configfiles: Sequence[str | Path], every_s: float, console: Console | None = None) -> None:
    """Show the state of an experiment until everything is done, or until Ctrl-C.

    In a terminal it is refreshed in place; elsewhere it is printed whenever it changes, with the time.

    Args:
        configfiles: its settings, as for `status.look`.
        every_s: seconds between two looks; more if looking takes long.
        console: where to show it; default: standard output.

    Raises:
        CaseError: the first look fails. Later, e.g. while the settings are edited, the reason is shown.
    """
    console = console or Console(highlight=False)
    begun = time.monotonic()
    seen = look(configfiles)
    with ExitStack() as stack:
        if console.is_terminal:
            live = stack.enter_context(Live(Text(), console=console, auto_refresh=False))
            show: Callable[[str], None] = partial(_refresh, live)
        else:
            show = _printed_if_new(console)
        try:
            while True:
                show(seen.text)
                if seen.done:
                    return
                time.sleep(max(every_s, (time.monotonic() - begun) / SHARE))
                begun = time.monotonic()
                try:
                    seen = look(configfiles)
                except CaseError as error:
                    seen = Status(f"{seen.text}\nsince then: {error}", done=False)
        except KeyboardInterrupt:
            return


def _refresh(live: Live, text: str) -> None:
    live.update(Text(f"{text}\n{_now()}; Ctrl-C ends this view, not the run"), refresh=True)


def _printed_if_new(console: Console) -> Callable[[str], None]:
    last = ""

    def show(text: str) -> None:
        nonlocal last
        if text != last:
            console.print(f"{_now()}\n{text}", markup=False, soft_wrap=True)
        last = text

    return show


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
