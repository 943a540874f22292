"""What is damaged in a video: refused where it is found, or counted and named."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from foldwise.files import CaseError

OnDamage = Literal["refuse", "drop"]
ON_DAMAGE = (
    "A frame that is lost, damaged or out of order. refuse: the case is refused. drop: left out, with those "
    "that are decoded from it; all others keep their times, and the log names what is left out."
)
# Places that are named; of further ones the number is.
NAMED = 5


def left_out(count: int) -> list[str]:
    """A line on the damaged frames of a video, for a report; none without damage."""
    return [f"{count} damaged frame(s) left out"] if count else []


class Damage:
    """The damage of a video.

    Attributes:
        count: number of frames that are lost or left out.
    """

    def __init__(self, path: Path, on_damage: OnDamage = "refuse") -> None:
        """Start without damage; with `refuse`, the first damage is an error."""
        self.path, self.drop = path, on_damage == "drop"
        self.count, self._named, self._places = 0, list[str](), 0

    def add(
        self, number: int, time: float, what: str, count: int = 1, *, hint: str = "", untimed: str = ""
    ) -> None:
        """Note that `count` frames from frame `number` are damaged.

        Args:
            number: of the first one.
            time: after the first frame of the video. s.
            what: what is wrong.
            count: number of frames.
            hint: shown if this is refused.
            untimed: the container's name, if the times of later frames are unknown; this is always refused.

        Raises:
            CaseError: damage is refused.
        """
        frames = f"frame {number}" if count == 1 else f"frames {number} to {number + count - 1}"
        place = f"{frames} at {time:.2f} s: {what}"
        if not self.drop or untimed:
            instead = (
                f"; frames cannot be left out, since {untimed} has no time stamps from which the times "
                f"of later ones are known"
                if untimed
                else ", or leave damaged frames out (cache.on_damage: drop)"
            )
            raise CaseError(f"{self.path}: damaged: {place}; copy or convert the file again{instead}{hint}")
        self.count += count
        self._places += 1
        if len(self._named) < NAMED:
            self._named.append(place)

    def follows(self, count: int) -> None:
        """Note that frames are left out because they are decoded from damaged ones already named."""
        self.count += count

    def report(self) -> None:
        """Name the damage in the log."""
        if self.count:
            more = self._places - len(self._named)
            places = "; ".join(self._named) + (f"; and {more} more places" if more else "")
            logging.warning("%s: %d damaged frame(s) left out: %s", self.path, self.count, places)
