"""Surgical tools and phases: one of the systems."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foldwise.check import Checked, Findings
from foldwise.files import code_hash, write_json
from foldwise.index import Entry
from foldwise.settings import dump, validate
from foldwise.sheet import Sheet
from foldwise.store import Memory
from foldwise.systems.base import NOTHING, REMARKS
from foldwise.systems.new import NewCases
from foldwise.systems.surgical.check import check_annotation, check_rare
from foldwise.systems.surgical.footprint import SurgicalFootprint
from foldwise.systems.surgical.preparation import SurgicalPreparation
from foldwise.systems.surgical.settings import BACKBONE, Cache, Data, Model, Settings
from foldwise.systems.surgical.sheet import SurgicalCase, read_sheet
from foldwise.systems.videos import Looked, VideoSystem
from foldwise.video.decode import VideoInfo, probed, sample_frames
from foldwise.video.gaps import in_words, slow
from foldwise.video.images import image_files, rates_of
from foldwise.video.sheet import is_sheet, videos_in

if TYPE_CHECKING:
    from foldwise.systems.surgical.learner import SurgicalLearner
    from foldwise.systems.surgical.results import SurgicalResults


@dataclass(frozen=True)
class Seen(VideoInfo):
    """A video with what the check found out about its time.

    Attributes:
        facts: the rate of its annotation, and its gaps.
    """

    facts: Mapping[str, Any] = field(default_factory=dict, hash=False)


class Surgical(VideoSystem[Settings, SurgicalCase]):
    """Windows of frames, or whole videos of another model's features."""

    name = "surgical"
    beside = ("settings.encoder.weights",)
    settings = Settings

    def read_sheet(self, data: Data) -> Sheet[SurgicalCase]:
        """Read the sheet without touching the files that it names."""
        return read_sheet(data)

    def look(self, settings: Settings, case: SurgicalCase, deep: bool, memory: Memory) -> Looked:
        """The video's header, and every row of its annotations; `deep` decodes frames from all its parts."""
        info = probed(case.video, memory, rate=settings.data.images_fps)
        if deep:
            drop = settings.cache.on_damage == "drop"
            sample_frames(case.video, 4, rate=settings.data.images_fps, drop=drop)
        used = settings.data.model_dump(mode="json"), settings.cache.model_dump(mode="json")
        problems, present, facts = memory.of_sources(
            case.files,
            lambda: check_annotation(case, settings.data, settings.cache, info),
            "annotation",
            *used,
            code_hash("foldwise"),
        )
        seen = Seen(**asdict(info), facts=facts)
        return seen, [(text, warning) for text, warning in problems], present

    def check_all(
        self,
        settings: Settings,
        sheet: Sheet[SurgicalCase],
        classes: Mapping[str, Collection[str]],
        found: Findings,
    ) -> None:
        """Warn of rare phases and tools."""
        check_rare(settings, sheet, classes, found)

    def facts(self, settings: Settings, case: SurgicalCase, info: VideoInfo) -> Mapping[str, Any]:
        """Length, rate and size."""
        return {
            "frames": info.frames,
            "fps": info.fps,
            "seconds": info.duration_s,
            "size": [info.height, info.width],
            **(info.facts if isinstance(info, Seen) else {}),
        }

    def notes(
        self, settings: Settings, sheet: Sheet[SurgicalCase], facts: Mapping[str, Mapping[str, Any]]
    ) -> Sequence[str]:
        """The rates of annotations that were found, and the gaps of videos."""
        return _notes(settings, facts)

    def preparation(self, settings: Settings, sheet: Sheet[SurgicalCase]) -> SurgicalPreparation:
        """Frame caches, and features."""
        return SurgicalPreparation(settings, sheet)

    def task(self, settings: Settings, checked: Checked) -> dict[str, Any]:
        """Names of phases and tools."""
        return _task(settings.data)

    def entries(
        self, data: Data, prepared: Path, caches: Path, *, training: bool = True
    ) -> tuple[dict[str, Any], list[Entry]]:
        """What is learnt, and the entries, from the frame caches."""
        cases = [case for case in read_sheet(data).cases if case.trains == training]
        return _task(data), [_entry(case, data, caches / f"{case.name}.h5") for case in cases]

    @property
    def learner(self) -> type[SurgicalLearner]:
        """The class that trains and predicts."""
        from foldwise.systems.surgical.learner import SurgicalLearner

        return SurgicalLearner

    @property
    def footprint(self) -> SurgicalFootprint:
        """Memory and disk."""
        return SurgicalFootprint()

    @property
    def results(self) -> SurgicalResults:
        """Scores and files."""
        from foldwise.systems.surgical.results import SurgicalResults

        return SurgicalResults()

    def tried(self, settings: Settings, name: str) -> Model:
        """A temporal model with the backbone that provides its features."""
        model = settings.models[name]
        if model.features is None:
            return model
        source = settings.models[model.features]
        return model.model_copy(update={each: getattr(source, each) for each in BACKBONE})

    def weights(self, settings: Settings, name: str) -> list[Path]:
        """Pretrained weights, and those of an encoder."""
        frozen = settings.models[name].frozen_weights
        return super().weights(settings, name) + ([frozen] if frozen else [])

    def kept(self, settings: Settings, name: str) -> dict[str, Any]:
        """Data and cache."""
        return {"data": dump(settings.data), "cache": dump(settings.cache)}

    def new_cases(
        self, source: Path, task: Mapping[str, Any] | None = None, prepared: Mapping[str, Any] = NOTHING
    ) -> NewCases:
        """Videos: one, or those of a sheet or a folder. A folder of images is a video."""
        if not is_sheet(source):
            found = videos_in(source)
            return NewCases.of(source, [_new(name, name, path, prepared) for name, path in found.items()])
        sheet = read_sheet(Data(sheet=source))
        sheet.refuse(source)
        new = [_new(case.name, case.group, case.video, prepared) for case in sheet.cases]
        return NewCases.of(source, new)

    def encode(self, source: Path, model: Model, path: Path) -> None:
        """Store a feature vector for every frame of the cache."""
        from foldwise.systems.surgical.encoding import write_encoded

        write_encoded(source, model, path)

    def prepare_new(self, entry: Entry, state: Mapping[str, Any], folder: Path) -> Path:
        """Write a new video's frame cache."""
        from foldwise.systems.surgical.prepare import cache_video
        from foldwise.systems.surgical.timing import noticed
        from foldwise.video.store import open_frames

        data = validate(Data, state["prepared"]["data"], origin="model")
        video = Path(entry.files["video"][0])
        first = data.first_image
        if video.is_dir():
            # Images count as those that the model learnt from, if there were any, but none is before time 0.
            lowest = min(image_files(video))
            first = lowest if data.images_fps is None else min(first, lowest)
        data = data.model_copy(update={"images_fps": entry.facts.get("images_fps"), "first_image": first})
        cache = validate(Cache, state["prepared"]["cache"], origin="model")
        path = folder / f"{entry.case}.h5"
        cache_video(entry.case, video, None, None, data, cache, path)
        with open_frames(path) as file:
            write_json(folder / REMARKS, noticed(file))
        return path


