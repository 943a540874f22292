"""Classification of ultrasound clips: one of the systems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldwise import forecast
from foldwise.check import Checked, Findings, check_folds
from foldwise.experiment.preparation import Asked, CaseStage, Inputs, Preparation
from foldwise.files import CaseError, files_in, read_json, short_hash, write_json
from foldwise.forecast import BASE_MIB, TORCH_MIB, WORKER_MIB, WORKERS, Step
from foldwise.index import Entry
from foldwise.section import values_for
from foldwise.settings import as_json, dump, validate
from foldwise.sheet import Sheet
from foldwise.store import Memory
from foldwise.systems.base import NOTHING, REMARKS, Footprint
from foldwise.systems.clips.check import check_classes, check_prompt, check_weights
from foldwise.systems.clips.settings import ENCODING, FROZEN, Cache, Data, Model, Prepare, Settings
from foldwise.systems.clips.sheet import ClipCase, class_names, class_sentences, read_new_cases, read_sheet
from foldwise.systems.new import NewCases
from foldwise.systems.videos import Looked, VideoSystem
from foldwise.video.damage import left_out
from foldwise.video.decode import VideoInfo, probed
from foldwise.video.images import rates_of

if TYPE_CHECKING:
    from foldwise.systems.clips.learner import ClipsLearner
    from foldwise.systems.clips.results import ClipsResults

# SAM's image encoder on one image of 1024², including its weights; SAM 2 takes less, with all its memory.
MEDSAM_MIB = 4000
# Size of a frame relative to its values: as JPEG of quality 90, and as compressed raw values.
SHARES = {"jpeg": 0.08, "raw": 0.45}
# A file's header, attributes and record.
FILE, SCORE = 15e3, 1e3
# Bytes of a frame's region, for each pixel.
REGION_BYTES = 0.02
# Size of stored features relative to their values.
TOKENS, ATTENTION = 0.95, 0.85
# Bytes that a frozen transformer holds per frame; and its weights, which are not counted.
FRAME_BYTES, FROZEN_WEIGHTS = 12 * 2**20, 150 * 10**6
# Bytes of a frame that is decoded, resized, and kept in a codec's buffers.
CODEC_FRAMES = 40

# Frames that a slow node decodes per second; seconds of MedSAM per key frame on a slow GPU, and of other
# regions per pixel.
DECODED_PER_SECOND, MEDSAM_SECONDS, PIXEL_SECONDS = 50, 5, 2e-7


class Clips(VideoSystem[Settings, ClipCase]):
    """Clips, the regions that a network looks at, and frozen encoders."""

    name = "clips"
    # Frozen CLIP weights, and those of MedSAM.
    beside = ("settings.network.weights", "prepared.prepare.regions.weights")
    settings = Settings

    def read_sheet(self, data: Data) -> Sheet[ClipCase]:
        """Read the sheet, and the files that define the classes, without touching the videos."""
        return read_sheet(data)

    def look(self, settings: Settings, case: ClipCase, deep: bool, memory: Memory) -> Looked:
        """The video's header, the clip's box or mask, and its class."""
        info = probed(case.video, memory, rate=settings.data.images_fps)
        return info, check_prompt(case, info, memory), [case.label]

    def check_all(
        self,
        settings: Settings,
        sheet: Sheet[ClipCase],
        classes: Mapping[str, Collection[str]],
        found: Findings,
    ) -> None:
        """Check classes, folds and files of weights."""
        class_sentences(settings.data)
        check_classes(sheet, settings, found)
        if settings.part is None:
            check_folds([_entry(case, Path()) for case in sheet.cases if case.trains], settings.split, found)
        for text in check_weights(settings):
            found.add_general(text)

    def facts(self, settings: Settings, case: ClipCase, info: VideoInfo) -> Mapping[str, Any]:
        """Class, length, rate, size, and where the regions are."""
        regions = ClipPreparation(settings, Sheet((), ())).regions
        return {
            "class": case.label,
            "frames": info.frames,
            "fps": info.fps,
            "size": [info.width, info.height],
            "regions": regions if settings.prepare.regions else None,
        }

    def notes(
        self, settings: Settings, sheet: Sheet[ClipCase], facts: Mapping[str, Mapping[str, Any]]
    ) -> Sequence[str]:
        """Number of clips of each class."""
        counted = Counter(case.label for case in sheet.cases if case.labelled)
        classes = ", ".join(f"{name} {counted[name]}" for name in class_names(settings.data))
        return [f"clips of each class: {classes}"]

    def preparation(self, settings: Settings, sheet: Sheet[ClipCase]) -> ClipPreparation:
        """Caches, regions and features."""
        return ClipPreparation(settings, sheet)

    def preparing_models(self, settings: Settings) -> Mapping[str, Model]:
        """Models whose frozen networks' features are stored."""
        return {name: model for name, model in settings.models.items() if model.features is not None}

    def preparation_weights(self, settings: Settings) -> Mapping[Path, Callable[[Path], Any]]:
        """Weights of the network that finds regions."""
        regions = settings.prepare.regions
        return {regions.weights: TRIED[regions.method]} if regions and regions.weights else {}

    def task(self, settings: Settings, checked: Checked) -> dict[str, Any]:
        """Classes and their sentences."""
        return _task(settings.data)

    def rows_of(self, settings: Settings, cases: Sequence[ClipCase]) -> list[Any]:
        """The rows with their classes, and the contents of the classes' files."""
        rows = [[c.name, c.group, c.label, [str(path) for path in c.files]] for c in cases]
        return [rows, _task(settings.data)]

    def entries(
        self, data: Data, prepared: Path, caches: Path, *, training: bool = True
    ) -> tuple[dict[str, Any], list[Entry]]:
        """What is learnt, and the entries, from the sheet alone."""
        cases = [case for case in read_sheet(data).cases if case.trains == training]
        return _task(data), [_entry(case, caches) for case in cases]

    @property
    def learner(self) -> type[ClipsLearner]:
        """The class that trains and predicts."""
        from foldwise.systems.clips.learner import ClipsLearner

        return ClipsLearner

    @property
    def footprint(self) -> ClipsFootprint:
        """Memory and disk."""
        return ClipsFootprint()

    @property
    def results(self) -> ClipsResults:
        """Scores and files."""
        from foldwise.systems.clips.results import ClipsResults

        return ClipsResults()

    def weights(self, settings: Settings, name: str) -> list[Path]:
        """Pretrained weights, and those of a frozen network."""
        network = settings.models[name].network
        frozen = [Path(network.arguments["weights"])] if network.plain in FROZEN else []
        return super().weights(settings, name) + frozen

    def kept(self, settings: Settings, name: str) -> dict[str, Any]:
        """Rate of folders of images, cache, and regions for models that use them."""
        prepare = Prepare() if settings.models[name].input == "whole" else settings.prepare
        data = {"images_fps": settings.data.images_fps}
        return {"data": data, "cache": dump(settings.cache), "prepare": dump(prepare)}

    def new_cases(
        self, source: Path, task: Mapping[str, Any] | None = None, prepared: Mapping[str, Any] = NOTHING
    ) -> NewCases:
        """Clips to predict."""
        entries = [
            Entry(case.name, case.group, _files(case), "", _new_facts(case, prepared), 0)
            for case in read_new_cases(source)
        ]
        return NewCases.of(source, entries)

    def prepare_new(self, entry: Entry, state: Mapping[str, Any], folder: Path) -> Path:
        """Write the frame cache or the file of regions that the model's network takes."""
        from foldwise.systems.clips.cache import cache_clip
        from foldwise.systems.clips.regions import find_regions
        from foldwise.video.store import open_frames

        prepare = validate(Prepare, state["prepared"]["prepare"], origin="model")
        cache = validate(Cache, state["prepared"]["cache"], origin="model")
        model = validate(Model, state["settings"], origin="model")
        path = folder / "frames" / f"{entry.case}.h5"
        video, rate = Path(entry.files["video"][0]), entry.facts.get("images_fps")
        cache_clip(entry.case, video, "", cache, path, rate=rate)
        with open_frames(path) as file:
            remarks = left_out(int(file.attrs["damaged"]))
        if model.input == "whole" or prepare.regions is None:
            write_json(folder / REMARKS, remarks)
            return path
        found = folder / "regions" / f"{entry.case}.h5"
        mask = Path(entry.files["mask"][0]) if "mask" in entry.files else None
        facts = found.with_suffix(".json")
        review = find_regions(
            entry.case, path, entry.facts["box"], mask, prepare.regions, found, facts
        ).review
        write_json(folder / REMARKS, remarks + ([review] if review else []))
        return found


