"""Frames of a video file or of a folder of numbered images, in presentation order, sampled by time stamp."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np

from foldwise.files import CaseError, code_hash
from foldwise.store import Memory
from foldwise.video.damage import Damage
from foldwise.video.images import image_files, images_from, rate_of, read_image
from foldwise.video.pixels import rgb_of
from foldwise.video.reader import pictures
from foldwise.video.stream import decoder_of, opened, outline, reason_of

Edit = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class VideoInfo:
    """A source's properties; for most containers read without decoding.

    Attributes:
        frames: their number.
        fps: mean frames per second.
        height: in pixels.
        width: in pixels.
        duration_s: length in seconds.
    """

    frames: int
    fps: float
    height: int
    width: int
    duration_s: float


@dataclass(frozen=True)
class Frame:
    """A frame.

    Attributes:
        number: its index in the source in presentation order, from 0; for images, the number in the name.
        time_s: its presentation time after the source's first frame; for images, after that of `first`.
        rgb: (height, width, 3) uint8.
    """

    number: int
    time_s: float
    rgb: np.ndarray


def probe(path: Path, *, rate: float | None = None) -> VideoInfo:
    """Read a source's size, and number and rate of the frames that it shows, by their time stamps.

    They are in the list of frames of MP4, MOV and AVI; of other containers, the packets are read.

    Args:
        path: a video file, or a folder of numbered images.
        rate: images per second of a folder.

    Raises:
        CaseError: the path does not exist, contains no video, or no frames.
    """
    if path.is_dir():
        return _probe_images(path, rate_of(path, rate))
    found = outline(path)
    count, span = len(found.stamps), found.stamps[-1] - found.stamps[0]
    # The last frame is shown as long as the others on average.
    length = float(span * found.base) * count / (count - 1) if span else 1 / found.nominal
    return VideoInfo(count, count / length, found.height, found.width, length)


def probed(path: Path, memory: Memory, *, rate: float | None = None) -> VideoInfo:
    """The same, read only if the source is not the one that is remembered: counting packets takes a while."""
    return VideoInfo(
        *memory.of_source(path, lambda: astuple(probe(path, rate=rate)), "video", rate, code_hash("foldwise"))
    )


def read_frames(
    path: Path,
    *,
    fps: float | None = None,
    edit: Edit | None = None,
    rate: float | None = None,
    first: int | None = None,
    damage: Damage | None = None,
) -> Iterator[Frame]:
    """Yield the frames of a source in presentation order; memory does not grow with its length.

    Sampling uses time stamps, so a variable frame rate is sampled evenly in time: for each multiple of
    1/`fps` the nearest frame is taken (the earlier of two equally near), each frame at most once.

    Args:
        path: a video file, or a folder of numbered images (`000016.jpg`, `video01-17.png`).
        fps: frames per second to keep; None: all.
        edit: applied to each kept frame (height, width, 3) uint8, e.g. a crop.
        rate: for a folder, images per second of their numbering.
        first: for a folder, the number at time 0; None: that of its first image.
        damage: where damaged frames are noted, or refused; by default they are refused.

    Raises:
        CaseError: not a video, no frames, frames of two sizes, or damage; the message gives the frame.
    """
    if fps is not None and fps <= 0:
        raise CaseError(f"{path}: cannot keep {fps} frames per second; give a positive number")
    if path.is_dir():
        stamped = _images(path, rate_of(path, rate), first)
    else:
        found = pictures(path, damage or Damage(path))
        stamped = (_Stamped(each.number, each.time, partial(rgb_of, each.frame)) for each in found)
    kept = stamped if fps is None else _thin(stamped, Fraction(fps).limit_denominator(100_000))
    size: tuple[int, ...] | None = None
    for one in kept:
        frame = Frame(one.number, float(one.time), one.rgb())
        # Before the edit, which may make them equal.
        size = size or frame.rgb.shape
        if frame.rgb.shape != size:
            raise CaseError(_sizes(path, f"frame {frame.number}", frame.rgb, size))
        yield frame if edit is None else replace(frame, rgb=edit(frame.rgb))


def sample_frames(
    path: Path, count: int, *, rate: float | None = None, drop: bool = False
) -> list[np.ndarray]:
    """A few frames (height, width, 3) uint8 spread over a source, found by seeking.

    If a container cannot seek, fewer are returned, all from its beginning.

    Args:
        path: as of `read_frames`.
        count: number of frames.
        rate: as of `read_frames`.
        drop: whether places that cannot be decoded are left out.

    Raises:
        CaseError: not a video, no frames, a place that cannot be decoded, or images of two sizes.
    """
    if path.is_dir():
        files = list(image_files(path).values())
        chosen = [files[n] for n in np.unique(np.linspace(0, len(files) - 1, count).astype(int))]
        images = [read_image(file) for file in chosen]
        for file, image in zip(chosen, images, strict=True):
            if image.shape != images[0].shape:
                raise CaseError(_sizes(path, file.name, image, images[0].shape))
        return images
    length = probe(path).duration_s
    sampled = []
    with opened(path) as (container, stream):
        base = stream.time_base or Fraction(1, 25)
        start = stream.start_time or 0
        decoder = decoder_of(stream)
        for part in range(count):
            at = length * part / count
            try:
                if part:
                    container.seek(int(start + at / base), stream=stream)
                    decoder.flush_buffers()
                found = (frame for packet in container.demux(stream) for frame in decoder.decode(packet))
                frame = next((frame for frame in found if not frame.is_corrupt), None)
            except av.error.FFmpegError as error:
                if drop:
                    continue
                reason = f"{at:.0f} s ({reason_of(error)})"
                raise CaseError(f"{path}: cannot be decoded at {reason}; copy or convert it again") from error
            if frame is not None:
                sampled.append(rgb_of(frame))
    if not sampled:
        raise CaseError(f"{path}: a video without frames")
    return sampled


@dataclass(frozen=True)
class _Stamped:
    """A frame that is converted to RGB only if it is kept."""

    number: int
    time: Fraction
    rgb: Callable[[], np.ndarray]


def _thin(frames: Iterator[_Stamped], fps: Fraction) -> Iterator[_Stamped]:
    """The frames nearest to 0, 1/fps, 2/fps, … in time."""
    # A frame is nearest to times between the midpoints to its neighbours; the last one's interval is
    # taken as symmetric.
    left = Fraction(-1)
    before: _Stamped | None = None
    for frame in frames:
        if before is not None:
            right = (before.time + frame.time) / 2
            if math.floor(right * fps) / fps > left:
                yield before
            left = right
        before = frame
    if before is not None and math.floor((2 * before.time - left) * fps) / fps > left:
        yield before


def _images(folder: Path, rate: float, first: int | None) -> Iterator[_Stamped]:
    files, start = images_from(folder, first)
    for number, path in files.items():
        time = (number - start) / Fraction(rate).limit_denominator(100_000)
        yield _Stamped(number, time, partial(read_image, path))


def _probe_images(folder: Path, rate: float) -> VideoInfo:
    files = image_files(folder)
    numbers = list(files)
    height, width = read_image(files[numbers[0]]).shape[:2]
    return VideoInfo(len(files), rate, height, width, (numbers[-1] - numbers[0] + 1) / rate)


def _sizes(path: Path, name: str, rgb: np.ndarray, earlier: Sequence[int]) -> str:
    return (
        f"{path}: {name} is {rgb.shape[1]}×{rgb.shape[0]}, earlier ones are {earlier[1]}×{earlier[0]}; "
        f"all frames must have the same size"
    )
