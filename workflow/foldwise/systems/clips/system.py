"""Classification of ultrasound clips: one of the systems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldwise.check import Checked, Findings, check_folds
from foldwise.files import write_json
from foldwise.index import Entry
from foldwise.settings import dump, validate
from foldwise.sheet import Sheet
from foldwise.store import Memory
from foldwise.systems.base import NOTHING, REMARKS
from foldwise.systems.clips.check import check_classes, check_prompt, check_weights
from foldwise.systems.clips.footprint import ClipsFootprint
from foldwise.systems.clips.preparation import ClipPreparation
from foldwise.systems.clips.settings import Cache, Data, Model, Prepare, Settings
from foldwise.systems.clips.sheet import ClipCase, class_names, class_sentences, read_new_cases, read_sheet
from foldwise.systems.new import NewCases
from foldwise.systems.videos import Looked, VideoSystem
from foldwise.video.damage import left_out
from foldwise.video.decode import VideoInfo, probed
from foldwise.video.images import rates_of

if TYPE_CHECKING:
    from foldwise.systems.clips.learner import ClipsLearner
    from foldwise.systems.clips.results import ClipsResults


class Clips(VideoSystem[Settings, ClipCase]):
    """Clips, the regions that a network looks at, and frozen encoders."""

    name = "clips"
    # Frozen weights, and those of the network that finds regions.
    beside = ("settings.network.weights", "settings.encoder.weights", "prepared.prepare.regions.weights")
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
        frozen = settings.models[name].frozen_weights
        return super().weights(settings, name) + ([frozen] if frozen else [])

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

    def encode(self, source: Path, model: Model, path: Path) -> None:
        """Store tokens of training clips and of testing views."""
        from foldwise.systems.clips.encoding import make_vision, with_normalisation
        from foldwise.systems.clips.features import write_features

        model = with_normalisation(model)
        write_features(source, model, make_vision(model), path)

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
