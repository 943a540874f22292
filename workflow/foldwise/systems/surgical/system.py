"""Surgical tools and phases: one of the systems."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foldwise import forecast
from foldwise.check import Checked, Findings
from foldwise.experiment.preparation import CaseStage, Inputs, Preparation
from foldwise.files import code_hash, short_hash, write_json
from foldwise.forecast import TORCH_MIB, WORKER_MIB, WORKERS, Step
from foldwise.index import Entry
from foldwise.section import values_for
from foldwise.settings import dump, validate
from foldwise.sheet import Sheet
from foldwise.store import Memory
from foldwise.systems.base import NOTHING, REMARKS, Footprint
from foldwise.systems.new import NewCases
from foldwise.systems.surgical.check import check_annotation, check_rare
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

# FFmpeg's decoder of a 1080p video with its threads' frames, and the frames used to find the border.
DECODER_MIB = 350
# The frame caches that a loader process keeps open, with HDF5's caches; measured with 80 videos.
OPEN_MIB = 80
# Maximum number of feature frames of a video: four hours at one frame per second.
LONG = 4 * 3600
WIDTH = 2048
# Numbers of a frame's features, where they are others.
WIDTHS = {"resnet18": 512, "resnet34": 512, "densenet121": 1024, "efficientnet_lite0": 1280}
# A file's header, attributes and record; the picture of a video; the rows of its scores. Bytes.
FILE, RIBBON, SCORE = 15e3, 25e3, 4e3
# Bytes of a stored pixel: JPEG at a quality of 95, and LZ4.
PIXEL_BYTES = {"jpeg": 0.3, "raw": 2.0}

# Frames that a slow node decodes, or reads from a cache, per second.
DECODED_PER_SECOND = 50


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
        """Frame caches, and banks of features."""
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


class SurgicalPreparation(Preparation[SurgicalCase]):
    """Frame caches, keyed by their settings, and banks of features by model and fold.

    Attributes:
        banks: pattern of the folder of a fold's features.
        backbones: models whose backbones provide features to others.
    """

    def __init__(self, settings: Settings, sheet: Sheet[SurgicalCase]) -> None:
        """Name the folders."""
        super().__init__(sheet)
        data = values_for(settings.data, "cache")
        self.data = f"{settings.results}/data/{settings.data.sheet.stem}-{short_hash(data)}"
        self.caches = f"{self.data}/frames-{short_hash(values_for(settings.cache, 'cache'), 4)}"
        self.stages = {"frames": CaseStage("cache", (self.cached,), _sources)}
        self.banks = f"{settings.results}/{settings.experiment}/{{model}}/fold{{fold}}/features"
        self._sources = {name: model.features for name, model in settings.models.items()}
        self.backbones = sorted({source for source in self._sources.values() if source})

    def inputs(self, model: str) -> str:
        """The caches, or the features of another model."""
        source = self._sources[model]
        return f"{self.bank(source)}/{{case}}.h5" if source else self.cached

    def bank(self, model: str) -> str | None:
        """Pattern of the folder of a backbone's features."""
        return self.banks.replace("{model}", model) if model in self.backbones else None

    def sources(self, name: str) -> Inputs:
        """A case's source files as named inputs of a rule."""
        return _sources(self.cases[name])