def _task(data: Data) -> dict[str, Any]:
    return {"phases": list(data.phases), "tools": list(data.tools), "annotation_fps": data.annotation_fps}


def _notes(settings: Settings, facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rates: dict[str, list[str]] = {}
    fps = settings.cache.fps
    for case, known in facts.items():
        if "annotation_fps" in known and settings.data.annotation_fps == "auto":
            rates.setdefault(str(known["annotation_fps"]), []).append(case)
    # Names only where videos differ.
    notes = [
        f"annotation_fps: auto found {'own frames' if rate == 'own frames' else f'{rate} per second'} in "
        f"{len(cases)} video(s){': ' + ', '.join(cases) if len(rates) > 1 else ''}"
        for rate, cases in rates.items()
    ]
    notes += [
        f"case {case}: {in_words(known, fps)}"
        for case, known in facts.items()
        # Slow ones are among the warnings.
        if known.get("gaps") and not slow(known, fps)
    ]
    return notes


def _entry(case: SurgicalCase, data: Data, cache: Path) -> Entry:
    """An entry; its facts count the frames, and those of each phase and tool."""
    from foldwise.video.store import open_video

    with open_video(cache) as file:
        phase, tool = file["phase"][()], file["tool"][()]
        recording = str(file.attrs.get("recording", ""))
    counts = np.bincount(phase[phase >= 0], minlength=len(data.phases)).tolist()
    sources = {"video": case.video, "phases": case.phases, "tools": case.tools}
    files: dict[str, tuple[str, ...]] = {k: (str(path),) for k, path in sources.items() if path is not None}
    facts: dict[str, Any] = {
        "frames": len(phase),
        "phases": dict(zip(data.phases, counts, strict=True)),
        "tools": dict(zip(data.tools, (tool == 1).sum(0).tolist(), strict=True)),
    }
    present = tuple(name for kind in ("phases", "tools") for name, count in facts[kind].items() if count)
    return Entry(case.name, case.group, files, str(cache), facts, float(len(phase)), present, recording)


def _new(case: str, group: str, video: Path, prepared: Mapping[str, Any]) -> Entry:
    return Entry(case, group, {"video": (str(video),)}, "", rates_of(video, prepared), 0)
