"""Common parts of video systems: a check that reads headers in parallel."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from foldwise.check import Checked, Findings, check_groups, present_files
from foldwise.files import CaseError
from foldwise.sheet import Sheet
from foldwise.systems.base import AnySettings, System
from foldwise.video.decode import VideoInfo
from foldwise.video.sheet import VideoCase, check_twins

AnyVideoCase = TypeVar("AnyVideoCase", bound=VideoCase)
# Reading headers waits for the disk, above all on network file systems.
THREADS = 16
# A problem, and whether it is only a warning.
Finding = tuple[str, bool]


class VideoSystem(System[AnySettings, AnyVideoCase], abstract=True):
    """A system whose cases are videos, one each."""

    def check(self, settings: AnySettings, sheet: Sheet[AnyVideoCase], *, deep: bool) -> Checked:
        """Check headers, the files that belong to a video, and patients; `deep` also decodes frames."""
        found = Findings(sheet)
        present = present_files(sheet, lambda path: False, found)
        check_twins(sheet.cases, found)
        usable = [case for case in sheet.cases if all(path in present for path in case.files)]
        infos: dict[str, VideoInfo] = {}

        def look(case: AnyVideoCase) -> tuple[VideoInfo | None, Sequence[Finding]]:
            try:
                return self.look(settings, case, deep)
            except CaseError as error:
                return None, [(str(error), False)]

        with ThreadPoolExecutor(THREADS) as pool:
            for case, (info, findings) in zip(usable, pool.map(look, usable), strict=True):
                for text, warning in findings:
                    found.add(case, text, warning=warning)
                if info is not None:
                    infos[case.name] = info
        self.check_all(settings, sheet, found)
        if settings.part is None:
            check_groups(sheet.cases, settings.split, found)
        facts = {
            case.name: self.facts(settings, case, infos[case.name]) for case in usable if case.name in infos
        }
        return Checked(found.problems, found.warnings, infos, facts, self.notes(settings, sheet))

    @abstractmethod
    def look(
        self, settings: AnySettings, case: AnyVideoCase, deep: bool
    ) -> tuple[VideoInfo, Sequence[Finding]]:
        """A video's header, and problems of the video and its other files.

        Raises:
            CaseError: a file is not readable.
        """

    def check_all(self, settings: AnySettings, sheet: Sheet[AnyVideoCase], found: Findings) -> None:
        """Record problems of the cases as a whole; by default none."""

    @abstractmethod
    def facts(self, settings: AnySettings, case: AnyVideoCase, info: VideoInfo) -> Mapping[str, Any]:
        """Facts about a case for check.json."""

    def notes(self, settings: AnySettings, sheet: Sheet[AnyVideoCase]) -> Sequence[str]:
        """Lines for the check to print."""
        return ()
