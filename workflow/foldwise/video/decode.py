"""Frames of a video file or of a folder of numbered images, in presentation order, sampled by time stamp."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from foldwise.files import CaseError, code_hash
from foldwise.store import Memory
from foldwise.video.sheet import IMAGE_SUFFIXES

# Remuxing may change the count by a frame; an interrupted transfer lacks many.
MISSING_SHARE = 0.02
# Share of equal steps between frames in a video of constant rate, even with gaps.
STEADY_SHARE = 0.9
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
    """Read a source's size, rate and length; if the container does not count its frames, packets are counted.

    Args:
        path: a video file, or a folder of numbered images.
        rate: images per second of a folder.

    Raises:
        CaseError: the path does not exist, contains no video, or no frames.
    """
    if path.is_dir():
        return _probe_images(path, _rate_of(path, rate))
    with _opened(path) as (container, stream):
        count, length = stream.frames, _seconds(stream.duration, stream.time_base)
        nominal = float(stream.average_rate or stream.guessed_rate or 0)
        if not count or length is None:
            # The length in such a container is often an estimate; its packets are exact.
            try:
                sizes = [(packet.size, packet.pts) for packet in container.demux(stream)]
            except av.error.FFmpegError as error:
                raise CaseError(f"{path}: not readable as a video ({_reason(error)})") from error
            count = count or sum(size > 0 for size, _ in sizes)
            stamps = [stamp for _, stamp in sizes if stamp is not None]
            if len(stamps) > 1:
                span = (max(stamps) - min(stamps)) * len(stamps) / (len(stamps) - 1)
                length = float(span * (stream.time_base or 1))
        if not count:
            raise CaseError(f"{path}: a video without frames")
        length = length or (count / nominal if nominal else 0.0)
        fps = count / length if length else nominal
        height, width = stream.codec_context.height, stream.codec_context.width
        return VideoInfo(count, fps, height, width, length)


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
    first: int = 0,
) -> Iterator[Frame]:
    """Yield the frames of a source in presentation order; memory does not grow with its length.

    Sampling uses time stamps, so a variable frame rate is sampled evenly in time: for each multiple of
    1/`fps` the nearest frame is taken (the earlier of two equally near), each frame at most once.

    Args:
        path: a video file, or a folder of numbered images (`000016.jpg`, `video01-17.png`).
        fps: frames per second to keep; None: all.
        edit: applied to each kept frame (height, width, 3) uint8, e.g. a crop.
        rate: for a folder, images per second of their numbering.
        first: for a folder, the number at time 0.

    Raises:
        CaseError: not a video, no frames, damaged frames, frames of two sizes, or a source that ends early;
            the message gives the last frame.
    """
    if fps is not None and fps <= 0:
        raise CaseError(f"{path}: cannot keep {fps} frames per second; give a positive number")
    stamped = _images(path, _rate_of(path, rate), first) if path.is_dir() else _video(path)
    kept = stamped if fps is None else _thin(stamped, Fraction(fps).limit_denominator(100_000))
    size: tuple[int, ...] | None = None
    for one in kept:
        frame = Frame(one.number, float(one.time), one.rgb())
        # Before the edit, which may make them equal.
        size = size or frame.rgb.shape
        if frame.rgb.shape != size:
            raise CaseError(_sizes(path, f"frame {frame.number}", frame.rgb, size))
        yield frame if edit is None else replace(frame, rgb=edit(frame.rgb))


def sample_frames(path: Path, count: int, *, rate: float | None = None) -> list[np.ndarray]:
    """A few frames (height, width, 3) uint8 spread over a source, found by seeking.

    If a container cannot seek, fewer are returned, all from its beginning.

    Raises:
        CaseError: not a video, no frames, a source that ends early, or images of two sizes.
    """
    if path.is_dir():
        files = list(image_files(path).values())
        chosen = [files[n] for n in np.unique(np.linspace(0, len(files) - 1, count).astype(int))]
        images = [_opener(file)() for file in chosen]
        for file, image in zip(chosen, images, strict=True):
            if image.shape != images[0].shape:
                raise CaseError(_sizes(path, file.name, image, images[0].shape))
        return images
    length = probe(path).duration_s
    sampled = []
    with _opened(path) as (container, stream):
        base = stream.time_base or Fraction(1, 25)
        start = stream.start_time or 0
        for part in range(count):
            try:
                if part:
                    container.seek(int(start + length * part / count / base), stream=stream)
                frame = next(container.decode(stream), None)
            except av.error.FFmpegError as error:
                at = f"{length * part / count:.0f} s ({_reason(error)})"
                raise CaseError(f"{path}: cannot be decoded at {at}; copy or convert it again") from error
            if frame is None and not part:
                raise CaseError(f"{path}: a video without frames")
            if frame is not None:
                sampled.append(_converter(frame)())
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


def _video(path: Path) -> Iterator[_Stamped]:
    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        promised, base = stream.frames, stream.time_base or Fraction(1, 25)
        step = 1 / Fraction(stream.average_rate or stream.guessed_rate or 25)
        number, packets, damaged = 0, 0, 0
        steps: list[Fraction] = []
        start: Fraction | None = None
        last = Fraction(-1)
        try:
            for packet in container.demux(stream):
                packets += bool(packet.size)
                for frame in packet.decode():
                    damaged += frame.is_corrupt
                    stamp = frame.pts * base if frame.pts is not None else last + step
                    start = stamp if start is None else start
                    # Broken muxers repeat or lose stamps; the presentation order is what matters.
                    time = max(stamp - start, last) if number else Fraction(0)
                    steps.append(time - last)
                    last = time
                    yield _Stamped(number, time, _converter(frame))
                    number += 1
        except av.error.FFmpegError as error:
            raise CaseError(_broken(path, number, promised, _reason(error))) from error
        if not number:
            raise CaseError(f"{path}: a video without frames")
        # Matroska counts no frames, and gives the length of its longest stream.
        known = not promised and len(container.streams) == 1 and container.duration
        length = container.duration / av.time_base if known else 0.0
        short = float(last + step) < length * (1 - MISSING_SHARE) - 1
        if short or packets < promised * (1 - MISSING_SHARE) - 1:
            raise CaseError(_broken(path, number, promised, "the file ends"))
        if damaged:
            raise CaseError(
                f"{path}: {damaged} of {number} decoded frames are damaged; copy the file again, or cut the "
                f"damaged part out and convert it"
            )
        # A container that counts its frames was checked above; its gaps are intended.
        if not promised and (gap := _missing(steps[1:])):
            raise CaseError(
                f"{path}: {gap}; copy the file again. If the gaps are intended, remux it to MP4, which "
                f"counts its frames"
            )


def _missing(steps: Sequence[Fraction]) -> str:
    """The frames that seem missing from a video of otherwise constant rate; empty if none."""
    if not steps:
        return ""
    usual = sorted(steps)[len(steps) // 2]
    gaps = [round(step / usual) - 1 if usual else 0 for step in steps]
    # Stamps are rounded to the container's clock; for a variable rate nothing can be inferred.
    if sum(gap == 0 for gap in gaps) < STEADY_SHARE * len(gaps) or sum(gaps) <= MISSING_SHARE * len(gaps) + 1:
        return ""
    first = next(number for number, gap in enumerate(gaps) if gap > 0)
    return f"about {sum(gaps)} frames are missing, the first at {float(sum(steps[:first])):.2f} s"


def _converter(frame: Any) -> Callable[[], np.ndarray]:
    def rgb() -> np.ndarray:
        if frame.format.has_palette or any(part.is_alpha for part in frame.format.components):
            return _on_black(frame.to_ndarray(format="rgba"))
        return np.asarray(frame.to_ndarray(format="rgb24"))

    return rgb


def _on_black(rgba: np.ndarray) -> np.ndarray:
    """A transparent picture on black: fully transparent pixels may hold white, or noise."""
    opaque = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * opaque + 127) // 255).astype(np.uint8)


def _rgb(image: Image.Image, path: Path) -> np.ndarray:
    """Pixels (height, width, 3) uint8 of an image.

    Raises:
        CaseError: more than 8 bits per channel, which Pillow would clip.
    """
    if image.mode[0] in "IF":
        raise CaseError(f"{path}: an image with more than 8 bits ({image.mode}); convert it to 8 bits")
    if image.has_transparency_data:
        return _on_black(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))


def _broken(path: Path, number: int, promised: int, reason: str) -> str:
    if not number:
        return f"{path}: no frame can be decoded ({reason}); is it a complete video file?"
    of = f" of {promised}" if promised else ""
    return f"{path}: decoding stops after frame {number - 1}{of} ({reason}); copy or convert the file again"


class _opened:  # noqa: N801
    """A container with its first video stream, closed at the end of the block."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> tuple[Any, Any]:
        if not self.path.is_file():
            raise CaseError(f"{self.path}: no such video file or folder of images")
        try:
            self.container = av.open(str(self.path))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise CaseError(f"{self.path}: not readable as a video ({_reason(error)})") from error
        streams = self.container.streams.video
        # FFmpeg reads text as a video and renders it as terminal art.
        if not streams or self.container.format.name == "tty":
            self.container.close()
            raise CaseError(f"{self.path}: contains no video")
        return self.container, streams[0]

    def __exit__(self, *_: object) -> None:
        self.container.close()


