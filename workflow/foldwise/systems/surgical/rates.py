"""At which rate an annotation counts its frames, found from the video that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foldwise.files import CaseError
from foldwise.systems.surgical.annotations import UNKNOWN, Track
from foldwise.video.decode import VideoInfo
from foldwise.video.images import image_files

# Frames per second, or None: the frames of the video itself, or the numbers of the images.
Rate = float | None
# Rates that are tried after None: Cholec80's, one per second, and what cameras and extracted frames have.
# Those of film and NTSC video are not among them: nobody numbers rows by them except by the video's own
# frames, and 24 per second is too close to 25: rows at 25 that end a little early would be taken for it.
COMMON = (25.0, 1.0, 30.0, 50.0, 60.0, 10.0, 5.0)
# Rates closer than NTSC video's 29.97 and 30 per second.
NTSC = 0.002
# By this much an annotation and its video may differ in length without a word. s.
SLACK_S = 1.0
# But not by more than this share, half of what separates 24 and 25 per second.
NEAR = 0.02
# An annotation of less than half of its video is more often one at another rate.
COVERED = 0.5
# The end of a video that is cut without encoding again, or whose stamps are rounded, is off by a frame.
ROUNDED = 0.01


@dataclass(frozen=True)
class Timeline:
    """The frames of a video, or those that are kept of it.

    Attributes:
        numbers: (n,) int64 in its own numbering.
        times: (n,) after time 0. s.
        end: the number after the last frame's.
        end_s: the end of the last frame.
        step_s: from a frame to the next.
        images: a folder, whose number of frames is certain.
    """

    numbers: np.ndarray
    times: np.ndarray
    end: int
    end_s: float
    step_s: float
    images: bool

    @classmethod
    def of(cls, video: Path, info: VideoInfo, first: int) -> Timeline:
        """All frames of a video; those of a file are taken as evenly spaced.

        Args:
            video: file, or folder of images.
            info: of the video.
            first: number of the image at time 0.
        """
        step = 1 / info.fps if info.fps else 0.0
        if not video.is_dir():
            numbers = np.arange(info.frames)
            return cls(numbers, numbers * step, info.frames, info.duration_s, step, images=False)
        numbers = np.array(list(image_files(video)), np.int64)
        times = (numbers - first) * step
        return cls(numbers, times, int(numbers[-1]) + 1, float(times[-1]) + step, step, images=True)

    def kept(self, fps: float | None) -> Timeline:
        """About the frames that are kept at a rate."""
        if fps is None or self.images or not self.step_s:
            return self
        places = np.rint(np.arange(0, self.end_s, 1 / fps) / self.step_s).astype(np.int64)
        chosen = np.unique(np.minimum(places, len(self.numbers) - 1))
        return self.at(self.numbers[chosen], self.times[chosen])

    def at(self, numbers: np.ndarray, times: np.ndarray) -> Timeline:
        """Other frames of the same video."""
        return Timeline(numbers, times, self.end, self.end_s, self.step_s, self.images)

    def rows(self, rate: Rate) -> np.ndarray:
        """The frames' numbers in an annotation, (n,) int64."""
        return rows_at(self.numbers, self.times, rate)

    def stop(self, rate: Rate) -> float:
        """The video's end in the numbering of an annotation."""
        return self.end if rate is None else self.end_s * rate

    def seconds(self, row: float, rate: Rate) -> float:
        """The time of a row."""
        if rate is not None:
            return row / rate
        return self.end_s - (self.end - row) * self.step_s

    def per_second(self, rate: Rate) -> float:
        """Rows per second."""
        return rate if rate is not None else 1 / self.step_s if self.step_s else 1.0


def rows_at(numbers: np.ndarray, times: np.ndarray, rate: Rate) -> np.ndarray:
    """Numbers of frames in an annotation's numbering, (n,) int64.

    Args:
        numbers: (n,) in the video's own numbering.
        times: (n,). s.
        rate: of the annotation.
    """
    return numbers if rate is None else np.rint(times * rate).astype(np.int64)


def fitting(tracks: Mapping[Path, Track], video: Timeline) -> list[Rate]:
    """The rates at which all annotations of a video cover it, those that fit best; often one, perhaps none.

    A rate fits if the rows' end agrees with the video's: best if the rows are exactly those of the frames
    (level 0), next if the last row is that of the video's end (1), and then if both ends differ by less than
    a second and 2 % (2); rows by the video's own frames, or at about their rate, may end up to 2 % before it.
    Of two annotations, the worse one counts.

    Args:
        tracks: by file.
        video: all of its frames.
    """
    return _fitting(tracks, video)[1]


