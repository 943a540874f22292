"""Memory, disk space and time that jobs on clips need."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from foldwise import forecast
from foldwise.forecast import BASE_MIB, TORCH_MIB, WORKER_MIB, WORKERS, Step
from foldwise.settings import Named
from foldwise.sheet import Sheet
from foldwise.systems.base import Footprint
from foldwise.systems.clips.preparation import ClipPreparation
from foldwise.systems.clips.settings import Model, Settings
from foldwise.systems.clips.sheet import class_names
from foldwise.video.decode import VideoInfo
from foldwise.video.encoders import Shape, frozen_bytes, frozen_step, shape_of, takes_clips

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
# Bytes of a frame that is decoded, resized, and kept in a codec's buffers.
CODEC_FRAMES = 40

# Frames that a slow node decodes per second; seconds of MedSAM per key frame on a slow GPU, and of other
# regions per pixel.
DECODED_PER_SECOND, MEDSAM_SECONDS, PIXEL_SECONDS = 50, 5, 2e-7


class ClipsFootprint(Footprint[Settings]):
    """From headers and the networks' shapes; for a frozen network it is an estimate."""

    typical = VideoInfo(frames=300, fps=25, height=720, width=960, duration_s=12)

    def case_mib(self, stage: str, size: VideoInfo, settings: Settings) -> float:
        """Peak memory of caching a clip, finding its region, or storing features."""
        if stage == "encode":
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
            found["encode"] = sum(FILE + features_bytes(model) for model in featured.values())
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
        """A frozen network is not stored: its decoder or probe is; of ZeroShotCLIP hardly anything."""
        model = settings.models[name]
        if model.frozen_weights is None:
            return step.weights, step.weights
        if model.network.plain == "ZeroShotCLIP":
            return 0, 0
        shape, blocks = _tokens(model)
        width = shape.width
        if model.network.plain == "AttentiveProbe":
            channels = int(model.network.arguments.get("channels", 256))
            learnt = channels * (12 * channels + width) + 2 * width
            return learnt, learnt
        if model.by_patient:
            hidden = int(model.network.arguments.get("hidden", 128))
            learnt = hidden * (2 * width + 3) + width * (2 + len(class_names(settings.data)))
            return learnt, learnt
        # A layer's attention and MLP; and what is learnt for each frame and each offset of two patches.
        offsets = 2 * round(2 * shape.places**0.5 - 1) ** 2
        places = shape.steps + (offsets if model.encoder is None else 0)
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
        if stage == "encode":
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
        return _frozen_step(model) if model.frozen_weights else model

    def model_mib(
        self, stage: str, settings: Settings, name: str, sizes: Sequence[VideoInfo], step: Step
    ) -> float:
        """Peak memory of training, testing or storing features, on a CPU, in MiB."""
        model = settings.models[name]
        clip = model.clip
        item = 4 * 4 * clip.frames * clip.size**2
        frozen = frozen_bytes(model.frozen_weights) if model.frozen_weights else 0
        if stage == "train":
            own = TORCH_MIB + (20 * step.weights + frozen) / 2**20 + WORKERS * WORKER_MIB
            shared = step.kept + 2 * step.largest + WORKERS * 4 * item * model.training.batch
            return ceil(forecast.processes_mib(model.training.gpus, own) + shared / 2**20)
        views = clip.spatial_views * (step.forward / model.training.batch + 3 * item)
        # All views of a case, and of the next one.
        views += 2 * clip.temporal_views * clip.spatial_views * item
        return ceil(TORCH_MIB + (4 * step.weights + frozen + views) / 2**20)


def _tokens(model: Model) -> tuple[Shape, int]:
    """Shape of a clip's tokens by one block of a model's frozen transformer, and blocks that are read."""
    if model.encoder is not None:
        shape = shape_of(model.encoder, model.clip.size, model.clip.frames)
        return (shape if takes_clips(model.encoder) else shape._replace(steps=model.clip.frames)), 1
    arguments = model.network.arguments
    clip = Named(name="transformers:CLIPModel", weights=arguments["weights"])
    pool = int(arguments.get("pool", 1))
    shape = shape_of(clip, model.clip.size)
    places = shape.places // pool**2
    return Shape(model.clip.frames, places, shape.width), int(arguments.get("blocks", 4))


def features_bytes(model: Model) -> float:
    """Bytes of a clip's features: tokens and attention of all stored and tested views."""
    assert model.features is not None, "the model's features are stored"
    clip, (shape, blocks) = model.clip, _tokens(model)
    steps, patches, width = shape
    views = model.features.views + clip.spatial_views * clip.temporal_views
    whole = model.features.precision == "int8"

    def size(vectors: int, length: int) -> int:
        """In whole numbers, a vector has a scale, too."""
        return vectors * (length + 4 if whole else 2 * length)

    if model.encoder is not None:
        return views * TOKENS * size(steps * patches, width)
    tokens = size(blocks * steps * (1 + patches), width)
    # Each frame's patches with those of its neighbours, which the first and the last one lack.
    used = bool(model.network.arguments.get("attention", True))
    attention = used * size(blocks * 2 * (steps - 1) * patches, patches)
    return views * (TOKENS * tokens + ATTENTION * attention)


def _frozen_step(model: Model) -> Step:
    return frozen_step(model.training.batch * model.clip.frames)


def _cached_size(info: VideoInfo, settings: Settings) -> tuple[int, int, int]:
    """Frames, height and width of a clip's cache."""
    cache = settings.cache
    scale = min(1.0, cache.size / min(info.height, info.width)) if cache.size else 1.0
    frames = info.frames if cache.fps is None else min(info.frames, ceil(info.duration_s * cache.fps) + 1)
    return frames, round(info.height * scale), round(info.width * scale)
