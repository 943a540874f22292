"""What a kind of experiments is: a system. Stages, rules and the front door ask for nothing else of it.

`System` itself is light, since the front door imports it on a login node. What needs torch or reads images
comes with the classes that it names: its `Learner` (training/learner.py) and its `Results`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, get_args

from pydantic import BaseModel

from foldwise.check import Checked
from foldwise.files import CaseError
from foldwise.forecast import Step
from foldwise.index import Entry
from foldwise.settings import Experiment, Model
from foldwise.sheet import AnyCase, Sheet
from foldwise.whole import Whole

if TYPE_CHECKING:
    import pandas as pd

    from foldwise.experiment.preparation import Preparation
    from foldwise.report.view import View
    from foldwise.training.learner import Learner

AnySettings = TypeVar("AnySettings", bound=Experiment)
# What a chain of post-processing and the like was decided to be, as plain values.
Chosen = Mapping[str, Any]
Rows = Iterable[Mapping[str, Any]]
RULES = Path(__file__).parents[2] / "rules"


class System(Whole, Generic[AnySettings, AnyCase], abstract=True):
    """One kind of experiments, from its sheet to its report.

    Attributes:
        name: as an experiment names it (`system:`).
        settings: the class of its settings, with the sections of settings.Experiment narrowed.
    """

    name: ClassVar[str]
    settings: type[AnySettings]

    @property
    def rules(self) -> Path:
        """The file with the rules that prepare its cases."""
        return RULES / f"{self.name}.smk"

    def section(self, name: str) -> type[BaseModel]:
        """The class of a section of its settings, e.g. `evaluate`."""
        kind = self.settings.model_fields[name].annotation
        assert isinstance(kind, type), f"{name} is one section"
        return kind

    @property
    def model(self) -> type[Model]:
        """The class of a model's settings."""
        kind: type[Model] = get_args(self.settings.model_fields["models"].annotation)[1]
        return kind

    # What comes in.

    @abstractmethod
    def read_sheet(self, data: Any) -> Sheet[AnyCase]:
        """Read the sample sheet without touching the files that it names.

        Args:
            data: the section `data`.

        Raises:
            CaseError: no such file, or a column that is missing or not known.
        """

    @abstractmethod
    def check(self, settings: AnySettings, sheet: Sheet[AnyCase], *, deep: bool) -> Checked:
        """Look at every file that the sheet names.

        Args:
            settings: of the experiment.
            sheet: as read.
            deep: also read what takes long, such as all voxels of labels.

        Raises:
            CaseError: files that the settings name are wrong.
        """

    def complete(self, settings: AnySettings, plan: Path | None) -> AnySettings:
        """The settings, completed by a plan if there is one already.

        Args:
            settings: of the experiment.
            plan: file of the plan; None: the experiment plans nothing.
        """
        return settings

    # Preparation.

    @abstractmethod
    def preparation(self, settings: AnySettings, sheet: Sheet[AnyCase]) -> Preparation[AnyCase]:
        """Stages, folders and inputs of cases up to what models learn from; only names are made."""

    @abstractmethod
    def task(self, settings: AnySettings, checked: Checked) -> dict[str, Any]:
        """What is learnt, as plain values; `entries` gives the same."""

    @abstractmethod
    def entries(
        self, data: Any, prepared: Path, caches: Path, *, training: bool = True
    ) -> tuple[dict[str, Any], list[Entry]]:
        """What is learnt, and an entry for each case of the cross-validation, or for each other one.

        Args:
            data: the section `data`.
            prepared: folder of what the index is made from.
            caches: folder of the caches.
            training: which cases.
        """

    def rows_of(self, settings: AnySettings, cases: Sequence[AnyCase]) -> list[Any]:
        """What the index takes from the sheet's rows, as plain values."""
        return [[case.name, case.group, [str(path) for path in case.files]] for case in cases]

    def preparing_models(self, settings: AnySettings) -> Mapping[str, Model]:
        """Those models that have a say in preparation, e.g. whose frozen networks' features are stored."""
        return {}

    def preparation_weights(self, settings: AnySettings) -> Mapping[Path, Callable[[Path], Any]]:
        """Files of weights that preparation needs, each with a module's function that reads it as jobs do."""
        return {}

    # Models.

    @property
    @abstractmethod
    def learner(self) -> type[Learner[Any]]:
        """The class that trains and predicts; importing it imports torch."""

    @property
    @abstractmethod
    def footprint(self) -> Footprint[AnySettings]:
        """What its cases and models take."""

    def tried(self, settings: AnySettings, name: str) -> Model:
        """A model's settings as far as they are known before training; they are tried in every call."""
        return settings.models[name]

    def weights(self, settings: AnySettings, name: str) -> list[Path]:
        """Files of weights that a model starts from; a folder stands for the files in it."""
        pretrained = settings.models[name].pretrained
        return [] if pretrained is None else [pretrained.file]

    @abstractmethod
    def kept(self, settings: AnySettings, name: str) -> dict[str, Any]:
        """The sections that say how a new case is prepared for a model; the model's file keeps them."""

    # What becomes of predictions.

    @property
    @abstractmethod
    def results(self) -> Results:
        """Scores, exported files and the report's view."""

    @abstractmethod
    def new_entries(self, source: Path) -> list[Entry]:
        """New cases, from a sample sheet or a folder; their caches are not made yet.

        Raises:
            CaseError: nothing to predict, or a sheet with faults.
        """

    @abstractmethod
    def prepare_new(self, entry: Entry, state: Mapping[str, Any], folder: Path) -> Path:
        """Make what a model takes of a new case, as the workflow does for others, and return its path.

        Args:
            entry: the case.
            state: what the model's file holds.
            folder: for the files.

        Raises:
            CaseError: the case cannot be used.
        """


