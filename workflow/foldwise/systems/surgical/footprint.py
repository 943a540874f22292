"""Memory, disk space and time that jobs on surgical videos need."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import Any

from foldwise import forecast
from foldwise.forecast import TORCH_MIB, WORKER_MIB, WORKERS, Step
from foldwise.sheet import Sheet
from foldwise.systems.base import Footprint
from foldwise.systems.surgical.preparation import SurgicalPreparation
from foldwise.systems.surgical.settings import Cache, Model, Settings
from foldwise.video.decode import VideoInfo
from foldwise.video.encoders import clip_frames, frozen_bytes, frozen_step, shape_of

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


class SurgicalFootprint(Footprint[Settings]):
    """A video is never held in memory as a whole, but its features are."""

    typical = VideoInfo(frames=3600 * 25, fps=25, height=1080, width=1920, duration_s=3600)

    def case_mib(self, stage: str, size: VideoInfo, settings: Settings) -> float:
        """Peak memory of writing a frame cache, or an encoder's features, for any length of video."""
        if stage == "encode":
            each = [model for model in settings.models.values() if model.encoder is not None]
            return max(self._predicting_mib(model, frozen_step(model.batch_frames)) for model in each)
        return forecast.BASE_MIB + DECODER_MIB

    def disk_mib(self, size: VideoInfo, settings: Settings) -> dict[str, float]:
        """Disk space of the frame cache, and of encoders' features."""
        cache = settings.cache
        stored = (
            _cached_frames(size, settings.cache) * cache.size[0] * cache.size[1] * PIXEL_BYTES[cache.encoding]
        )
        found = {"frames": (FILE + stored) / 2**20}
        prepared = SurgicalPreparation(settings, Sheet((), ()))
        # Models with equal encoders share their features.
        encoded = {prepared.inputs(name): model for name, model in settings.models.items() if model.encoder}
        if encoded:
            bytes_ = sum(_bank_bytes(size, settings, _width(model)) for model in encoded.values())
            found["encode"] = bytes_ / 2**20
        return found

    def results_mib(self, size: VideoInfo, settings: Settings, name: str) -> dict[str, float]:
        """Disk space of a video's probabilities, of its tables and picture, and of a backbone's features."""
        frames, kind = _cached_frames(size, settings.cache), settings.models[name].kind
        phases = 0 if kind == "tool" else len(settings.data.phases)
        tools = 0 if kind in ("phase", "temporal") else len(settings.data.tools)
        # Rows hold a number and a name; a number, and 0 or 1 for each tool; a time and probabilities.
        row = (30 if phases else 0) + (16 + 2 * tools if tools else 0) + 9 * (phases + tools)
        found = {
            "predictions": FILE + frames * (16 + 4 * (phases + tools)),
            "scores": SCORE,
            "export": frames * row + settings.export.ribbons * RIBBON,
        }
        if SurgicalPreparation(settings, Sheet((), ())).bank(name) is not None:
            found["features"] = _bank_bytes(size, settings, _width(settings.models[name]))
        return {kind: needed / 2**20 for kind, needed in found.items()}

    def weights(self, settings: Settings, name: str, step: Step) -> tuple[int, int]:
        """A temporal model's file holds the backbone, too, which does not learn; nor does a frozen one."""
        model = settings.models[name]
        source = settings.models[model.features] if model.features else model
        if model.kind == "temporal":
            learnt = _head_weights(model, _width(source), len(settings.data.phases))
            # An encoder is not stored.
            return (learnt if model.encoder else step.weights), learnt
        if model.backbone_lr == 0:
            return step.weights, 4 * model.hidden * (_width(model) + model.hidden)
        return step.weights, step.weights

    def case_seconds(self, stage: str, size: VideoInfo, settings: Settings) -> float:
        """Time of decoding a video, of its features by every encoder, or of its tables and its picture."""
        if stage == "encode":
            encoded = [name for name, model in settings.models.items() if model.encoder]
            return sum(self.predict_seconds(settings, name, size, frozen_step(1)) for name in encoded)
        return 5 + size.frames / DECODED_PER_SECOND if stage == "frames" else 10

    def predict_seconds(self, settings: Settings, name: str, size: VideoInfo, step: Step) -> float:
        """Time of reading a video's frames, and of a forward pass of each."""
        model = settings.models[name]
        source = settings.models[model.features] if model.features else model
        if model.encoder is not None:
            frame = forecast.forward_seconds(frozen_step(1), 1) * clip_frames(model.encoder)
        else:
            frame = forecast.forward_seconds(step, source.training.batch * source.window)
        return 5 + _cached_frames(size, settings.cache) * (frame + 1 / DECODED_PER_SECOND)

    def counted(self, settings: Settings, name: str) -> Model | Step:
        """The model with a backbone; for a temporal model, the one that provides its features."""
        model = settings.models[name]
        if model.encoder is not None:
            return frozen_step(model.batch_frames)
        return settings.models[model.features] if model.features else model

    def model_mib(self, stage: str, settings: Settings, name: str, sizes: Sequence[Any], step: Step) -> float:
        """Peak memory of training, testing or computing features, on a CPU, in MiB."""
        model = settings.models[name]
        source = settings.models[model.features] if model.features else model
        if stage != "train":
            return self._predicting_mib(source, step)
        if model.kind == "temporal":
            # The backbone is idle in the model; the temporal network is small compared with the features.
            idle = frozen_bytes(model.frozen_weights) if model.frozen_weights else 8 * step.weights
            kept = 4 * LONG * 8 * prod(_head_sizes(model))
            return ceil(TORCH_MIB + (idle + 3 * 4 * LONG * _width(source) + kept) / 2**20)
        samples = model.training.batch * model.window
        batch = 4 * prod(model.crop) * 3 * samples
        predicting = (step.forward + 2 * step.largest) * model.batch_frames / samples + 2 * 4 * LONG * WIDTH
        learning = max(step.kept + 2 * step.largest + 3 * batch, predicting)
        own = TORCH_MIB + 20 * step.weights / 2**20 + WORKERS * (WORKER_MIB + OPEN_MIB)
        shared = learning + WORKERS * batch
        return ceil(forecast.processes_mib(model.training.gpus, own) + shared / 2**20)

    def _predicting_mib(self, model: Model, step: Step) -> float:
        """Peak memory of the features of a long video, by a model's backbone or encoder."""
        samples = model.batch_frames if model.encoder else model.training.batch * model.window
        weights = frozen_bytes(model.frozen_weights) if model.frozen_weights else 8 * step.weights
        frames = (step.forward + 2 * step.largest) * model.batch_frames / samples
        return ceil(TORCH_MIB + (weights + frames + 2 * 4 * LONG * WIDTH) / 2**20)