class ClipPreparation(Preparation[ClipCase]):
    """Caches, regions and features, keyed by their settings.

    Attributes:
        regions: folder of the files of regions.
        encoded: pattern of the folder of stored features, with the wildcard {encoded}.
    """

    def __init__(self, settings: Settings, sheet: Sheet[ClipCase]) -> None:
        """Name the folders."""
        super().__init__(sheet)
        self._models, self._finder, self._cache = settings.models, settings.prepare.regions, settings.cache
        self._images_fps = settings.data.images_fps
        data = values_for(settings.data, "cache")
        cache = [data, values_for(settings.cache, "cache")]
        regions = [cache, values_for(settings.prepare, "regions")]
        self.data = f"{settings.results}/data/{settings.data.sheet.stem}-{short_hash(data)}"
        self.caches = f"{self.data}/cache-{short_hash(cache, 4)}"
        self.regions = f"{self.data}/regions-{short_hash(regions, 4)}"
        self.encoded = f"{self.data}/features-{{encoded}}"
        self._keys = {
            name: short_hash([regions if model.input != "whole" else cache, dump(encoding_of(model))])
            for name, model in settings.models.items()
            if model.features is not None
        }
        neural = self._finder is not None and self._finder.weights is not None
        self.stages = {
            "clip_cache": CaseStage(
                "cache", (self.cached,), lambda c: [str(c.video), c.label], lambda c: [self.cache_asked(c)]
            )
        }
        if self._finder:
            found = (f"{self.regions}/{{case}}.json", f"{self.regions}/{{case}}.h5")
            given: Callable[[ClipCase], Any] = lambda c: [c.box, c.mask and str(c.mask)]  # noqa: E731
            self.stages["roi"] = CaseStage("regions", found, given, lambda c: [self.roi_asked(c)], neural)
        if self._keys:
            features = dict.fromkeys(self.inputs(model) for model in self._keys)
            self.stages["clip_features"] = CaseStage(
                "features",
                tuple(features),
                asked=lambda c: [self.features_asked(key, c) for key in dict.fromkeys(self._keys.values())],
                neural=True,
            )
        self.neural = bool(self._keys) or neural

    @property
    def made(self) -> Sequence[str]:
        """Patterns of the caches, the files of regions, and the features."""
        regions = [f"{self.regions}/{{case}}.h5"] if self._finder else []
        return list(dict.fromkeys([self.cached, *regions, *(self.inputs(model) for model in self._keys)]))

    @property
    def noticed(self) -> str | None:
        """Facts about the cases' regions."""
        return f"{self.regions}/{{case}}.json" if self._finder else None

    def inputs(self, model: str) -> str:
        """Features, or the files that they would be computed from."""
        if model in self._keys:
            return self.encoded.replace("{encoded}", self._keys[model]) + "/{case}.h5"
        return self.unencoded(model)

    def frames(self, model: str) -> str | None:
        """Folder of the files of regions, if a model's clips are from these and not from the caches."""
        return None if self.unencoded(model) == self.cached else self.regions

    def cache_asked(self, name: str) -> Asked:
        """What the rule `clip_cache` asks for a case."""
        case, cache = self.cases[name], self.cached.format(case=name)
        values = {"case": name, "video": case.video, "images_fps": self._images_fps, "label": case.label}
        values |= {"settings": as_json(self._cache), "cache": cache}
        log = f"{self.data}/logs/clip_cache/{name}.log"
        return Asked(values, [str(case.video)], [cache], log)

    def roi_asked(self, name: str) -> Asked:
        """What the rule `roi` asks for a case."""
        assert self._finder is not None, "regions are requested"
        inputs = self.roi_inputs(name)
        outputs = {"regions": f"{self.regions}/{name}.h5", "facts": f"{self.regions}/{name}.json"}
        values: dict[str, Any] = {"case": name, "cache": inputs["cache"], "box": self.cases[name].box}
        values |= {"mask": inputs.get("mask"), "also": inputs.get("weights")}
        log = f"{self.data}/logs/roi/{name}.log"
        return Asked(
            {**values, "settings": as_json(self._finder), **outputs},
            [path for each in inputs.values() for path in ([each] if isinstance(each, str) else each)],
            [*outputs.values()],
            log,
        )

    def features_asked(self, encoded: str, name: str) -> Asked:
        """What the rule `clip_features` asks for a case and a key."""
        source, model = self.encoded_from(encoded, name), self.encoding(encoded)
        features = f"{self.encoded.replace('{encoded}', encoded)}/{name}.h5"
        weights = files_in(Path(model.network.arguments["weights"]))
        values = {"source": source, "also": weights, "settings": as_json(model), "features": features}
        log = f"{self.data}/logs/clip_features/{encoded}_{name}.log"
        return Asked(values, [source, *weights], [features], log)

    def roi_inputs(self, name: str) -> Inputs:
        """Inputs of a case's region: its frames, a given mask, and the network's weights."""
        case = self.cases[name]
        inputs: Inputs = {"cache": self.cached.format(case=name)}
        if case.mask is not None:
            inputs["mask"] = str(case.mask)
        if self._finder is not None and self._finder.weights is not None:
            inputs["weights"] = files_in(self._finder.weights)
        return inputs

    def encoder(self, encoded: str) -> str:
        """A model whose features have a key; equal keys mean equal features."""
        return next(model for model, key in self._keys.items() if key == encoded)

    def encoding(self, encoded: str) -> Model:
        """The settings that determine the features of a key."""
        return encoding_of(self._models[self.encoder(encoded)])

    def encoded_from(self, encoded: str, case: str) -> str:
        """The file from which a case's features of a key are computed."""
        return self.unencoded(self.encoder(encoded)).format(case=case)

    def unencoded(self, model: str) -> str:
        """Pattern of the files from which a model's clips are drawn: the caches, or the files of regions."""
        whole = self._models[model].input == "whole"
        return self.cached if whole else f"{self.regions}/{{case}}.h5"


