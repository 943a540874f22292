"""Inputs that cannot be used, and what each command owes to who gives them: one plain message, no loss."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from foldwise import command

LATIN1 = "case,note\nc0,Müller\n".encode("latin-1")
# Contents that no text file may have, whatever is expected in it.
NO_TEXT: dict[str, bytes] = {
    "empty": b"",
    "blank": b"\n \n\n",
    "NUL": b"case\0,image\nc0,c0.nii\n",
    "UTF-16": "case,image\nc0,c0.nii\n".encode("utf-16"),
    "UTF-16 without its mark": "case,image\nc0,c0.nii\n".encode("utf-16-le"),
    "Latin-1": LATIN1,
    "Excel": b"PK\x03\x04\x14\x00\x06\x00\x08\x00[Content_Types].xml",
    "old Excel": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
    "gzip": gzip.compress(b"case,image\n"),
    "noise": hashlib.sha512(b"noise").digest() * 20,
}
# Texts that are no JSON, or JSON of no form that any file of ours has.
NO_JSON: dict[str, bytes] = {
    **NO_TEXT,
    "cut": b'{"labels": {"0": "back',
    "trailing comma": b'{"labels": 1,}',
    "null": b"null",
    "a number": b"3",
    "a huge number": b"9" * 5000,
    "a text": b'"labels"',
    "a list": b"[1, 2]",
    "an empty object": b"{}",
    "NaN": b"NaN",
    "nested too deeply": b"[" * 100_000,
    "a key twice": b'{"labels": 1, "labels": 2}',
    "YAML": b"labels: [1]\n",
    "HTML": b"<html>Not found</html>",
}
# What replaces each value of a description.
WRONG = ("null", "[]", "{}", '"x"', '""', "-1", "1e400", "NaN", "[[1]]", '[null, {"a": 1}]')


def mutations(values: Any, each: int = 3) -> Iterator[tuple[str, bytes]]:
    """JSON texts in which one value is missing, or another one, each with its place.

    Args:
        values: a valid description.
        each: how many other values each place gets; which ones, takes turns.
    """
    turns = itertools.cycle(WRONG)
    for path in _paths(values):
        place = ".".join(map(str, path)) or "all"
        if path:
            yield f"{place} missing", _with(values, path, None)
        for text in itertools.islice(turns, each):
            yield f"{place}: {text}", _with(values, path, text)


def _paths(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    )
    for key, value in inner:
        yield from _paths(value, (*path, key))


def _with(values: Any, path: tuple[Any, ...], text: str | None) -> bytes:
    if not path:
        return str(text).encode()
    copy = json.loads(json.dumps(values))
    holder = copy
    for key in path[:-1]:
        holder = holder[key]
    if text is None:
        del holder[path[-1]]
    else:
        holder[path[-1]] = "@@"
    return json.dumps(copy).replace('"@@"', text or "").encode()


def contents(folder: Path) -> dict[str, str]:
    """Every file and link below a folder, with what tells whether it changed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(folder))] = str(path.readlink())
        elif path.is_file():
            facts = path.stat()
            large = facts.st_size > 2**20  # written anew, it has another time
            what = str(facts.st_mtime_ns) if large else hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(folder))] = f"{facts.st_size} {what}"
    return found


def called(main: Callable[[], int | None], *words: str) -> tuple[int, str]:
    """Exit code and output of a command, run as `python -m` runs it; what it does not expect is raised."""
    out = io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["command", *words]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
    ):
        try:
            command.run(main)
        except SystemExit as end:
            return int(end.code or 0) if not isinstance(end.code, str) else 1, out.getvalue()
    return 0, out.getvalue()


def refused(main: Callable[[], int | None], folder: Path, *words: str) -> str:
    """The message of a call that must fail, and leave the folder without a loss or anything half written."""
    before = contents(folder)
    code, text = called(main, *words)
    after = contents(folder)
    assert code != 0, f"accepted: {text[-2000:]}"
    assert "Traceback" not in text, text
    assert {name: after.get(name) for name in before} == before, "an input was changed or lost"
    assert [name for name in after if Path(name).name.startswith(".") and name not in before] == []
    return text