def image_files(folder: Path) -> dict[int, Path]:
    """Images of a folder by the number in their names (the last number, if there are several), in this order.

    Raises:
        CaseError: no images, a name without a number, or two of one number.
    """
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        numbers = re.findall(r"\d+", path.stem)
        if not numbers:
            raise CaseError(f"{path}: no number in the name; images of a video must be numbered")
        number = int(numbers[-1])
        if number in found:
            raise CaseError(f"{folder}: {found[number].name} and {path.name} have the same number")
        found[number] = path
    if not found:
        raise CaseError(f"{folder}: a video without frames: contains no images ({', '.join(IMAGE_SUFFIXES)})")
    return dict(sorted(found.items()))


def _images(folder: Path, rate: float, first: int) -> Iterator[_Stamped]:
    files = image_files(folder)
    if min(files) < first:
        raise CaseError(
            f"{folder}: {files[min(files)].name} comes before the first image's number {first} "
            f"(data.first_image); number the images from {first}"
        )
    for number, path in files.items():
        time = (number - first) / Fraction(rate).limit_denominator(100_000)
        yield _Stamped(number, time, _opener(path))


def _opener(path: Path) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        try:
            with Image.open(path) as image:
                return _rgb(image, path)
        except (OSError, ValueError, SyntaxError) as error:
            raise CaseError(f"{path}: not readable as an image ({error})") from error

    return read