def _fitting(tracks: Mapping[Path, Track], video: Timeline) -> tuple[int, list[Rate]]:
    """The level of the rates that fit best, and these rates."""
    fits: dict[tuple[int, int], list[Rate]] = {}
    for rate in candidates(video):
        levels = [_level(track, video, rate) for track in tracks.values()]
        known = [level for level in levels if level is not None]
        if len(known) == len(levels):
            fits.setdefault((max(known), sum(known)), []).append(rate)
    return (min(fits)[0], fits[min(fits)]) if fits else (-1, [])


def candidates(video: Timeline) -> list[Rate]:
    """The rates that are tried; the first of several that fit is taken."""
    rates: list[Rate] = [None]
    if video.images and video.step_s and 1 / video.step_s not in COMMON:
        rates.append(1 / video.step_s)
    return [*rates, *COMMON]


def found_rate(tracks: Mapping[Path, Track], video: Timeline, kept: Timeline) -> Rate:
    """The rate of a video's annotations.

    Args:
        tracks: by file, at least one.
        video: all of its frames.
        kept: those that get labels.

    Raises:
        CaseError: no rate fits, or two that give some frames different labels.
    """
    level, rates = _fitting(tracks, video)
    if not rates:
        raise CaseError(_none(tracks, video))
    if level == 2 and None not in rates and _partial(tracks, video):
        rates = [*rates, None]
    for rate in rates[1:]:
        apart = abs(video.per_second(rate) / video.per_second(rates[0]) - 1)
        if level == 1 and rates[0] is None and 0 < apart < NTSC:
            continue  # both end with the same row, so they differ by a row at most
        for path, track in tracks.items():
            first, other = (track.at(kept.rows(one)) for one in (rates[0], rate))
            if different := int((first != other).reshape(len(first), -1).any(1).sum()):
                ends = " and ".join(f"{video.seconds(track.end, one):.1f}" for one in (rates[0], rate))
                raise CaseError(
                    f"{path}: its rows fit the video at {text(rates[0])} and at {text(rate)}, which give "
                    f"{different} of {len(first)} frames other labels; they end after {ends} s of "
                    f"{video.end_s:.1f} s; set data.annotation_fps to {_value(rates[0])} or {_value(rate)}"
                )
    return rates[0]


def judged(path: Path, track: Track, video: Timeline, kept: Timeline, rate: Rate) -> list[tuple[str, bool]]:
    """Problems of an annotation at a rate, each with whether it is only a warning.

    Args:
        path: its file.
        track: its rows.
        video: all frames of the video.
        kept: those that get labels.
        rate: at which it is read.
    """
    stop, last = video.stop(rate), int(track.frames[-1])
    # Rows without an image are found one by one.
    late = max(1.0, SLACK_S * video.per_second(rate)) if not video.images else np.inf
    if last >= stop + late:
        first = int(track.frames[np.searchsorted(track.frames, stop, side="left")])
        problem = (
            f"{path}: row for frame {first}, but the video ends after {video.end_s:.0f} s (frame "
            f"{stop - 1:.0f} at {text(rate)}): {_counted(track, video)}{_better(path, track, video)}"
        )
        return [(problem, False)]
    ends = video.seconds(track.end, rate)
    covered = track.end / stop if stop > 0 else 1.0
    if covered < COVERED:
        problem = (
            f"{path}: covers {100 * covered:.0f} % of the video: its rows end after {ends:.1f} s of "
            f"{video.end_s:.0f} s at {text(rate)}; {_counted(track, video)}{_better(path, track, video)}"
        )
        return [(problem, False)]
    found: list[tuple[str, bool]] = []
    if not video.images and track.frames[0] == track.step:
        after = f"{track.step / video.per_second(rate):.3g} s"
        counted = f"its rows begin with frame {track.step}, not 0, at {text(rate)}"
        found.append(
            (f"{path}: {counted}; if it counts from 1, its labels are {after} late: renumber it", True)
        )
    if (lost := video.end_s - ends) > SLACK_S:
        found.append((f"{path}: ends {lost:.0f} s before the video; later frames are left out", True))
    return found + _labelled(path, track, kept, rate)


def text(rate: Rate) -> str:
    """A rate in words."""
    return "the video's own frames" if rate is None else f"{rate:g} per second"


