"""Common parts of volume systems: the sheet, its check, lungs, crops and caches, and new scans."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, prod
from pathlib import Path
from typing import Any, Generic, TypeVar

from foldwise.check import Checked
from foldwise.experiment.preparation import CaseStage, Inputs, Preparation
from foldwise.files import CaseError, read_json, short_hash, write_json
from foldwise.forecast import BASE_MIB
from foldwise.index import Entry
from foldwise.section import values_for
from foldwise.settings import dump
from foldwise.sheet import Sheet
from foldwise.store import Memory
from foldwise.systems.base import NOTHING, REMARKS, Footprint, System
from foldwise.systems.new import NewCases
from foldwise.volumes import space
from foldwise.volumes.new_scans import is_sheet, read_new_scans, refuse_channels
from foldwise.volumes.remarks import LUNG_FACTS, remarks_in
from foldwise.volumes.settings import Cache, Data, Prepare, VolumeExperiment
from foldwise.volumes.sheet import Case, read_sheet
from foldwise.volumes.size import Size

AnyVolumeSettings = TypeVar("AnyVolumeSettings", bound=VolumeExperiment)

# Folder in which the demo generates its files.
PHANTOMS = Path("results/phantom")
# Bytes per source voxel at a stage's peak, without the base (counted from the code, and measured).
LUNG_BYTES = 14
CROP_BYTES = 20
CACHE_BYTES = 22
SCORED_BYTES = 20
# Seconds per million source voxels on a slow node (measured on a fast one, doubled).
SECONDS = {"lung_mask": 0.3, "crop": 0.2, "cache": 0.2, "check": 0.06, "score": 0.1, "export": 0.05}
# The same of a label map, for each class.
CLASS_SECONDS = 0.1
# The same for a label in the check, in each of its threads.
CHECK_BYTES = 18
# Share of a scan that a crop keeps: of a chest CT, or of an MR without its skull.
KEPT = {"lungs": 0.5, "region": 0.65, "nonzero": 0.5}
# A grid of more voxels is a mistake in units or settings: the largest micro-CTs have 10¹⁰.
MOST_VOXELS = 4e10


class VolumeSystem(System[AnyVolumeSettings, Case], abstract=True):
    """A system whose cases are volumes, prepared by the stages lung_mask, crop and cache."""

    def read_sheet(self, data: Data) -> Sheet[Case]:
        """Read the sheet without touching the files that it names."""
        return read_sheet(data)

    def check(
        self, settings: AnyVolumeSettings, sheet: Sheet[Case], *, deep: bool, memory: Memory
    ) -> Checked:
        """Check headers, grids and patients; `deep` also reads the labels' voxels."""
        # Not imported by the Snakemake of a job, which reads no scan.
        from foldwise.volumes.check import check_volumes

        checked = check_volumes(
            sheet,
            settings.data,
            None if settings.part else settings.split,
            labels=deep,
            memory=memory,
            # When all files can be read, the demo has generated its own.
            produced=(lambda path: False) if deep else is_phantom,
            needs_weight=self.needs_weight(settings),
            writes_seg=self.writes_seg(settings),
            cache=settings.cache,
        )
        problems = [*checked.problems, *_too_large(checked, sheet, settings.cache)]
        if not deep and settings.predict is not None and self.writes_seg(settings):
            problems += self._unreferable(settings.predict.source, memory)
        return replace(checked, problems=tuple(problems))

    def needs_weight(self, settings: AnyVolumeSettings) -> str | None:
        """Why every training case must have a weight map, or None."""
        return None

    def writes_seg(self, settings: AnyVolumeSettings) -> bool:
        """Whether predictions are also written as DICOM Segmentations, which refer to their series."""
        return False

    def _unreferable(self, source: Path, memory: Memory) -> list[str]:
        """New scans to which the requested segmentation cannot refer."""
        try:
            entries = self.new_cases(source).entries
        except CaseError:
            return []  # every call refuses these later
        from foldwise.volumes.check import no_seg

        return no_seg({entry.case: Path(entry.files["images"][0]) for entry in entries}, memory)

    def preparation(self, settings: AnyVolumeSettings, sheet: Sheet[Case]) -> VolumePreparation:
        """Lungs, crops and caches."""
        return VolumePreparation(settings, sheet)

    def task(self, settings: AnyVolumeSettings, checked: Checked) -> dict[str, Any]:
        """The targets, and the images' channels."""
        size: Size = next(iter(checked.sizes.values()), self.footprint.typical)
        return {"targets": settings.data.targets().as_dict(), "channels": size.channels}

    def entries(
        self, data: Data, prepared: Path, caches: Path, *, training: bool = True
    ) -> tuple[dict[str, Any], list[Entry]]:
        """What is learnt, and the entries, from the facts of the crops.

        Raises:
            CaseError: no label of the training cases has a voxel of a class.
        """
        from foldwise.volumes.labels import absent_classes

        cases = [case for case in read_sheet(data).cases if case.trains == training]
        facts = {case.name: read_json(prepared / case.name / "crop.json") for case in cases}
        channels = next(iter(facts.values()))["channels"] if facts else 1
        targets = data.targets()
        entries = [_entry(case, facts[case.name], caches) for case in cases]
        if training:
            for text in absent_classes({entry.case: entry.classes for entry in entries}, targets):
                logging.warning(text)
        return {"targets": targets.as_dict(), "channels": channels}, entries

    def kept(self, settings: AnyVolumeSettings, name: str) -> dict[str, Any]:
        """Crop and cache."""
        cache = dump(settings.cache, given=plan_of(settings) is not None)
        return {"prepare": dump(settings.prepare), "cache": cache}

    def new_cases(
        self, source: Path, task: Mapping[str, Any] | None = None, prepared: Mapping[str, Any] = NOTHING
    ) -> NewCases:
        """Scans to predict, with their masks if the training cases have some.

        Outside of a sheet, the files of a case must be the models' channels.
        """
        region = prepared.get("prepare", {}).get("region")
        found = read_new_scans(source, region["column"] if region else None)
        if task is not None and not is_sheet(source):
            refuse_channels(found.cases, task["channels"])
        entries = []
        for case in found.cases:
            files = {"images": tuple(map(str, case.images))}
            if case.region is not None:
                files["region"] = (str(case.region),)
            entries.append(Entry(case.name, case.group, files, "", {}, 0))
        return NewCases(entries, found.lines())

    def prepare_new(self, entry: Entry, state: Mapping[str, Any], folder: Path) -> Path:
        """Write a new scan's cache."""
        from foldwise.volumes.prepare import prepare_scan

        path = prepare_scan(entry, state, folder)
        if remarks := remarks_in(folder / LUNG_FACTS):
            write_json(folder / REMARKS, remarks)
        return path


