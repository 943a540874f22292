"""Text files of users: what cannot be read is refused in plain words, and nothing is lost silently."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from foldwise.errors import CaseError, explained

# How files begin that are not text, and what they are.
BINARY = {
    b"PK\x03\x04": "an Excel workbook or another zip file; save the sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an Excel workbook of an old version; save the sheet as CSV UTF-8",
    b"\x1f\x8b": "a compressed file (gzip)",
    b"\x89HDF": "an HDF5 file",
    b"%PDF": "a PDF",
}
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SEPARATORS = (",", "\t", ";")
# As much tells whether a file is text.
BEGINNING = 2**16


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Raises:
        CaseError: it cannot be read, or is not such a text; with the line at fault.
    """
    try:
        with path.open("rb") as file:
            data = file.read(BEGINNING)
            _refuse_binary(path, data)
            data += file.read()
    except OSError as error:
        raise CaseError(explained(error)) from error
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise CaseError(f"{path}: line {line}: holds a NUL byte; expected text in UTF-8; is it damaged?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        around = data[max(0, error.start - 10) : error.start + 10].splitlines()
        found = next((part for part in around if not part.isascii()), b"").decode("latin-1")
        raise CaseError(
            f"{path}: line {line}: the letters around {found!r} are not UTF-8, perhaps Latin-1 from a "
            f"spreadsheet; save the file as UTF-8 (Excel: CSV UTF-8)"
        ) from None


def _refuse_binary(path: Path, beginning: bytes) -> None:
    for magic, what in BINARY.items():
        if beginning.startswith(magic):
            raise CaseError(f"{path}: expected text, but this is {what}")
    if beginning.startswith(UTF16) or b"\0" in beginning[1:4:2] or b"\0" in beginning[:4:2]:
        raise CaseError(f"{path}: is text in UTF-16; save it as UTF-8 (Excel: CSV UTF-8)")


def parse_json(text: str, origin: str) -> Any:
    """Values from JSON text.

    Raises:
        CaseError: it is not JSON, or an object has a key twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise CaseError(f"{origin}: the key {twice!r} is given twice; keep one")
        return values

    try:
        return json.loads(text, object_pairs_hook=once)
    except RecursionError:
        raise CaseError(f"{origin}: not readable as JSON: it is nested too deeply") from None
    except ValueError as error:
        raise CaseError(f"{origin}: not readable as JSON ({error})") from error


def parse_yaml(text: str, origin: str) -> Any:
    """Values from YAML text.

    Raises:
        CaseError: it is not YAML, or a key is given twice, of which YAML's own reader keeps the last.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        _refuse_twice(node, origin)
        return None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        what = ", ".join(filter(None, (error.context, error.problem)))
        raise CaseError(f"{origin}: {line}not readable as YAML ({what})") from None
    except RecursionError:
        raise CaseError(f"{origin}: not readable as YAML: it is nested too deeply") from None
    # Values that contradict their tags, such as `!!int x`, or dates that do not exist.
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CaseError(f"{origin}: not readable as YAML ({error})") from None
    finally:
        loader.dispose()


def _refuse_twice(root: yaml.Node | None, origin: str) -> None:
    """Refuse keys that a mapping has twice; merged ones (`<<`) are its own to override."""
    seen: set[int] = set()
    left = [] if root is None else [root]
    while left:
        node = left.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            left += node.value
        elif isinstance(node, yaml.MappingNode):
            left += [value for _, value in node.value]
            lines: dict[tuple[str, str], int] = {}
            for key, _ in node.value:
                line = key.start_mark.line + 1
                if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in lines:
                    first = lines[key.tag, key.value]
                    raise CaseError(
                        f"{origin}: line {line}: the key `{key.value}` is already on line {first}; keep one"
                    )
                if isinstance(key, yaml.ScalarNode):
                    lines[key.tag, key.value] = line


def read_values(path: Path) -> Any:
    """Values from a YAML file, or from a JSON file if its name ends in .json.

    Raises:
        CaseError: it is missing, not readable, or has a key twice.
    """
    parse = parse_json if path.suffix == ".json" else parse_yaml
    return parse(read_text(path), str(path))


def read_rows(path: Path, known: str) -> list[tuple[int, list[str]]]:
    """The header and the rows of a table, stripped, each with the line on which it begins.

    Cells are separated by tabs if the suffix is .tsv, else by commas; or by what spreadsheets also write, a
    semicolon or the other of the two, if only that gives the header the known column.

    Args:
        path: CSV or TSV.
        known: a column that the table should have.

    Raises:
        CaseError: it is empty or not readable, or a cell seems to hold whole rows, since a quote is missing.
    """
    text = read_text(path)
    if not text.strip():
        raise CaseError(f"{path}: is empty; expected a header with the column `{known}`")
    usual = "\t" if path.suffix == ".tsv" else ","
    first = text.lstrip("\r\n").splitlines()[0]
    fitting = [one for one in SEPARATORS if known in [cell.strip(' "').lower() for cell in first.split(one)]]
    separator = usual if usual in fitting or len(fitting) != 1 else fitting[0]
    rows: list[tuple[int, list[str]]] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append((line, [cell.strip() for cell in row]))
            width = len(rows[0][1]) if rows else 0
            if any(part.count(separator) >= width - 1 > 0 for cell in row for part in cell.splitlines()[1:]):
                raise csv.Error("a cell holds whole rows")
            line = reader.line_num + 1
    except csv.Error as error:
        raise CaseError(
            f"{path}: line {line}: not readable as a table ({error}); is a quote missing, or one too many?"
        ) from None
    return rows


def refuse_header(path: Path, header: Sequence[str], needed: Sequence[str]) -> None:
    """Refuse a table without some columns, or with one twice.

    Raises:
        CaseError: with the names.
    """
    if missing := [name for name in needed if name not in header]:
        names = ", ".join(f"`{name}`" for name in missing)
        raise CaseError(f"{path}: line 1: no column {names}; found {_listed(header)}")
    if twice := {name for name in header if header.count(name) > 1}:
        names = ", ".join(repr(name) for name in sorted(twice))
        raise CaseError(f"{path}: line 1: a column appears twice: {names}")


def _listed(header: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:40]) for name in header[:8])
    return shown + (", …" if len(header) > 8 else "")