class Footprint(Whole, Generic[AnySettings], abstract=True):
    """Memory and disk that a system's jobs take. `size` is what `Checked.sizes` holds of a case.

    Attributes:
        typical: size of a case whose file was not read.
    """

    typical: Any

    @abstractmethod
    def case_mib(self, stage: str, size: Any, settings: AnySettings) -> float:
        """Peak memory of preparing a case, in MiB.

        Args:
            stage: name of the rule.
            size: of the case.
            settings: of the experiment.
        """

    @abstractmethod
    def disk_mib(self, size: Any, settings: AnySettings) -> dict[str, float]:
        """Disk of a case by kind, in MiB."""

    @abstractmethod
    def model_mib(
        self, stage: str, settings: AnySettings, name: str, sizes: Sequence[Any], step: Step
    ) -> float:
        """Peak memory of a model's job on a CPU, in MiB.

        Args:
            stage: train, test, ensemble, predict, or a rule that stores features.
            settings: of the experiment.
            name: of the model.
            sizes: of the cases that it may meet.
            step: what a training step holds.
        """

    def counted(self, settings: AnySettings, name: str) -> Model | None:
        """The model whose training step is counted for a model's memory; None: `guess` says what it holds."""
        return settings.models[name]

    def guess(self, settings: AnySettings, name: str) -> Step:
        """What a training step holds that cannot be counted."""
        raise NotImplementedError


class Results(Whole, abstract=True):
    """What becomes of predictions: choices, scores, exported files, and the view of the report."""

    def chooses(self, evaluate: Any) -> bool:
        """Whether anything is chosen on validation cases before others are scored."""
        return False

    def choose(
        self,
        predictions: Mapping[str, Path],
        entries: Sequence[Entry],
        task: Mapping[str, Any],
        evaluate: Any,
        state: Path,
    ) -> dict[str, Any]:
        """Choose post-processing and the like by the predictions of these cases.

        Args:
            predictions: case → prediction.
            entries: of these cases.
            task: what is learnt.
            evaluate: the section `evaluate`.
            state: folder for what a killed job goes on with.
        """
        return {}

    @abstractmethod
    def score_case(
        self, prediction: Path, entry: Entry, task: Mapping[str, Any], evaluate: Any, chosen: Chosen
    ) -> Rows:
        """Rows of metrics.csv of a case, without `case`, `group` and `fold`; none without a label."""

    @abstractmethod
    def export_case(
        self, prediction: Path, entry: Entry, export: Any, chosen: Chosen, folder: Path
    ) -> Mapping[str, Rows]:
        """Write a case's files for other programs.

        Args:
            prediction: of the case.
            entry: the case.
            export: the section `export`.
            chosen: what `choose` returned.
            folder: where the files go.

        Returns:
            Name of a table (.csv) → its rows of this case.

        Raises:
            CaseError: a file could not be written; those of other cases are, all the same.
        """

    @property
    @abstractmethod
    def view(self) -> View:
        """What the report shows of this system alone."""

    def score(
        self,
        predictions: Mapping[str, Path],
        entries: Sequence[Entry],
        fold: int | str,
        task: Mapping[str, Any],
        evaluate: Any,
        chosen: Chosen,
    ) -> pd.DataFrame:
        """Scores of the predictions: rows by case, and by class or the like.

        Args:
            predictions: case → prediction.
            entries: the cases.
            fold: for the column `fold`.
            task: what is learnt.
            evaluate: the section `evaluate`.
            chosen: what `choose` returned.
        """
        import pandas as pd

        rows = []
        for entry in entries:
            keys = {"case": entry.case, "group": entry.group, "fold": fold}
            scored = self.score_case(predictions[entry.case], entry, task, evaluate, chosen)
            rows += [{**keys, **row} for row in scored]
        return pd.DataFrame(rows)

    def export(
        self,
        predictions: Mapping[str, Path],
        entries: Sequence[Entry],
        export: Any,
        chosen: Chosen,
        folder: Path,
    ) -> None:
        """Write all cases' files, and the tables of all cases.

        Raises:
            CaseError: files of some cases could not be written; everything else was.
        """
        import pandas as pd

        tables: dict[str, list[Mapping[str, Any]]] = {}
        problems = []
        for entry in entries:
            try:
                made = self.export_case(predictions[entry.case], entry, export, chosen, folder)
            except CaseError as error:
                problems.append(f"case {entry.case}: {error}")
                continue
            for name, rows in made.items():
                tables.setdefault(name, []).extend(rows)
        for name, listed in tables.items():
            pd.DataFrame(listed).to_csv(folder / name, index=False)
        if problems:
            raise CaseError("\n  ".join(problems))
