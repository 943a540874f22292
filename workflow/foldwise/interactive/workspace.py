"""A session on disk: the prepared scan, and one file for every round, so that the next call goes on from it.

session.json       the scan, the model, and the hashes of both
case.h5            the prepared scan
round_0001.npz     the state after the first round and the hints that led to it; and so on
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from foldwise.files import CaseError, atomic_path, read_json, write_json
from foldwise.interactive.hints import Hints
from foldwise.interactive.session import State

VERSION = 1
FIELDS = ("inside", "outside", "extreme", "box")


class Workspace:
    """A session's folder."""

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Begin a session, or go on with the one in the folder.

        Args:
            folder: made if it is missing.
            facts: what may not change between calls, as JSON values: hashes of scan and model.

        Raises:
            CaseError: the session there is of another scan or model.
        """
        self.folder = folder
        path = folder / "session.json"
        given = {"version": VERSION, **facts}
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(path, given)
            return
        before = read_json(path)
        if not isinstance(before, dict):
            raise CaseError(f"{path}: not a session of Foldwise; use another folder")
        if changed := [key for key in given if before.get(key) != given[key]]:
            key = changed[0]
            raise CaseError(
                f"{folder}: the session there was begun with another {key} ({before.get(key)}, now "
                f"{given[key]}); go on with that one, or use another folder. Nothing was changed"
            )

    @property
    def scan(self) -> Path:
        """The prepared scan."""
        return self.folder / "case.h5"

    @property
    def rounds(self) -> int:
        """How many rounds there are."""
        return len(self._files)

    @property
    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("round_[0-9][0-9][0-9][0-9].npz"))

    def state(self, empty: State) -> State:
        """The state after the last round; `empty` before the first.

        Raises:
            CaseError: a round's file is broken or of another grid.
        """
        if not self._files:
            return empty
        path = self._files[-1]
        try:
            with np.load(path, allow_pickle=False) as file:
                made = State(file["probabilities"], file["quality"], tuple(file["hinted"].tolist()))
        except Exception as error:  # a cut-off archive raises half a dozen kinds
            raise CaseError(f"{path}: not a readable round ({error}); delete it to go back by one") from error
        if made.probabilities.shape != empty.probabilities.shape:
            raise CaseError(
                f"{path}: holds masks of shape {made.probabilities.shape}, this scan has "
                f"{empty.probabilities.shape}; use another folder"
            )
        return made

    def add(self, state: State, place: int, hints: Mapping[int, Hints]) -> None:
        """Keep a round: whole, or not at all."""
        number = int(self._files[-1].stem.removeprefix("round_")) + 1 if self._files else 1
        with atomic_path(self.folder / f"round_{number:04d}.npz") as temporary:
            np.savez_compressed(
                temporary,
                probabilities=state.probabilities,
                quality=state.quality,
                hinted=np.array(state.hinted, int),
                hints=np.array(json.dumps({"slice": place, "objects": _plain(hints)})),
            )

    def undo(self) -> None:
        """Take the last round back.

        Raises:
            CaseError: there is none.
        """
        if not self._files:
            raise CaseError(f"{self.folder}: no round to take back")
        self._files[-1].unlink()


def _plain(hints: Mapping[int, Hints]) -> dict[int, dict[str, Any]]:
    return {
        number: {"nothing": given.nothing, **{name: getattr(given, name).tolist() for name in FIELDS}}
        for number, given in hints.items()
    }
