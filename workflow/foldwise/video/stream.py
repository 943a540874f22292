"""The video stream of a file, and the time stamps of its frames."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import av

from foldwise.files import CaseError, stamp_of
from foldwise.video.asf import is_complete
from foldwise.video.pixels import turned

# What decoders check. `explode`, without which some only log what is wrong, would make others refuse videos
# that were cut between key frames.
DETECT, EXPLODE = "crccheck+bitstream+buffer", ("mjpeg", "ffv1")
# Containers that list all of their frames, and all in which a gap may be intended.
LISTED = ("mov", "avi")
LOOSE = (*LISTED, "gif")
# Native decoders of these ignore transparency.
OPAQUE = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
# Share of steps between frames that are equal in a video of constant rate, even with gaps.
STEADY_SHARE = 0.8
# Packets from which a first picture must come.
TRIED = 300


class opened:  # noqa: N801
    """A container with its first video stream, closed at the end of the block."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> tuple[Any, Any]:
        if not self.path.is_file():
            raise CaseError(f"{self.path}: no such video file or folder of images")
        try:
            self.container = av.open(str(self.path))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise CaseError(f"{self.path}: not readable as a video ({reason_of(error)})") from error
        streams = self.container.streams.video
        # FFmpeg reads text as a video and renders it as terminal art.
        if not streams or self.container.format.name == "tty":
            self.container.close()
            raise CaseError(f"{self.path}: contains no video")
        codec = streams[0].codec_context
        codec.options = {"err_detect": DETECT + ("+explode" if codec.name in EXPLODE else "")}
        return self.container, streams[0]

    def __exit__(self, *_: object) -> None:
        self.container.close()


@dataclass(frozen=True)
class Outline:
    """The shown frames of a stream, without their pictures.

    Attributes:
        stamps: presentation times in order; those of decoding, if a container's list is used. Ticks.
        base: length of a tick. s.
        step: usual time between frames of a constant rate at which gaps are damage; else None. Ticks.
        nominal: frames per second by the header, for a video of one frame.
        height: of a frame as it is shown, in pixels.
        width: of a frame as it is shown, in pixels.
        reach: end of the last packet of any stream; 0 if the container's list is used. s.
    """

    stamps: list[int]
    base: Fraction
    step: int | None
    nominal: float
    height: int
    width: int
    reach: float


def outline(path: Path) -> Outline:
    """Read the time stamps of a stream: from the container's list of frames, else from all packets.

    Steps of a job that need them again do not read the packets again, unless the file has changed.
    """
    return _outline(path, stamp_of(path))


@lru_cache(maxsize=2)
def _outline(path: Path, _version: str) -> Outline:
    with opened(path) as (container, stream):
        kind = kind_of(container)
        listed = _shown(listed_frames(container, stream))
        stamps, picture, key = set(listed), None, None
        ends: dict[int, int] = {}  # of each stream, in its ticks
        decoder = decoder_of(stream)
        try:
            for tried, packet in enumerate(container.demux(stream) if listed else container.demux()):
                number = packet.stream_index
                if not listed and packet.pts is not None:
                    ends[number] = max(ends.get(number, 0), packet.pts + (packet.duration or 0))
                if number != stream.index:
                    continue
                if picture is None and tried < TRIED:
                    picture = first_picture(decoder, packet)
                if not listed and packet.size and not packet.is_discard:
                    stamps.add(stamp := packet.pts if packet.pts is not None else packet.dts or 0)
                    key = stamp if key is None and packet.is_keyframe else key
                if listed and (picture is not None or tried >= TRIED):
                    break
        except av.error.FFmpegError as error:
            if not stamps:
                raise CaseError(f"{path}: not readable as a video ({reason_of(error)})") from error
        if not stamps:
            raise CaseError(f"{path}: a video without frames")
        size = stream.codec_context.height, stream.codec_context.width
        if picture is not None:
            size = (picture.height, picture.width)[:: -1 if turned(picture) else 1]
        # What comes before the first key frame cannot be shown.
        ordered, base = sorted(each for each in stamps if key is None or each >= key), tick_of(stream)
        step = None if kind in LOOSE else _steady_step(ordered)
        gaps = step and ordered[-1] - ordered[0] > (len(ordered) - 0.5) * step
        if gaps and kind == "asf" and is_complete(path):
            step = None
        rate = stream.average_rate
        if step and rate and abs(1 / rate / base - 2 * step) < Fraction(step, 5):
            # Fields in packets of their own.
            ordered, step = ordered[::2], 2 * step
        reach = max(
            (float(end * (container.streams[n].time_base or 0)) for n, end in ends.items()), default=0.0
        )
        return Outline(ordered, base, step, float(rate or stream.guessed_rate or 25), *size, reach)


def decoder_of(stream: Any) -> Any:
    """The decoder of a stream, one that knows transparency if the stream has it."""
    name = OPAQUE.get(stream.codec_context.name)
    if name and stream.metadata.get("alpha_mode") == "1" and name in av.codecs_available:
        return av.CodecContext.create(name, "r")
    return stream.codec_context


def first_picture(decoder: Any, packet: Any) -> Any:
    """The first sound picture that a packet gives, or None."""
    try:
        return next((frame for frame in decoder.decode(packet) if not frame.is_corrupt), None)
    except av.error.FFmpegError:
        return None


def kind_of(container: Any) -> str:
    """The short name of a container's format, e.g. mov for MP4."""
    return str(container.format.name).split(",")[0]


def tick_of(stream: Any) -> Fraction:
    """The unit of a stream's time stamps. s."""
    return Fraction(stream.time_base or Fraction(1, 25))


def reason_of(error: Exception) -> str:
    """Only FFmpeg's words: the exception's text repeats number and path."""
    return str(getattr(error, "strerror", None) or error)


def listed_frames(container: Any, stream: Any) -> list[Any]:
    """The entries of a container's own list of frames; empty if it has no complete one."""
    entries, kind = list(stream.index_entries), kind_of(container)
    if kind not in LISTED or not stream.frames or not entries:
        return []
    # An AVI that was cut off lost its list; frames that its encoder dropped are counted, but not listed.
    if kind == "avi" and entries[-1].timestamp + 1 < 0.9 * stream.frames:
        return []
    return [entry for entry in entries if entry.size]


def _shown(entries: list[Any]) -> list[int]:
    """Stamps of the listed frames that an edit list does not hide.

    They are those of decoding, in which hidden frames may lie between shown ones; their time is left out.
    """
    found: list[int] = []
    hidden = 0
    key = next((n for n, entry in enumerate(entries) if entry.is_keyframe), 0)
    entries = entries[key:]  # nothing before it can be shown
    for entry, after in zip_longest(entries, entries[1:]):
        if not entry.is_discard:
            found.append(entry.timestamp - hidden)
        elif found and after is not None:
            hidden += after.timestamp - entry.timestamp
    return found


def _steady_step(stamps: list[int]) -> int | None:
    """The usual time between frames, if most are that far apart."""
    steps = sorted(after - before for before, after in pairwise(stamps))
    if not steps:
        return None
    usual = steps[len(steps) // 2]
    # Stamps are rounded to ticks.
    equal = sum(abs(step - usual) <= max(1, usual // 10) for step in steps)
    return usual if equal >= STEADY_SHARE * len(steps) else None