def _probe_images(folder: Path, rate: float) -> VideoInfo:
    files = image_files(folder)
    numbers = list(files)
    try:
        with Image.open(files[numbers[0]]) as image:
            height, width = _rgb(image, files[numbers[0]]).shape[:2]
    except (OSError, ValueError, SyntaxError) as error:
        raise CaseError(f"{files[numbers[0]]}: not readable as an image ({error})") from error
    return VideoInfo(len(files), rate, height, width, (numbers[-1] - numbers[0] + 1) / rate)


def find_border(
    frames: Sequence[np.ndarray], dark: int = 24, share: float = 0.02
) -> tuple[int, int, int, int]:
    """The picture within a black border: top, bottom, left, right as in a slice.

    Args:
        frames: (height, width, 3) uint8 from all parts of the video.
        dark: largest value of a black pixel.
        share: share of a row's or column's pixels that must be brighter at some time.
    """
    height, width = frames[0].shape[:2]
    bright = np.max([frame.max(2) for frame in frames], axis=0) > dark
    edges = []
    for axis in (1, 0):
        lines = np.flatnonzero(bright.mean(axis) > share)
        edges += [int(lines[0]), int(lines[-1]) + 1] if len(lines) else [0, (height, width)[1 - axis]]
    top, bottom, left, right = edges
    # A video that is dark almost everywhere has no border to crop.
    if (bottom - top) * (right - left) < height * width / 4:
        return 0, height, 0, width
    return top, bottom, left, right


def _rate_of(path: Path, rate: float | None) -> float:
    if path.is_dir() and (rate is None or rate <= 0):
        raise CaseError(f"{path}: a folder of images needs a rate in images per second")
    return rate or 0.0


def _seconds(ticks: int | None, base: Fraction | None) -> float | None:
    return float(ticks * base) if ticks and base else None


def _reason(error: Exception) -> str:
    """Only FFmpeg's words: the exception's text repeats number and path."""
    return str(getattr(error, "strerror", None) or error)


def _sizes(path: Path, name: str, rgb: np.ndarray, earlier: Sequence[int]) -> str:
    return (
        f"{path}: {name} is {rgb.shape[1]}×{rgb.shape[0]}, earlier ones are {earlier[1]}×{earlier[0]}; "
        f"all frames must have the same size"
    )