class ClipsFootprint(Footprint[Settings]):
    """From headers and the networks' shapes; for a frozen network it is an estimate."""

    typical = VideoInfo(frames=300, fps=25, height=720, width=960, duration_s=12)

    def case_mib(self, stage: str, size: VideoInfo, settings: Settings) -> float:
        """Peak memory of caching a clip, finding its region, or storing features."""
        if stage == "clip_features":
            featured = {name: model for name, model in settings.models.items() if model.features}
            return max(self.model_mib(stage, settings, n, [], _frozen_step(m)) for n, m in featured.items())
        frames, height, width = _cached_size(size, settings)
        if stage == "clip_cache":
            return ceil(BASE_MIB + CODEC_FRAMES * 3 * size.height * size.width / 2**20)
        regions = settings.prepare.regions
        neural = regions is not None and regions.weights is not None
        base = TORCH_MIB + MEDSAM_MIB if neural else BASE_MIB + 150
        keys = frames / (regions.key_every if regions else 1)
        return ceil(base + height * width * (2 * frames + keys + 24 * 3 + 40) / 2**20)

    def disk_mib(self, size: VideoInfo, settings: Settings) -> dict[str, float]:
        """Disk space of the cache, the regions, and the features of each frozen network."""
        frames, height, width = _cached_size(size, settings)
        values = frames * height * width
        found = {"clip_cache": FILE + 3 * values * SHARES[settings.cache.encoding]}
        if settings.prepare.regions is not None:
            found["roi"] = FILE + REGION_BYTES * values
        prepared = ClipPreparation(settings, Sheet((), ()))
        # Models with equal networks and clips share their features.
        featured = {prepared.inputs(name): m for name, m in settings.models.items() if m.features}
        if featured:
            found["clip_features"] = sum(FILE + _features_bytes(model) for model in featured.values())
        return {stage: needed / 2**20 for stage, needed in found.items()}

    def results_mib(self, size: VideoInfo, settings: Settings, name: str) -> dict[str, float]:
        """Disk space of a clip's probabilities, and of its row."""
        clip, classes = settings.models[name].clip, len(class_names(settings.data))
        views = clip.spatial_views * clip.temporal_views
        rows = 1 + settings.export.views * views
        return {
            "predictions": (FILE + 4 * views * classes) / 2**20,
            "scores": SCORE / 2**20,
            "export": rows * (40 + 20 * classes) / 2**20,
        }

    def weights(self, settings: Settings, name: str, step: Step) -> tuple[int, int]:
        """A frozen network is not stored: of EVL the decoder is, of ZeroShotCLIP hardly anything."""
        model = settings.models[name]
        if model.network.plain not in FROZEN:
            return step.weights, step.weights
        if model.network.plain != "EVL":
            return 0, 0
        patches, width, blocks = _vision(model)
        # A layer's attention and MLP; and what is learnt for each frame and each offset of two patches.
        places = model.clip.frames + 2 * round(2 * patches**0.5 - 1) ** 2
        learnt = blocks * (12 * width**2 + (19 + places) * width)
        return learnt, learnt

    def case_seconds(self, stage: str, size: VideoInfo, settings: Settings) -> float:
        """Time of decoding a clip, of finding its region, or of its features by every model."""
        frames, height, width = _cached_size(size, settings)
        regions = settings.prepare.regions
        if stage == "clip_cache":
            return 5 + size.frames / DECODED_PER_SECOND
        if stage == "roi" and regions is not None:
            each = MEDSAM_SECONDS / (regions.key_every if regions.method == "medsam" else 1)
            each *= regions.weights is not None
            return 20 + frames * (each + height * width * PIXEL_SECONDS)
        if stage == "clip_features":
            featured = [(n, _frozen_step(m)) for n, m in settings.models.items() if m.features]
            return sum(self.predict_seconds(settings, n, size, step) for n, step in featured)
        return 2

    def predict_seconds(self, settings: Settings, name: str, size: VideoInfo, step: Step) -> float:
        """Time of a forward pass of each view."""
        model = settings.models[name]
        views = model.clip.spatial_views * model.clip.temporal_views
        return 5 + views * forecast.forward_seconds(step, model.training.batch)

    def counted(self, settings: Settings, name: str) -> Model | Step:
        """The model, or what a frozen network holds for a batch of clips."""
        model = settings.models[name]
        return _frozen_step(model) if model.network.plain in FROZEN else model

    def model_mib(
        self, stage: str, settings: Settings, name: str, sizes: Sequence[VideoInfo], step: Step
    ) -> float:
        """Peak memory of training, testing or storing features, on a CPU, in MiB."""
        model = settings.models[name]
        clip = model.clip
        item = 4 * 4 * clip.frames * clip.size**2
        frozen = 4 * FROZEN_WEIGHTS if model.network.plain in FROZEN else 0
        if stage == "train":
            own = TORCH_MIB + (20 * step.weights + frozen) / 2**20 + WORKERS * WORKER_MIB
            shared = step.kept + 2 * step.largest + WORKERS * 4 * item * model.training.batch
            return ceil(forecast.processes_mib(model.training.gpus, own) + shared / 2**20)
        views = clip.spatial_views * (step.forward / model.training.batch + 3 * item)
        # All views of a case, and of the next one.
        views += 2 * clip.temporal_views * clip.spatial_views * item
        return ceil(TORCH_MIB + (4 * step.weights + frozen + views) / 2**20)


