"""The same scan or video as two cases: as two patients, it would be trained on and tested on."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from pathlib import Path

from foldwise import looks
from foldwise.check import Findings
from foldwise.files import CaseError, file_hash, short_hash, source_files
from foldwise.index import Entry
from foldwise.sheet import Case
from foldwise.store import Memory

# Reading waits for the disk, above all on network file systems.
THREADS = 16
# Bytes in the middle of a file by which files of equal size are told apart before they are read in full.
SAMPLE = 4096
REMEDY = "one would be trained on, and the other tested on; remove one, or give both the same group"
Member = tuple[Path, Case]


def check_twins(cases: Iterable[Case], memory: Memory, found: Findings) -> None:
    """Find cases with the same content in their files, under whatever names: copies, links, renamed slices.

    Only files that agree in their sizes and a sample are read in full, and only once. Content that is stored
    in another way, e.g. compressed, is found later by `refuse_twins`.

    Args:
        cases: of the sheet.
        memory: what is known of files.
        found: twins of two patients are problems if both cases are labelled; others are warnings.
    """
    alike = [[(path, case) for case in cases for path in case.recordings if looks.exists(path)]]
    with ThreadPoolExecutor(THREADS) as pool:
        for look in (_sizes, _samples, _contents):

            def seen(member: Member, look: Callable[[Path], str] = look) -> str:
                return str(memory.of_source(member[0], partial(look, member[0]), look.__name__))

            alike = [part for group in alike for part in _parts(group, list(pool.map(seen, group)))]
    pairs = set()
    for group in alike:
        # Labelled ones first, since only they are trained on.
        (path, first), *others = sorted(group, key=lambda member: not member[1].labelled)
        for other_path, other in others:
            if other is first or (first.name, other.name) in pairs:
                continue
            pairs.add((first.name, other.name))  # once, however many channels they share
            apart = other.group != first.group
            both = first.labelled and other.labelled
            text = f"{other_path}: has the same content as {path} of case {first.name}"
            if apart and both:
                text += f", of another patient ({first.group}, here {other.group}): {REMEDY}"
            found.add(other, text, warning=not (apart and both))


def refuse_twins(entries: Iterable[Entry], recordings: Mapping[str, str]) -> None:
    """Refuse two patients with the same recording, however their files store it; warn of one patient's.

    Args:
        entries: the labelled cases of the cross-validation.
        recordings: case → hash of its voxels or frames; "" if unknown.

    Raises:
        CaseError: the first such pair.
    """
    owners: dict[str, Entry] = {}
    for entry in entries:
        recording = recordings[entry.case]
        first = owners.setdefault(recording, entry) if recording else entry
        if first is entry:
            continue
        text = f"cases {first.case} and {entry.case} are the same recording"
        if first.group != entry.group:
            raise CaseError(f"{text}, but of the patients {first.group} and {entry.group}: {REMEDY}")
        logging.warning(text)


def _parts(group: Sequence[Member], keys: Sequence[str]) -> list[list[Member]]:
    """Members with equal keys, if there are several."""
    parts = defaultdict(list)
    for member, key in zip(group, keys, strict=True):
        parts[key].append(member)
    return [part for part in parts.values() if len(part) > 1]


def _sizes(path: Path) -> str:
    return short_hash(sorted(file.stat().st_size for file in source_files(path)), 32)


def _samples(path: Path) -> str:
    return short_hash(sorted(map(_sample, source_files(path))), 32)


def _sample(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(path.stat().st_size // 2)
        return sha256(file.read(SAMPLE)).hexdigest()


def _contents(path: Path) -> str:
    return short_hash(sorted(map(file_hash, source_files(path))), 32)
