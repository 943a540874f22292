"""The pictures of a video stream in presentation order, with what is damaged among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from foldwise.files import CaseError
from foldwise.video.damage import Damage
from foldwise.video.h264 import FrameNumbers
from foldwise.video.stream import (
    LOOSE,
    decoder_of,
    kind_of,
    listed_frames,
    opened,
    outline,
    reason_of,
    tick_of,
)

# Codecs with packets that are not shown, except in MP4. A transport stream may have two packets per frame.
UNPAIRED, FIELDS = ("vp8", "vp9"), ("mpegts", "mpeg")
# Containers without a time stamp for each frame: after damage the times of all that follow are unknown.
UNTIMED = ("avi", "mpeg", "ogg", "mxf")
# A count in a header may be wrong by a few frames; an interrupted transfer lacks many.
MISSING_SHARE = 0.02
# Codecs reorder at most so many frames; where a stream was cut, some of the last ones may be missing.
REORDERED, CUT = 16, 8
B_FRAME = 3
GIF_END, GIF_EXTENSION, GIF_IMAGE = b";!,"
INTENDED = "; if the gaps are intended, remux the file to MP4"


@dataclass(frozen=True)
class Picture:
    """A decoded frame.

    Attributes:
        number: index in the whole recording, from 0, lost frames included.
        time: after the first frame. s.
        frame: of PyAV.
    """

    number: int
    time: Fraction
    frame: Any


def pictures(path: Path, damage: Damage) -> Iterator[Picture]:
    """Decode a video's frames; damaged ones, and those decoded from them, are refused or left out.

    Raises:
        CaseError: nothing can be decoded, or damage that is refused.
    """
    # Frames come in order of presentation, but depend on each other in order of decoding: what follows damage
    # is sound from the next key frame on, and B-frames just before it may have been decoded from it, too.
    held: list[Picture] = []
    spoilt = False
    with opened(path) as (container, stream):
        reader = _Reader(path, container, stream, damage)
        for frame, stamp in reader.frames():
            lost = reader.lost_before(stamp) > 0
            broken = bool(frame.is_corrupt) or stamp in reader.corrupt
            picture = reader.placed(frame, stamp)
            if lost or broken:
                damage.follows(len(held))
                held = []
            before, spoilt = spoilt, broken or ((spoilt or lost) and not frame.key_frame)
            if broken and not before:
                what = (
                    "decoded from frames that are lost"
                    if stamp in reader.orphans
                    else "its picture is damaged"
                )
                damage.add(picture.number, float(picture.time), what)
            elif spoilt:
                damage.follows(1)
            if spoilt:
                continue
            if damage.drop and frame.pict_type == B_FRAME:
                held.append(picture)
                if len(held) > REORDERED:
                    yield held.pop(0)
                continue
            yield from held
            held = []
            yield picture
        yield from held
        reader.finish()


class _Reader:
    """Decodes packets, and compares the frames with the stamps of packets.

    Attributes:
        corrupt: stamps of packets that are damaged.
        orphans: of these, those before which packets are missing.
    """

    def __init__(self, path: Path, container: Any, stream: Any, damage: Damage) -> None:
        self.path, self.container, self.stream, self.damage = path, container, stream, damage
        self.kind, self.tick = kind_of(container), tick_of(stream)
        self.untimed = container.format.long_name if self.kind in UNTIMED else ""
        known = None if self.kind in LOOSE else outline(path)
        self.step = known.step if known else None
        self.end, self.reach = (known.stamps[-1], known.reach) if known else (0, 0.0)
        hidden = stream.codec_context.codec.canonical_name in UNPAIRED and self.kind != "mov"
        self.paired = not hidden and self.kind not in FIELDS
        stream.thread_type = "AUTO"
        self.corrupt, self.orphans, self.waiting = set[int](), set[int](), set[int]()
        context = stream.codec_context
        self.numbers = FrameNumbers(context.extradata) if context.name == "h264" else None
        self.start, self.last, self.number, self.packets = 0, 0, -1, 0
        # First stamp of a stream that begins with a key frame; why packets gave no frame, or reading ended.
        self.key: int | None = None
        self.failed = self.ended = ""

    def frames(self) -> Iterator[tuple[Any, int]]:
        """Frames with their stamps; only those whose stamps increase."""
        begun = False
        for frame in self._decoded():
            # In AVI stamps are those of decoding; the last frames have none.
            stamp = frame.pts if self.kind != "avi" else self.last + 1 if frame.dts is None else frame.dts
            if not begun and stamp is not None:
                if frame.is_corrupt and self.key is None:
                    continue  # refers to what was cut off
                begun = True
                self.start = stamp if self.key is None or self.kind == "avi" else min(stamp, self.key)
                self.last = self.start - (self.step or 1)
                self.waiting = {each for each in self.waiting if each >= self.start}
                self.failed = self.failed if self.start < stamp else ""
            if stamp is None or stamp <= self.last:
                wrong = "it has no time stamp" if stamp is None else "its time stamp repeats or goes back"
                self.damage.add(self.number + 1, self._seconds(self.last), wrong)
                self.number += self.step is None
                continue
            yield frame, stamp

    def lost_before(self, stamp: int) -> int:
        """The number of frames that are lost between the last frame and this stamp."""
        between = sorted(each for each in self.waiting if self.last < each < stamp)
        if self.step:
            lost = round((stamp - self.last) / self.step) - 1
            cut = self.stream.codec_context.has_b_frames and self.end - self.last <= CUT * self.step
            lost = 0 if cut and not between else lost
        else:
            lost = len(between) if self.paired else int(bool(self.failed))
        if lost:
            first = self.last + self.step if self.step else (between or [stamp])[0]
            what, hint = (f"cannot be decoded ({self.failed})", "") if self.failed else ("lost", INTENDED)
            # In an AVI a packet's place is its time; packets that are not even there are noticed at the end.
            untimed = "" if self.kind == "avi" else self.untimed
            self.damage.add(self.number + 1, self._seconds(first), what, lost, hint=hint, untimed=untimed)
            self.failed = ""
        self.number += lost
        return lost

    def placed(self, frame: Any, stamp: int) -> Picture:
        """The next frame with its number and time."""
        self.number, self.last = self.number + 1, stamp
        self.waiting = {each for each in self.waiting if each > stamp}
        return Picture(self.number, (stamp - self.start) * self.tick, frame)

    def finish(self) -> None:
        """Note what is lost at the end.

        Raises:
            CaseError: nothing was decoded, or damage that is refused, or that has no place in time.
        """
        if self.number < 0:
            reason = self.failed or self.ended
            if not reason:
                raise CaseError(f"{self.path}: a video without frames")
            raise CaseError(f"{self.path}: no frame can be decoded ({reason}); is it a complete video file?")
        listed = len(listed_frames(self.container, self.stream))
        promised = listed or self.stream.frames
        allowed = 0 if listed else MISSING_SHARE * promised + 1
        lost = promised - self.packets if promised - self.packets > allowed else 0
        if not promised:
            lost = self._short()
        if self.kind == "gif" and not gif_ends(self.path.read_bytes()):
            lost = max(lost, 1)
        ahead = len([each for each in self.waiting if each > self.last + (self.step or 0)])
        if self.paired and ahead:
            lost += ahead
        if lost or self.failed or self.ended:
            what = self.ended or self.failed or "the file ends early or has holes"
            of = f" of {promised}" if promised else ""
            place = f"decoding stops after frame {self.number}{of} ({what})"
            self.damage.add(
                self.number + 1, self._seconds(self.last), place, max(lost, 1), untimed=self.untimed
            )

    def _short(self) -> int:
        """Frames that Matroska's length promises after the last packet of any stream."""
        length = self.container.duration / av.time_base if self.container.duration else 0
        if not self.reach or length * (1 - MISSING_SHARE) - 1 <= self.reach:
            return 0
        usual = self.step or (self.last - self.start) / max(1, self.number)
        return max(1, round((length - self.reach) / float(usual * self.tick)))

    def _seconds(self, stamp: int) -> float:
        return float((stamp - self.start) * self.tick)

    def _decoded(self) -> Iterator[Any]:
        decoder = decoder_of(self.stream)
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                self.ended = reason_of(error)
                yield from decoder.decode(None)
                return
            if packet is None:
                return
            stamp = packet.dts if self.kind == "avi" else packet.pts
            if packet.size:
                if not self.packets and packet.is_keyframe and not packet.is_discard:
                    self.key = stamp
                self.packets += 1
                # Of hidden ones, too.
                orphan = self.numbers and self.numbers.skips(bytes(packet), key=packet.is_keyframe)
                if stamp is not None and not packet.is_discard:
                    self.waiting.add(stamp)
                    if orphan:
                        self.orphans.add(stamp)
                    if packet.is_corrupt or stamp in self.orphans:
                        self.corrupt.add(stamp)
            try:
                found = decoder.decode(packet)
            except av.error.FFmpegError as error:
                self.failed = reason_of(error)
                continue
            yield from found


def gif_ends(data: bytes) -> bool:
    """Whether the blocks of a GIF lead from its header to the end mark, with next to nothing after it.

    Args:
        data: the whole file.
    """
    try:
        at = 13 + _colours(data[10])
        while (mark := data[at]) != GIF_END:
            if mark == GIF_EXTENSION:
                at += 2
            elif mark == GIF_IMAGE:
                at += 11 + _colours(data[at + 9])
            else:
                return False
            while data[at]:
                at += 1 + data[at]
            at += 1
    except IndexError:
        return False
    return len(data[at + 1 :].strip(b"\0")) <= MISSING_SHARE * len(data)


def _colours(flags: int) -> int:
    """Bytes of a table of colours."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