class VolumePreparation(Preparation[Case]):
    """Lungs, crops and caches, keyed by their settings.

    Attributes:
        lungs: folder of lung masks.
        crops: folder of cropped cases.
    """

    def __init__(self, settings: VolumeExperiment, sheet: Sheet[Case]) -> None:
        """Name the folders."""
        super().__init__(sheet)
        self._prepare = settings.prepare
        plan = plan_of(settings)
        lungs, ignore = values_for(settings, "lungs"), settings.data.targets().ignore
        if ignore is not None:
            lungs["ignore"] = ignore
        cropping = values_for(settings, "crop")
        if settings.prepare.region is None:
            del cropping["prepare"]["region"]  # so that folders keep the names of earlier versions
        crop = [lungs, cropping]
        cache = [crop, values_for(settings, "cache", given=plan is not None)]
        if plan is not None:
            # A plan's values are known only later, and each experiment has its own plan.
            cache += [settings.experiment, plan]
            self.plan = f"{settings.results}/{settings.experiment}/plan.yaml"
        self.data = f"{settings.results}/data/{settings.data.sheet.stem}-{short_hash(lungs)}"
        self.lungs = f"{self.data}/lungs"
        self.crops = f"{self.data}/crop-{short_hash(crop, 4)}"
        self.caches = f"{self.data}/cache-{short_hash(cache, 4)}"
        files = ("mask.nii.gz", "region.nii.gz")
        masks = (f"{self.lungs}/{{case}}.json", *(f"{self.lungs}/{{case}}.{name}" for name in files))

        def masked(case: Case) -> Inputs | list[Any]:
            return _sources(case) if ignore is None else [_sources(case), ignore]

        masking = {"lung_mask": CaseStage[Case]("lungs", masks, masked)} if self._prepare.lung_mask else {}
        self.stages = {
            **masking,
            "crop": CaseStage("crop", (self.indexed,), _sources),
            "cache": CaseStage("cache", (self.cached,)),
        }

    @property
    def indexed(self) -> str:
        """The crops, whose facts the index holds."""
        return f"{self.crops}/{{case}}"

    @property
    def noticed(self) -> str | None:
        """Findings on the cases' lungs."""
        return None if self._prepare.lung_mask is None else f"{self.lungs}/{{case}}.json"

    def sources(self, name: str) -> Inputs:
        """A case's source files as named inputs of a rule."""
        return _sources(self.cases[name])

    def crop_inputs(self, name: str) -> Inputs:
        """Inputs of a case's crop: its sources, and the masks that were found."""
        inputs = self.sources(name)
        if self._prepare.lung_mask is not None:
            inputs["region"] = f"{self.lungs}/{name}.region.nii.gz"
        if self._prepare.crop.to == "lungs":
            inputs["lungs"] = f"{self.lungs}/{name}.mask.nii.gz"
        return inputs

    @property
    def region_given(self) -> dict[str, Any]:
        """How the crop uses the sheet's masks: arguments of its stage."""
        region = self._prepare.region
        return {} if region is None else {"values": region.values, "max_missed": region.max_missed}


