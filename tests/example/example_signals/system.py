"""The system: its input, preparation, resources, learner and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from example_signals.settings import Cache, Data, Settings
from foldwise import sheet
from foldwise.check import Checked, Findings, check_groups, present_files
from foldwise.experiment.preparation import CaseStage, Preparation
from foldwise.files import CaseError, short_hash
from foldwise.forecast import BASE_MIB, TORCH_MIB, Step
from foldwise.index import Entry
from foldwise.section import values_for
from foldwise.settings import dump, validate
from foldwise.sheet import Sheet
from foldwise.store import Memory
from foldwise.systems.base import NOTHING, Footprint, System
from foldwise.systems.new import NewCases
from foldwise.twins import check_twins

if TYPE_CHECKING:
    from example_signals.learner import SignalLearner
    from example_signals.results import SignalResults

# A file's header, attributes and record. Bytes.
FILE = 10e3


@dataclass(frozen=True)
class Case(sheet.Case):
    """A signal: a .npy file of one dimension, and its class."""

    signal: Path
    label: str

    @property
    def files(self) -> tuple[Path, ...]:
        """Every source file of the case."""
        return (self.signal,)

    @property
    def labelled(self) -> bool:
        """Whether it has a class."""
        return bool(self.label)


class Signals(System[Settings, Case]):
    """One-dimensional signals in, a class out."""

    name = "signals"
    settings = Settings

    @property
    def rules(self) -> Path:
        """The file with the rules that prepare its cases."""
        return Path(__file__).with_name("rules.smk")

    def read_sheet(self, data: Data) -> Sheet[Case]:
        """Columns case, signal and label."""
        table = sheet.read_table(data.sheet, ("signal", "label"))

        def make(cells: Mapping[str, str], base: sheet.Case) -> Case:
            return Case(**asdict(base), signal=data.root / cells["signal"], label=cells.get("label", ""))

        return sheet.read_cases(table, ("signal",), make)

    def check(self, settings: Settings, sheet: Sheet[Case], *, deep: bool, memory: Memory) -> Checked:
        """Find missing files, copies, and unknown classes."""
        found = Findings(sheet)
        present_files(sheet, lambda path: False, found)
        check_twins(sheet.cases, memory, found)
        for case in sheet.cases:
            if case.label and case.label not in settings.data.classes:
                found.add(case, f"label {case.label!r} is not in data.classes")
        if settings.part is None:
            check_groups(sheet.cases, settings.split, found)
        names = [case.name for case in sheet.cases]
        sizes = dict.fromkeys(names, settings.cache.length)
        return Checked(found.problems, found.warnings, sizes, {name: {} for name in names})

    def preparation(self, settings: Settings, sheet: Sheet[Case]) -> SignalPreparation:
        """One stage, from the file to the cache."""
        return SignalPreparation(settings, sheet)

    def task(self, settings: Settings, checked: Checked) -> dict[str, Any]:
        """The classes, and the length of a signal."""
        return _task(settings.data)

    def entries(
        self, data: Data, prepared: Path, caches: Path, *, training: bool = True
    ) -> tuple[dict[str, Any], list[Entry]]:
        """From the sheet alone."""
        cases = [case for case in self.read_sheet(data).cases if case.trains == training]
        return _task(data), [
            _entry(case.name, case.group, case.signal, case.label, str(caches / f"{case.name}.h5"))
            for case in cases
        ]

    @property
    def learner(self) -> type[SignalLearner]:
        """The class that trains and predicts."""
        from example_signals.learner import SignalLearner

        return SignalLearner

    @property
    def footprint(self) -> SignalFootprint:
        """Memory and disk."""
        return SignalFootprint()

    @property
    def results(self) -> SignalResults:
        """Scores and files."""
        from example_signals.results import SignalResults

        return SignalResults()

    def kept(self, settings: Settings, name: str) -> dict[str, Any]:
        """A new signal is resampled like all others."""
        return {"cache": dump(settings.cache)}

    def new_cases(
        self, source: Path, task: Mapping[str, Any] | None = None, prepared: Mapping[str, Any] = NOTHING
    ) -> NewCases:
        """All .npy files of a folder."""
        paths = sorted(source.glob("*.npy")) if source.is_dir() else []
        if not paths:
            raise CaseError(f"{source}: not a folder with .npy files")
        return NewCases.of(source, [_entry(path.stem, path.stem, path, "", "") for path in paths])

    def prepare_new(self, entry: Entry, state: Mapping[str, Any], folder: Path) -> Path:
        """Resample a new signal."""
        from example_signals.prepare import write_cache

        cache = validate(Cache, state["prepared"]["cache"], origin="model")
        path = folder / f"{entry.case}.h5"
        write_cache(entry.case, Path(entry.files["signal"][0]), "", cache, path)
        return path


class SignalPreparation(Preparation[Case]):
    """Caches, in a folder named after the settings that affect them."""

    def __init__(self, settings: Settings, sheet: Sheet[Case]) -> None:
        """Name the folders."""
        super().__init__(sheet)
        made_by = short_hash(values_for(settings, "cache"), 4)
        self.data = f"{settings.results}/data/{settings.data.sheet.stem}"
        self.caches = f"{self.data}/cache-{made_by}"
        caching = CaseStage[Case]("cache", (self.cached,), lambda case: [str(case.signal), case.label])
        self.stages = {"signal_cache": caching}


class SignalFootprint(Footprint[Settings]):
    """Almost nothing; the size of a case is its length."""

    typical = 64

    def case_mib(self, stage: str, size: int, settings: Settings) -> float:
        """The memory of the interpreter."""
        return BASE_MIB

    def disk_mib(self, size: int, settings: Settings) -> dict[str, float]:
        """The cache."""
        return {"signal_cache": (FILE + 4 * size) / 2**20}

    def results_mib(self, size: int, settings: Settings, name: str) -> dict[str, float]:
        """Files of a few numbers."""
        return {"predictions": FILE / 2**20, "scores": 500 / 2**20, "export": 100 / 2**20}

    def model_mib(self, stage: str, settings: Settings, name: str, sizes: Sequence[int], step: Step) -> float:
        """Weights, their gradients and moments, and a batch."""
        return TORCH_MIB + (16 * step.weights + step.kept) / 2**20


def _task(data: Data) -> dict[str, Any]:
    return {"classes": list(data.classes)}


def _entry(case: str, group: str, signal: Path, label: str, cache: str) -> Entry:
    return Entry(
        case, group, {"signal": (str(signal),)}, cache, {"label": label}, 1.0, (label,) if label else ()
    )