class SurgicalFootprint(Footprint[Settings]):
    """A video is never held in memory as a whole, but its features are."""

    typical = VideoInfo(frames=3600 * 25, fps=25, height=1080, width=1920, duration_s=3600)

    def case_mib(self, stage: str, size: VideoInfo, settings: Settings) -> float:
        """Peak memory of writing a frame cache, for any length of video."""
        return forecast.BASE_MIB + DECODER_MIB

    def disk_mib(self, size: VideoInfo, settings: Settings) -> dict[str, float]:
        """Disk space of the frame cache."""
        cache = settings.cache
        stored = (
            _cached_frames(size, settings.cache) * cache.size[0] * cache.size[1] * PIXEL_BYTES[cache.encoding]
        )
        return {"frames": (FILE + stored) / 2**20}

    def results_mib(self, size: VideoInfo, settings: Settings, name: str) -> dict[str, float]:
        """Disk space of a video's probabilities, of its tables and picture, and of a backbone's features."""
        frames, kind = _cached_frames(size, settings.cache), settings.models[name].kind
        phases = 0 if kind == "tool" else len(settings.data.phases)
        tools = 0 if kind in ("phase", "tecno") else len(settings.data.tools)
        # Rows hold a number and a name; a number, and 0 or 1 for each tool; a time and probabilities.
        row = (30 if phases else 0) + (16 + 2 * tools if tools else 0) + 9 * (phases + tools)
        found = {
            "predictions": FILE + frames * (16 + 4 * (phases + tools)),
            "scores": SCORE,
            "export": frames * row + settings.export.ribbons * RIBBON,
        }
        if SurgicalPreparation(settings, Sheet((), ())).bank(name) is not None:
            width = WIDTHS.get(settings.models[name].backbone.plain, WIDTH)
            found["features"] = FILE + frames * (4 * width + 25 + len(settings.data.tools))
        return {kind: needed / 2**20 for kind, needed in found.items()}

    def weights(self, settings: Settings, name: str, step: Step) -> tuple[int, int]:
        """A temporal model's file holds the backbone, too, which does not learn; nor does a frozen one."""
        model = settings.models[name]
        width = WIDTHS.get(self.counted(settings, name).backbone.plain, WIDTH)
        if model.kind == "tecno":
            own, phases = model.temporal, len(settings.data.phases)
            layers = own.layers * 4 * own.channels**2 + own.channels * phases
            learnt = own.channels * width + own.stages * layers
            return step.weights, learnt
        if model.backbone_lr == 0:
            return step.weights, 4 * model.hidden * (width + model.hidden)
        return step.weights, step.weights

    def case_seconds(self, stage: str, size: VideoInfo, settings: Settings) -> float:
        """Time of decoding a video, or of its tables and its picture."""
        return 5 + size.frames / DECODED_PER_SECOND if stage == "frames" else 10

    def predict_seconds(self, settings: Settings, name: str, size: VideoInfo, step: Step) -> float:
        """Time of reading a video's frames, and of a forward pass of each."""
        source = self.counted(settings, name)
        frame = forecast.forward_seconds(step, source.training.batch * source.window)
        return 5 + _cached_frames(size, settings.cache) * (frame + 1 / DECODED_PER_SECOND)

    def counted(self, settings: Settings, name: str) -> Model:
        """The model with a backbone; for a temporal model, the one that provides its features."""
        model = settings.models[name]
        return settings.models[model.features] if model.features else model

    def model_mib(self, stage: str, settings: Settings, name: str, sizes: Sequence[Any], step: Step) -> float:
        """Peak memory of training, testing or computing features, on a CPU, in MiB."""
        model = settings.models[name]
        video = 4 * LONG * WIDTH
        source = self.counted(settings, name)
        samples = source.training.batch * source.window
        frames = step.forward + 2 * step.largest
        predicting = frames * source.batch_frames / samples + 2 * video
        if stage != "train":
            return ceil(TORCH_MIB + (8 * step.weights + predicting) / 2**20)
        if model.kind == "tecno":
            # The backbone is idle in the model; the temporal network is small compared with the features.
            kept = 4 * LONG * model.temporal.channels * 8 * model.temporal.layers * model.temporal.stages
            return ceil(TORCH_MIB + (8 * step.weights + 3 * video + kept) / 2**20)
        batch = 4 * prod(model.crop) * 3 * samples
        learning = max(step.kept + 2 * step.largest + 3 * batch, predicting)
        own = TORCH_MIB + 20 * step.weights / 2**20 + WORKERS * (WORKER_MIB + OPEN_MIB)
        shared = learning + WORKERS * batch
        return ceil(forecast.processes_mib(model.training.gpus, own) + shared / 2**20)


def _cached_frames(size: VideoInfo, cache: Cache) -> int:
    return min(size.frames, round(size.duration_s * cache.fps) + 1) if cache.fps else size.frames


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


def _sources(case: SurgicalCase) -> Inputs:
    named = {"video": case.video, "phases": case.phases, "tools": case.tools}
    return {kind: str(path) for kind, path in named.items() if path is not None}


def _entry(case: SurgicalCase, data: Data, cache: Path) -> Entry:
    """An entry; its facts count the frames, and those of each phase and tool."""
    from foldwise.video.store import open_frames

    with open_frames(cache) as file:
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
