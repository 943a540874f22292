"""Whether an ASF file (WMV) is complete: all packets are there, and in them all frames that were encoded.

Windows' encoders drop frames when they are late, or when nothing moves, so a gap in time alone is no damage.
But each frame is a numbered object, in one or several fragments.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
# Bytes of a number by its kind.
WIDTHS = (0, 1, 2, 4)
# Stream, number of the object, width of that number, offset, length and size of the fragment's object.
Fragment = tuple[int, int, int, int, int, int]


def is_complete(path: Path) -> bool:
    """Whether the objects of every stream are numbered without a gap, and each is there in full.

    Args:
        path: an ASF file.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        properties, start = data.find(PROPERTIES), data.find(DATA)
        if min(properties, start) < 0:
            return False
        size = int.from_bytes(data[properties + 92 : properties + 96], "little")
        count = int.from_bytes(data[start + 40 : start + 48], "little")
        first = start + 50
        if not size or len(data) < first + count * size:
            return False
        ends: dict[int, tuple[int, int, int]] = {}  # of each stream: object, bytes so far, and in all
        try:
            for number in range(count):
                for stream, place, width, offset, length, whole in _fragments(
                    data[first + number * size : first + (number + 1) * size]
                ):
                    last, done, of = ends.get(stream, (place, offset, whole))
                    if place != last:
                        if done != of or place != (last + 1) % (1 << 8 * width):
                            return False
                        done = 0
                    if offset != done:
                        return False
                    ends[stream] = place, offset + length, whole
        except (IndexError, ValueError):
            return False
    return True


def _fragments(packet: bytes) -> Iterator[Fragment]:
    """The fragments of a packet (ASF specification, 5.2).

    Raises:
        IndexError, ValueError: this is no packet.
    """
    at = 0

    def take(width: int) -> int:
        nonlocal at
        if at + width > len(packet):
            raise IndexError
        at += width
        return int.from_bytes(packet[at - width : at], "little")

    flags = take(1)
    if flags & 0x80:
        at += flags & 15
        flags = take(1)
    kinds = take(1)
    length = take(WIDTHS[flags >> 5 & 3]) or len(packet)
    take(WIDTHS[flags >> 1 & 3])
    end = length - take(WIDTHS[flags >> 3 & 3])
    take(6)
    several = take(1) if flags & 1 else 1
    for _ in range(several & 63):
        stream = take(1) & 127
        width = WIDTHS[kinds >> 4 & 3]
        place, offset, extra = take(width), take(WIDTHS[kinds >> 2 & 3]), take(WIDTHS[kinds & 3])
        if extra < 8:
            raise ValueError  # objects in groups, as only audio is, or garbage
        whole = take(4)
        at += extra - 4
        size = take(WIDTHS[several >> 6]) if flags & 1 else end - at
        if size <= 0 or at + size > end:
            raise ValueError
        yield stream, place, width, offset, size, whole
        at += size
