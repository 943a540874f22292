"""Common parts of video systems: a check that reads headers in parallel."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from foldwise.check import Checked, Findings, check_groups, present_files
from foldwise.files import CaseError
from foldwise.sheet import Sheet
from foldwise.store import Memory
from foldwise.systems.base import AnySettings, System
from foldwise.twins import check_twins
from foldwise.video.decode import VideoInfo
from foldwise.video.sheet import VideoCase

AnyVideoCase = TypeVar("AnyVideoCase", bound=VideoCase)
# Reading headers waits for the disk, above all on network file systems.
THREADS = 16
# A problem, and whether it is only a warning.
Finding = tuple[str, bool]
# A video's header, problems of the video and its other files, and the classes that it holds.
Looked = tuple[VideoInfo, Sequence[Finding], Collection[str]]


class VideoSystem(System[AnySettings, AnyVideoCase], abstract=True):
    """A system whose cases are videos, one each."""

    def check(
        self, settings: AnySettings, sheet: Sheet[AnyVideoCase], *, deep: bool, memory: Memory
    ) -> Checked:
        """Check headers, the files that belong to a video, and patients; `deep` also decodes frames."""
        found = Findings(sheet)
        present = present_files(sheet, lambda path: False, found)
        check_twins(sheet.cases, memory, found)
        usable = [case for case in sheet.cases if all(path in present for path in case.files)]
        infos: dict[str, VideoInfo] = {}
        classes: dict[str, Collection[str]] = {}

        def look(case: AnyVideoCase) -> Looked | CaseError:
            try:
                return self.look(settings, case, deep, memory)
            except CaseError as error:
                return error

        with ThreadPoolExecutor(THREADS) as pool:
            for case, looked in zip(usable, pool.map(look, usable), strict=True):
                if isinstance(looked, CaseError):
                    found.add(case, str(looked))
                    continue
                infos[case.name], findings, classes[case.name] = looked
                for text, warning in findings:
                    found.add(case, text, warning=warning)
        self.check_all(settings, sheet, classes, found)
        if settings.part is None:
            check_groups(sheet.cases, settings.split, found)
        facts = {
            case.name: self.facts(settings, case, infos[case.name]) for case in usable if case.name in infos
        }
        notes = self.notes(settings, sheet, facts)
        return Checked(found.problems, found.warnings, infos, facts, notes)

    @abstractmethod
    def look(self, settings: AnySettings, case: AnyVideoCase, deep: bool, memory: Memory) -> Looked:
        """A video's header, problems of the video and its other files, and the classes that it holds.

        Raises:
            CaseError: a file is not readable.
        """

    def check_all(
        self,
        settings: AnySettings,
        sheet: Sheet[AnyVideoCase],
        classes: Mapping[str, Collection[str]],
        found: Findings,
    ) -> None:
        """Record problems of the cases as a whole; by default none.

        Args:
            settings: of the experiment.
            sheet: the cases.
            classes: readable case → the classes that it holds.
            found: where they are recorded.
        """

    @abstractmethod
    def facts(self, settings: AnySettings, case: AnyVideoCase, info: VideoInfo) -> Mapping[str, Any]:
        """Facts about a case for check.json."""

    def notes(
        self, settings: AnySettings, sheet: Sheet[AnyVideoCase], facts: Mapping[str, Mapping[str, Any]]
    ) -> Sequence[str]:
        """Lines for the check to print, from the facts about the readable cases."""
        return ()

    @abstractmethod
    def encode(self, source: Path, model: Any, path: Path) -> None:
        """Store the features that a model's frozen network finds in a case, for the rule `encode`.

        Args:
            source: what they are computed from, e.g. the frame cache.
            model: its settings; those that do not affect features are at their defaults.
            path: HDF5 file to write.

        Raises:
            CaseError: the network cannot be loaded or does not take the frames, or a feature is not finite.
        """
