"""How far a training is within an epoch: a small file for those who watch, and lines in the log."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path

from foldwise.experiment.paths import PULSE
from foldwise.files import write_json

# Between two files, and between two lines of the log. s.
FILE_S, LINE_S = 10.0, 60.0


class Pulse:
    """Tells what advances; it costs nothing unless some seconds have passed."""

    def __init__(self, folder: Path, epochs: int, *, silent: bool) -> None:
        """Name the folder of the training.

        Args:
            folder: where the file is written.
            epochs: of the whole training.
            silent: whether nothing is told, as by the further processes of a training.
        """
        self._path, self._epochs, self._silent = folder / PULSE, epochs, silent
        self._epoch = 1
        self._written, self._logged = -FILE_S, time.monotonic()
        # The end of a step, and its number: the first one after a start waits for the readers.
        self._since: tuple[float, int] | None = None

    def begin(self, epoch: int) -> None:
        """An epoch begins, or goes on from one of its steps."""
        self._epoch, self._logged, self._since = epoch, time.monotonic(), None

    def step(self, done: int, of: int, loss: float) -> None:
        """A step of the optimiser.

        Args:
            done: steps of the epoch so far.
            of: steps of an epoch.
            loss: its mean over the epoch so far.
        """
        more = {"loss": loss}
        if self._since is None:
            self._since = time.monotonic(), done
        else:
            since, first = self._since
            more["step_seconds"] = (time.monotonic() - since) / (done - first)
        self._tell("steps", done, of, more, f", loss {loss:.4f}")

    def case(self, done: int, of: int) -> None:
        """A whole case of the epoch's validation."""
        self._tell("cases", done, of, {}, "")

    def end(self) -> None:
        """The training has ended."""
        if not self._silent:
            self._path.unlink(missing_ok=True)

    def _tell(self, what: str, done: int, of: int, more: dict[str, float], text: str) -> None:
        now = time.monotonic()
        if self._silent:
            return
        if now - self._written >= FILE_S:
            self._written = now
            with suppress(OSError):  # a full disk is found by what matters
                write_json(self._path, {"epoch": self._epoch, "what": what, "done": done, "of": of, **more})
        if now - self._logged >= LINE_S:
            self._logged = now
            kind = "validated cases" if what == "cases" else "step"
            logging.info("epoch %d/%d  %s %d of %d%s", self._epoch, self._epochs, kind, done, of, text)
