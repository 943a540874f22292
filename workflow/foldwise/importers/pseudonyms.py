"""Names of patients that lead back only by a key and a table, which their owner alone can read."""

from __future__ import annotations

import csv
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from foldwise.files import CaseError, atomic_path, short_hash
from foldwise.importers.sheets import clean

KEY_BYTES = 32
# Hexadecimal digits of a patient's name, and of a series' within its patient.
PATIENT, SERIES = 12, 8
COLUMNS = ("case", "patient", "PatientID", "SeriesInstanceUID", "folder", "left out")


@dataclass(frozen=True)
class Names:
    """Names of patients and cases; the same key gives the same names in every import.

    Attributes:
        key: of the pseudonyms; None: patients keep their IDs.
    """

    key: bytes | None = None

    def patient(self, identity: str) -> str:
        """The name of a patient.

        Args:
            identity: PatientID; for a patient without one, whatever else distinguishes it, after a space.
        """
        if self.key is not None:
            return f"p{self._digest(identity, PATIENT)}"
        return f"patient{short_hash(identity)}" if identity.startswith(" ") else clean(identity)

    def case(self, identity: str, uid: str) -> str:
        """The name of a patient's series; patients whose series have equal UIDs get different ones."""
        of_series = f"{identity}\n{uid}"
        digest = short_hash(of_series, SERIES) if self.key is None else self._digest(of_series, SERIES)
        return f"{self.patient(identity)}_{digest}"

    def _digest(self, text: str, length: int) -> str:
        assert self.key is not None, "IDs are kept"
        return hmac.new(self.key, text.encode(), "sha256").hexdigest()[:length]


def kept_key(path: Path) -> bytes:
    """The key in a file. If the file is missing it is written, with a random key.

    Raises:
        CaseError: the file holds no key.
    """
    if not path.exists():
        with atomic_path(path, private=True) as temporary:
            temporary.write_text(secrets.token_hex(KEY_BYTES) + "\n", encoding="utf-8")
    try:
        key = bytes.fromhex(path.read_text(encoding="utf-8").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise CaseError(
            f"{path}: not a key of pseudonyms; restore it, or move it away for new names of all patients"
        )
    return key


def write_table(path: Path, rows: Iterable[tuple[str, ...]]) -> None:
    """Write the table that leads from cases back to patients; its columns are `COLUMNS`."""
    with (
        atomic_path(path, private=True) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