def encoding_of(model: Model) -> Model:
    """A model with only the settings that determine its features; all others at their defaults."""
    network = {"name": model.network.plain}
    network |= {k: v for k, v in model.network.arguments.items() if k in ENCODING}
    kept = values_for(model, "features")
    return Model.model_validate({**kept, "network": network})


def try_medsam(weights: Path) -> None:
    """Read MedSAM's weights as the stage does."""
    from foldwise.systems.clips.regions import read_network

    read_network("medsam", weights)


def try_sam2_video(weights: Path) -> None:
    """Read SAM 2's weights as the stage does."""
    from foldwise.systems.clips.regions import read_network

    read_network("sam2_video", weights)


def try_edgetam_video(weights: Path) -> None:
    """Read EdgeTAM's weights as the stage does."""
    from foldwise.systems.clips.regions import read_network

    read_network("edgetam_video", weights)


# Each is named, since another process imports it by its name.
TRIED = {"medsam": try_medsam, "sam2_video": try_sam2_video, "edgetam_video": try_edgetam_video}


def _vision(model: Model) -> tuple[int, int, int]:
    """Patches of a frame, width, and blocks that are read, of a model's frozen transformer."""
    arguments = model.network.arguments
    try:
        config = read_json(Path(arguments["weights"]) / "config.json")
    except CaseError:  # the check names what is missing
        config = {}
    vision = config.get("vision_config", config)
    # What is not given is as in ViT-B/16.
    edge = vision.get("image_size", 224) // vision.get("patch_size", 16) // int(arguments.get("pool", 1))
    return edge**2, vision.get("hidden_size", 768), int(arguments.get("blocks", 4))