def _labelled(path: Path, track: Track, kept: Timeline, rate: Rate) -> list[tuple[str, bool]]:
    """Whether rows and frames meet."""
    rows = kept.rows(rate)
    within = rows[(rows >= track.frames[0]) & (rows < track.end)]
    if not len(within):
        return [(f"{path}: no kept frame has a row; see data.annotation_fps and data.first_image", False)]
    known = int((track.at(within).reshape(len(within), -1) != UNKNOWN).all(1).sum())
    apart = float(np.median(np.diff(rows))) if len(rows) > 1 else 0.0
    steps = f"its rows are usually {track.step} frames apart, the kept frames {apart:g} (at {text(rate)})"
    if known < COVERED * len(within):
        text_ = f"{path}: {known} of {len(within)} kept frames between its first and last row have a row; "
        return [(f"{text_}{steps}; add rows, or check data.annotation_fps", False)]
    ratio = apart / track.step
    # Rows much denser than frames always have one near; others should meet frames regularly.
    if apart and track.step > 1 and ratio < 10 and abs(ratio - round(ratio)) > 0.01:
        away = f"up to {track.step // 2} frame(s) away"
        return [(f"{path}: {steps}; each frame takes the nearest row, {away}", True)]
    return []


def _level(track: Track, video: Timeline, rate: Rate) -> int | None:
    """How well an annotation fits: 0 is best; None: not at all."""
    if _denser(track, video, rate):
        return None  # the video may have been cut, so such a rate must be set
    stop, per_frame = video.stop(rate), video.per_second(rate) * video.step_s
    if np.array_equal(np.unique(video.rows(rate)), track.frames):
        return 0
    off = ROUNDED if video.images else per_frame
    if int(track.frames[-1]) < stop + off and track.end >= stop - off:
        return 1
    slack = max(per_frame, min(SLACK_S * video.per_second(rate), NEAR * stop))
    before = max(slack, NEAR * stop) if abs(per_frame - 1) < NEAR else slack
    return 2 if track.end >= stop - before and track.frames[-1] <= stop + slack else None


def _partial(tracks: Mapping[Path, Track], video: Timeline) -> bool:
    """Whether rows by the own frames would cover most of the video: another rate may fit by chance."""
    covered = [track.end / video.stop(None) for track in tracks.values()]
    return all(COVERED <= share < 1 - NEAR for share in covered)


def _denser(track: Track, video: Timeline, rate: Rate) -> bool:
    """Whether a film has fewer frames than rows at a rate."""
    return not video.images and video.per_second(rate) / track.step * video.step_s > 1 + NEAR


def _counted(track: Track, video: Timeline) -> str:
    rows = f"{len(track.frames)} rows, the last for frame {track.frames[-1]}"
    return f"{rows}, for {len(video.numbers)} frames of the video"


def _better(path: Path, track: Track, video: Timeline) -> str:
    """What to set, if another rate would fit."""
    rates = fitting({path: track}, video)
    if not rates:
        return "; is it the annotation of another video, or of this one before it was cut?"
    named = " or ".join(_value(rate) for rate in rates)
    return f"; at {text(rates[0])} it would cover it: set data.annotation_fps to {named}"


def _none(tracks: Mapping[Path, Track], video: Timeline) -> str:
    lines = []
    for path, track in tracks.items():
        ends = {rate: video.seconds(track.end, rate) for rate in candidates(video)}
        near = sorted(ends, key=lambda rate: abs(ends[rate] - video.end_s))[:3]
        tried = ", ".join(f"{ends[rate]:.1f} s at {text(rate)}" for rate in near)
        if _denser(track, video, near[0]):
            tried += (
                f"; {text(near[0])} are more rows than frames, which may also be those of a longer video "
                f"before it was cut, so this rate must be set"
            )
        own = fitting({path: track}, video)
        if own:
            tried = f"{video.end_s:.1f} s at {text(own[0])}, which does not fit the case's other file"
        lines.append(f"{path}: {_counted(track, video)}; they would end after {tried}")
    rates = ", ".join("its own frames" if rate is None else f"{rate:g}" for rate in candidates(video))
    return (
        f"no rate fits the annotation to the video of {video.end_s:.1f} s (tried: {rates}): "
        f"{'; '.join(lines)}. Set data.annotation_fps, or correct the file"
    )


def _value(rate: Rate) -> str:
    return "null" if rate is None else f"{rate:g}"