class VolumeFootprint(Footprint[AnyVolumeSettings], Generic[AnyVolumeSettings], abstract=True):
    """Memory and disk of volumes, from headers and settings alone."""

    # For headers that do not exist yet (the demo's) or are not readable: values of a clinical chest CT.
    typical = Size(shape=(512, 512, 300), spacing=(0.8, 0.8, 1), channels=1, labelled=True)

    def case_mib(self, stage: str, size: Size, settings: AnyVolumeSettings) -> float:
        """Peak memory of lung_mask, crop or cache."""
        bytes_per_voxel = {
            "lung_mask": LUNG_BYTES,
            "crop": CROP_BYTES + 4 * (size.channels - 1),
            "cache": CACHE_BYTES + 8 * (size.channels - 1),
        }[stage]
        needed = BASE_MIB + bytes_per_voxel * size.voxels / 2**20
        if stage == "cache":
            needed += 12 * cached_voxels(size, settings.cache) / 2**20
        return ceil(needed)

    def case_seconds(self, stage: str, size: Size, settings: AnyVolumeSettings) -> float:
        """Time by the number of voxels, and in scores and exports of classes."""
        each = SECONDS[stage]
        if stage in ("score", "export"):
            each += CLASS_SECONDS * len(settings.data.targets().names)
        voxels: float = size.voxels
        if stage == "cache":
            voxels += cached_voxels(size, settings.cache)
        return 2 + each * voxels * size.channels / 1e6

    def scored_mib(self, sizes: Sequence[Size], settings: AnyVolumeSettings) -> float:
        """Peak memory of a prediction and its truth on the source's grid."""
        source = max((size.voxels for size in sizes), default=0)
        return ceil(BASE_MIB + SCORED_BYTES * source / 2**20)

    def check_mib(self, sizes: Sequence[Size]) -> float:
        """Peak memory of the labels that the check reads at once."""
        from foldwise.volumes.check import LABEL_THREADS

        voxels = sorted((size.voxels for size in sizes if size.labelled), reverse=True)
        return ceil(CHECK_BYTES * sum(voxels[:LABEL_THREADS]) / 2**20)

    def disk_mib(self, size: Size, settings: AnyVolumeSettings) -> dict[str, float]:
        """Disk space of masks, crop and cache; how much a crop leaves is known only afterwards."""
        prepare, cache = settings.prepare, settings.cache
        classes = len(settings.data.targets().classes)
        cropped = size.voxels * crop_share(prepare)
        cached = kept_voxels(size, settings)
        image = space.STORED[size.voxel_bytes] * size.channels
        region = prepare.lung_mask is not None or prepare.region is not None
        # Label, region and mask of what is replaced outside.
        masks = [size.labelled * space.detail_of(classes), (size.labelled and region) * space.BODY]
        masks.append((prepare.crop.outside != "keep") * space.BODY)
        crop = space.FOLDER + sum(space.mask_bytes(cropped, detail) for detail in masks if detail)
        if settings.keep_crops:
            crop += space.GZIP * image * cropped
        drawn = 6 * min(cache.max_foreground, 0.01 * cached) * classes * size.labelled
        stored = space.FILE + image * cached + drawn
        stored += sum(space.mask_bytes(cached, detail, space.EMPTY_HDF5) for detail in masks[:2] if detail)
        lungs = {"lung_mask": 2 * space.mask_bytes(size.voxels, space.BODY)} if prepare.lung_mask else {}
        found = {**lungs, "crop": crop, "cache": stored}
        return {stage: needed / 2**20 for stage, needed in found.items()}