def _features_bytes(model: Model) -> float:
    """Bytes of a clip's features: tokens and attention of all stored and tested views."""
    assert model.features is not None, "the model's features are stored"
    clip, (patches, width, blocks) = model.clip, _vision(model)
    views = model.features.views + clip.spatial_views * clip.temporal_views
    whole = model.features.precision == "int8"

    def size(vectors: int, length: int) -> int:
        """In whole numbers, a vector has a scale, too."""
        return vectors * (length + 4 if whole else 2 * length)

    tokens = size(blocks * clip.frames * (1 + patches), width)
    # Each frame's patches with those of its neighbours, which the first and the last one lack.
    used = bool(model.network.arguments.get("attention", True))
    attention = used * size(blocks * 2 * (clip.frames - 1) * patches, patches)
    return views * (TOKENS * tokens + ATTENTION * attention)


def _frozen_step(model: Model) -> Step:
    held = model.training.batch * model.clip.frames * FRAME_BYTES
    return Step(FROZEN_WEIGHTS // 5, held, 0, held)


def _cached_size(info: VideoInfo, settings: Settings) -> tuple[int, int, int]:
    """Frames, height and width of a clip's cache."""
    cache = settings.cache
    scale = min(1.0, cache.size / min(info.height, info.width)) if cache.size else 1.0
    frames = info.frames if cache.fps is None else min(info.frames, ceil(info.duration_s * cache.fps) + 1)
    return frames, round(info.height * scale), round(info.width * scale)


def _new_facts(case: ClipCase, prepared: Mapping[str, Any]) -> dict[str, Any]:
    return {"label": "", "box": case.box, **rates_of(case.video, prepared)}


def _task(data: Data) -> dict[str, Any]:
    return {"classes": class_names(data), "sentences": class_sentences(data)}


def _files(case: ClipCase) -> dict[str, tuple[str, ...]]:
    files: dict[str, tuple[str, ...]] = {"video": (str(case.video),)}
    return files if case.mask is None else {**files, "mask": (str(case.mask),)}


def _entry(case: ClipCase, caches: Path) -> Entry:
    """An entry: folds balance patients by class, and within a class by number of clips."""
    return Entry(
        case=case.name,
        group=case.group,
        files=_files(case),
        cache=str(caches / f"{case.name}.h5"),
        facts={"label": case.label},
        amount=1,
        classes=(case.label,) if case.label else (),
    )
