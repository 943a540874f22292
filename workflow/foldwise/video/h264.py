"""Frames that are missing from an H.264 stream, by the numbers that it gives them.

Lost packets leave a gap in time, which may also be intended. What follows is decoded from the wrong
frames, and FFmpeg reports nothing. But the stream numbers its reference frames (`frame_num`), and an
encoder that left out frames itself counts on without a gap.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# Kinds of units, and profiles whose parameters contain the format of colours (ITU-T H.264, 7.3.2.1.1).
SLICE, KEY_SLICE, PARAMETERS = 1, 5, 7
HIGH = (44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244)
# Bytes of a slice that hold its number.
HEAD = 32


class FrameNumbers:
    """The numbers of a stream's frames in order of decoding."""

    def __init__(self, extradata: bytes | None) -> None:
        """Read the parameters that a container keeps apart from the packets."""
        data = extradata or b""
        # Length of a unit's size, in a container with sizes; 0: start codes.
        self._prefix = (data[4] & 3) + 1 if len(data) > 6 and data[0] == 1 else 0
        self._format: tuple[int, int, bool] | None = None
        self._known, self._last = True, -1
        if self._prefix:
            size = int.from_bytes(data[6:8])
            self._read_format(data[8 : 8 + size])
        else:
            self.skips(data, key=True)

    def skips(self, packet: bytes, *, key: bool) -> bool:
        """Whether frames are missing before this packet from which it may be decoded.

        Args:
            packet: the next one.
            key: whether it starts anew.
        """
        for unit in self._units(packet):
            kind = unit[0] & 31
            if kind == PARAMETERS:
                self._read_format(unit)
            elif kind in (SLICE, KEY_SLICE):
                return self._slice(unit, key or kind == KEY_SLICE)
        return False

    def _slice(self, unit: bytes, key: bool) -> bool:
        if not self._known or self._format is None:
            return False
        length, planes, _ = self._format
        try:
            bits = _Bits(unit[1:HEAD])
            for _ in range(3):
                bits.code()
            bits.take(planes)
            number = bits.take(length)
        except ValueError:
            return False  # garbage, which decoders report
        # It also counts on from 0 after a frame that empties the memory.
        allowed = {self._last, (self._last + 1) % (1 << length), 1}
        skipped = not key and self._last >= 0 and number not in allowed
        if key or unit[0] >> 5 & 3:
            self._last = number
        return skipped

    def _read_format(self, unit: bytes) -> None:
        try:
            found = _format(unit)
        except ValueError:
            return
        # Of several formats, it is not known here which one a slice has; and gaps may be allowed.
        self._known = self._known and not found[2] and self._format in (None, found)
        self._format = found

    def _units(self, packet: bytes) -> Iterator[bytes]:
        if not self._prefix:
            yield from filter(None, re.split(b"\0\0\1", packet)[1:])
            return
        at = 0
        while at + self._prefix < len(packet):
            size = int.from_bytes(packet[at : at + self._prefix])
            at += self._prefix
            if unit := packet[at : at + size]:
                yield unit
            at += size


class _Bits:
    """Bits of a unit, without the bytes that keep start codes out."""

    def __init__(self, data: bytes) -> None:
        plain = data.replace(b"\0\0\3", b"\0\0")
        self._bits, self._at = f"{int.from_bytes(plain):0{8 * len(plain)}b}", 0

    def take(self, count: int) -> int:
        self._at += count
        return int(self._bits[self._at - count : self._at] or "0", 2)

    def code(self) -> int:
        """A number ≥ 0 as an Exp-Golomb code; of signed ones only the length matters here."""
        zeros = self._bits.index("1", self._at) - self._at
        self._at += zeros
        return self.take(zeros + 1) - 1

    def signed(self) -> int:
        value = self.code()
        return (value + 1) // 2 if value % 2 else -value // 2


def _format(unit: bytes) -> tuple[int, int, bool]:
    """Bits of a frame's number, bits before it, and whether gaps in the numbers are allowed."""
    bits = _Bits(unit[1:])
    profile, _, colours, planes = bits.take(8), bits.take(16), 1, 0
    bits.code()
    if profile in HIGH:
        if (colours := bits.code()) == 3:
            planes = 2 * bits.take(1)
        bits.code()
        bits.code()
        bits.take(1)
        if bits.take(1):
            for number in range(12 if colours == 3 else 8):
                if bits.take(1):
                    _skip_scaling(bits, 16 if number < 6 else 64)
    length = bits.code() + 4
    order = bits.code()
    if order == 0:
        bits.code()
    elif order == 1:
        bits.take(1)
        bits.code()
        bits.code()
        for _ in range(bits.code()):
            bits.code()
    bits.code()
    return length, planes, bool(bits.take(1))


def _skip_scaling(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last