def crop_share(prepare: Prepare) -> float:
    """The share of a scan that its crop usually keeps: a chest in its table's circle, a head without air."""
    return 1.0 if prepare.crop.to == "none" else KEPT[prepare.crop.to]


def kept_voxels(size: Size, settings: VolumeExperiment) -> float:
    """Voxels of the cached grid that are usually left by the crop."""
    share = 1.0 if settings.cache.shape is not None else crop_share(settings.prepare)
    return share * cached_voxels(size, settings.cache)


def cached_voxels(size: Size, cache: Cache) -> float:
    """Voxels of the cached grid, if nothing were cropped."""
    return prod(cached_grid(size, cache))


def cached_grid(size: Size, cache: Cache) -> tuple[float, ...]:
    """The same along each axis."""
    if cache.shape is not None:
        return cache.shape
    if cache.spacing is None:
        return size.shape
    return tuple(n * old / new for n, old, new in zip(size.shape, size.spacing, cache.spacing, strict=True))


def _too_large(checked: Checked, sheet: Sheet[Case], cache: Cache) -> list[str]:
    """A line for each case with a grid that no memory holds."""
    sizes = [(case, checked.sizes[case.name]) for case in sheet.cases if case.name in checked.sizes]
    return [
        f"line {case.line}: case {case.name}: its grid has {voxels:.2g} voxels in the cache; more than "
        f"{MOST_VOXELS:.0g} are a mistake: check its voxel size, cache.spacing and cache.shape"
        for case, size in sizes
        if (voxels := max(size.voxels, cached_voxels(size, cache))) > MOST_VOXELS
    ]


def is_phantom(path: Path) -> bool:
    """Whether the demo generates a file itself."""
    return PHANTOMS in path.parents


def plan_of(settings: VolumeExperiment) -> dict[str, Any] | None:
    """The section that asks for a plan, as plain values, if the system has one."""
    plan: dict[str, Any] | None = dump(getattr(settings, "plan", None))
    return plan


def _sources(case: Case) -> Inputs:
    sources: Inputs = {"images": [str(path) for path in case.images]}
    if case.label is not None:
        sources["label"] = str(case.label)
    if case.weight is not None:
        sources["weight"] = str(case.weight)
    if case.region is not None:
        sources["region"] = str(case.region)
    return sources


def _entry(case: Case, facts: dict[str, Any], caches: Path) -> Entry:
    files = {"images": tuple(str(path) for path in case.images)}
    if case.label is not None:
        files["label"] = (str(case.label),)
    volumes = facts.get("foreground_ml", {})
    present = tuple(name for name, volume in volumes.items() if volume > 0)
    return Entry(
        case=case.name,
        group=case.group,
        files=files,
        cache=str(caches / f"{case.name}.h5"),
        facts={"foreground_ml": volumes},
        amount=sum(volumes.values()),
        classes=present or ("empty",),
        recording=facts.get("recording", ""),
    )