def _width(model: Model) -> int:
    """Numbers of a frame's features, of a model's backbone or encoder."""
    if model.encoder is not None:
        return shape_of(model.encoder, model.crop[0]).width
    return WIDTHS.get(model.backbone.plain, WIDTH)


def _bank_bytes(size: VideoInfo, settings: Settings, width: int) -> float:
    return FILE + _cached_frames(size, settings.cache) * (4 * width + 25 + len(settings.data.tools))


def _head_sizes(model: Model) -> tuple[int, int, int]:
    """Channels, layers and stages of a temporal network, with its defaults."""
    given, name = model.head.arguments, model.head.plain
    channels, layers = {"GRU": (128, 2), "DiagonalSSM": (64, 4)}.get(name, (32, 8))
    channels = int(given.get("hidden" if name == "GRU" else "channels", channels))
    stages = 1 if name in ("GRU", "DiagonalSSM") else int(given.get("stages", 2))
    return channels * (1 + (model.mode == "offline")), int(given.get("layers", layers)), stages


def _head_weights(model: Model, width: int, phases: int) -> int:
    """Numbers that a temporal network learns; an estimate, but of TeCNO."""
    channels, layers, stages = _head_sizes(model)
    if model.head.plain == "GRU":
        one = channels // 2 if model.mode == "offline" else channels
        return 3 * channels * (width + one + (layers - 1) * (channels + one))
    if model.head.plain == "DiagonalSSM":
        states = int(model.head.arguments.get("states", 16))
        return channels * (width + layers * (2 * channels + 4 * states))
    own = int(model.head.arguments.get("channels", 32))
    return own * width + stages * (layers * 4 * own**2 + own * phases)


def _cached_frames(size: VideoInfo, cache: Cache) -> int:
    return min(size.frames, round(size.duration_s * cache.fps) + 1) if cache.fps else size.frames
