"""What is kept between calls, keyed by everything that it was made from.

Nothing else writes into `state/`. A key is a hash, so what was made from other files, models or settings is
simply not found; a broken entry counts as not found, too.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from foldwise.files import CaseError, read_json, short_hash, write_json


class Memory:
    """Plain values in one JSON file, e.g. counts of networks, and hashes of files. Threads may share it."""

    def __init__(self, path: Path | None) -> None:
        """Read the file, if it exists; a broken one is an empty memory. None: nothing is kept."""
        self._path, self._lock = path, threading.Lock()
        self._known, self._new = self._read(), dict[str, Any]()

    def get(self, *made_of: Any) -> Any | None:
        """The value that was put with the same `made_of` (JSON values), or None."""
        return self._known.get(short_hash(made_of, 16))

    def put(self, value: Any, *made_of: Any) -> None:
        """Keep a JSON value, which is not None, until `save` writes it."""
        with self._lock:
            key = short_hash(made_of, 16)
            self._known[key] = self._new[key] = value

    def save(self) -> None:
        """Write what is new, with what other processes have written in the meantime."""
        with self._lock:
            if self._new and self._path is not None:
                write_json(self._path, {**self._read(), **self._new})
                self._new = {}

    def _read(self) -> dict[str, Any]:
        try:
            found = read_json(self._path) if self._path is not None else {}
        except CaseError:
            return {}
        return found if isinstance(found, dict) else {}
