"""The engines that a session can use: their names, what each needs, and how it is opened."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

from foldwise.files import CaseError
from foldwise.systems.interactive.engines import Engine, Opener, Scan


@dataclass(frozen=True)
class Options:
    """What a person gave for the engines; each takes what it needs.

    Attributes:
        model: a trained interactive model, for `memory`.
        automatic: for `automatic`, a segmentation model of Foldwise or the template of a command.
        names: value in that command's label map → name of the object.
        server: address of an nnInteractive server.
        weights: folder with SAM 2, as saved by transformers.
        channel: the one that engines see which take a single one, from 0.
    """

    model: Path | None = None
    automatic: str = ""
    names: Mapping[int, str] = field(default_factory=dict)
    server: str = ""
    weights: Path | None = None
    channel: int = 0


@dataclass(frozen=True)
class Choice:
    """An engine that can be chosen. Its module is named like it, and has `opened(scan, options)`.

    Attributes:
        name: what a person types.
        title: what a page shows.
        needs: the option that it needs; empty: it needs none.
        does: what it does with marks, in a sentence.
    """

    name: str
    title: str
    needs: str
    does: str

    def missing(self, options: Options) -> str:
        """What to give so that it can be used, as a person types it; empty if all is there."""
        return f"--{self.needs}" if self.needs and not getattr(options, self.needs) else ""


ENGINES: Mapping[str, Choice] = {
    choice.name: choice
    for choice in (
        Choice("classical", "Classical", "", "Grows and interpolates the marks in three dimensions."),
        Choice("memory", "Memory network", "model", "Propagates the marks by a network trained here."),
        Choice("automatic", "Automatic", "automatic", "Proposes all objects once, without any marks."),
        Choice("nninteractive", "nnInteractive", "server", "Asks an nnInteractive server."),
        Choice("sam2", "SAM 2", "weights", "Follows a box or points through the slices."),
    )
}


def open_engine(name: str, scan: Scan, options: Options) -> Engine:
    """Open an engine on a scan.

    Raises:
        CaseError: an unknown name, an option is missing, or what it names cannot be used.
    """
    if name not in ENGINES:
        raise CaseError(f"engine {name!r}: unknown; use one of {', '.join(ENGINES)}")
    if missing := ENGINES[name].missing(options):
        raise CaseError(f"engine {name}: give {missing}")
    # Imported only here, since each has libraries of its own.
    engine: Engine = import_module(f"{__package__}.{name}").opened(scan, options)
    return engine


def openers(options: Options, **own: Opener) -> dict[str, Opener]:
    """Name → what opens it, of all engines that the options allow, in their order.

    Args:
        options: what a person gave.
        own: engines that are opened in another way.
    """
    allowed = [name for name, choice in ENGINES.items() if name in own or not choice.missing(options)]
    return {name: own.get(name, partial(open_engine, name, options=options)) for name in allowed}


def channel_of(scan: Scan, options: Options, name: str) -> np.ndarray:
    """The channel (x, y, z) that an engine sees; says which one if there are several.

    Raises:
        CaseError: the scan has no such channel.
    """
    count = len(scan.image)
    if not 0 <= options.channel < count:
        raise CaseError(f"--channel {options.channel}: the scan has channels 0 to {count - 1}")
    if count > 1:
        logging.info("engine %s: sees only channel %d of the scan's %d", name, options.channel, count)
    channel: np.ndarray = scan.image[options.channel]
    return channel
